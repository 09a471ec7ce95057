"""The registry tells the truth of every model, and all that knows models reads it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.utils._param_validation import StrOptions

import dem
from dem.cli import dem as command
from dem.cli.model_options import _OPTIONS
from dem.estimators import mixture
from dem.estimators.registry import ESTIMATORS, MIXTURE_STARTS, entry_of, name_of
from dem.families.gaussian import COVARIANCE_TYPES
from dem.initialise import SAMPLE_METHODS

ENTRIES = pytest.mark.parametrize(("name", "entry"), ESTIMATORS.items(), ids=list(ESTIMATORS))


@ENTRIES
def test_an_entry_tells_the_truth(name, entry):
    estimator = entry.load()()
    assert getattr(dem, entry.class_name) is entry.load()
    assert entry.class_name in dem.__all__
    assert (name_of(estimator), entry_of(estimator)) == (name, entry)
    parameters = estimator.get_params()
    assert {entry.size, entry.start, *(option.parameter for option in entry.options)} <= parameters.keys()
    assert hasattr(estimator, "predict_proba") == hasattr(estimator, "bic") == entry.is_mixture
    starts = next(one for one in estimator._parameter_constraints[entry.start] if isinstance(one, StrOptions))
    assert set(entry.starts) == starts.options
    for option in entry.options:
        if isinstance(option.values, tuple):
            words = estimator._parameter_constraints[option.parameter][0]
            assert set(option.values) == words.options


def test_the_shell_offers_what_the_library_has():
    assert set(MIXTURE_STARTS) == {*SAMPLE_METHODS, "k-means||"}
    assert set(ESTIMATORS["gaussian"].options[0].values) == set(COVARIANCE_TYPES)
    assert set(_OPTIONS["algorithm"].values.choices) == {*mixture.ALGORITHMS, "auto"}
    assert _OPTIONS.keys() <= dem.BernoulliMixture().get_params().keys()
    text = CliRunner().invoke(command, ["fit", "--help"]).output
    for option in (option for entry in ESTIMATORS.values() for option in entry.options):
        assert option.flag in text


def test_a_class_derived_from_an_estimator_is_that_model(tmp_path):
    class Mine(dem.KMeans):
        """A user's own."""

    assert name_of(Mine()) == "kmeans"
    Mine(2, random_state=0).fit(np.random.default_rng(0).normal(size=(50, 2))).save(str(tmp_path / "model.zarr"))
    assert type(dem.load(str(tmp_path / "model.zarr"))) is dem.KMeans


def test_the_registry_is_a_leaf():
    script = "import sys; import dem.estimators.registry; print(*sorted(n for n in sys.modules if n.startswith('dem')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["dem", "dem.estimators", "dem.estimators.registry"]


def test_no_other_module_names_a_family():
    """But for the demonstration, which shows one of them; ``'kmeans'`` is a way to start too, scikit-learn's."""
    quoted = [f"[\"']{name}[\"']" for name, entry in ESTIMATORS.items() if entry.is_mixture]
    classes = [entry.class_name for entry in ESTIMATORS.values()]
    classes[classes.index("Mixture")] = r"dem\.Mixture"  # what all of them fit has that name too
    names = "|".join([*quoted, *(rf"(?<!import ){name}\b(?!\(n_cl)" for name in classes)])
    root = Path(dem.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[0] not in ("families", "estimators", "demo"):
            code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
            found += [f"{path.relative_to(root)}: {match}" for match in re.findall(names, code)]
    assert found == []


def test_the_page_of_models_has_them_all():
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text()
    table = re.findall(r"^\| `(\w+)` \| `dem\.(\w+)` \|", page, re.MULTILINE)
    assert dict(table) == {name: entry.class_name for name, entry in ESTIMATORS.items()}
