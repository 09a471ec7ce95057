"""Importing dem loads nothing heavy; names come on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("numpy", "scipy", "sklearn", "dask", "distributed", "zarr", "xarray", "pandas", "matplotlib", "rich")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(output.stdout.split())


def test_import_is_light():
    assert not loaded_by("import dem; dem.__version__; dir(dem)").intersection(HEAVY)


def test_a_local_fit_needs_no_cluster_and_no_optional_package():
    loaded = loaded_by("import dem, numpy as np\ndem.GaussianMixture(2, random_state=0).fit(np.random.rand(50, 2))")
    assert not loaded.intersection({"distributed", "xarray", "matplotlib"})


@pytest.mark.slow
def test_a_worker_needs_no_scikit_learn():
    code = (
        "import dem.engine.base, dem.em.loop, dem.em.predict, dem.families.gaussian, dem.families.binomial\n"
        "import dem.initialise.sample, dem.data.zarr"
    )
    assert "sklearn" not in loaded_by(code)


@pytest.mark.slow
def test_plots_need_no_import_of_their_own():
    assert "matplotlib" not in loaded_by("import dem; dem.plot.convergence")


def test_unknown_names():
    import pytest

    import dem

    with pytest.raises(AttributeError, match="no attribute 'GausianMixture'"):
        dem.GausianMixture  # noqa: B018
