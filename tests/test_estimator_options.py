"""Options of estimators stand once, and yet whole where people and scikit-learn look for them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.base import clone

import dem
from dem.estimators.options import POSITIVE, option

ROOT = Path(__file__).parent.parent
ESTIMATORS = (dem.GaussianMixture, dem.BernoulliMixture, dem.BinomialMixture, dem.KMeans)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_each_option_is_in_the_signature_has_constraints_and_is_documented_once(kind):
    names = list(inspect.signature(kind).parameters)
    assert set(names) == set(kind().get_params()) == set(kind._parameter_constraints)
    text = inspect.getdoc(kind)
    said = text[text.index("Parameters\n---") : text.index("Attributes\n---")]
    heads = [name for line in re.findall(r"^(\w.*?) : ", said, re.MULTILINE) for name in line.split(", ")]
    assert sorted(heads) == sorted(names)
    assert heads[0] == names[0]  # what is given by position
    assert len(re.findall(r"^Attributes$", text, re.MULTILINE)) == 1


def test_options_by_position_and_by_name():
    assert dem.BinomialMixture(3, 10).get_params()["n_trials"] == 10
    assert clone(dem.KMeans(3, tol=0.5)).get_params()["tol"] == 0.5
    with pytest.raises(TypeError, match="positional"):
        dem.GaussianMixture(3, "full")
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_clusters'"):
        dem.GaussianMixture(n_clusters=3)


def test_what_a_class_says_of_an_option_itself_stands_in_place_of_what_its_base_says():
    assert "−inertia" in dem.KMeans.__doc__
    assert "As in scikit-learn." in dem.GaussianMixture.__doc__
    assert "Whether to print" not in dem.GaussianMixture.__doc__


def test_a_bernoulli_mixture_is_no_parent_of_the_binomial_one():
    assert not issubclass(dem.BinomialMixture, dem.BernoulliMixture)


@pytest.mark.slow
def test_type_checkers_know_the_options(tmp_path):
    """Right calls pass, wrong names, types and positions do not."""
    pytest.importorskip("mypy")
    script = tmp_path / "calls.py"
    script.write_text(
        "import dem\n"
        "dem.GaussianMixture(3, tol=1e-3)\n"
        "dem.BinomialMixture(2, 10, fit_weights=False)\n"
        "dem.GaussianMixture(3, 4)\n"
        "dem.GaussianMixture(tol='much')\n"
        "dem.KMeans(n_components=3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(script)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert re.findall(r"calls.py:(\d+): error: .*\[(.*)\]", said) == [
        ("4", "call-arg"),
        ("5", "arg-type"),
        ("6", "call-arg"),
    ]


def test_a_subclass_keeps_the_init_that_it_inherits_and_may_annotate_what_is_no_option():
    class Shaded(dem.GaussianMixture):
        def __init__(self, shade=3, *, random_state=None):
            super().__init__(2, random_state=random_state)
            self.shade = shade

    class Deeper(Shaded):
        seen: list
        colour: str = "red"

    class WithOption(dem.GaussianMixture):
        colour: str = "red"
        width: int = option(POSITIVE, default=4)

    deeper = Deeper(5)
    assert (deeper.shade, deeper.n_components, deeper.colour) == (5, 2, "red")
    assert clone(deeper).get_params() == {"shade": 5, "random_state": None}
    assert WithOption(3, width=2).get_params()["width"] == 2
    assert "colour" not in WithOption().get_params()
    with pytest.raises(TypeError, match="colour"):
        WithOption(colour="blue")
