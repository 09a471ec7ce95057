"""Parameters with the frame that they are in, as named arrays; `to_user` and `from_user` do not keep the bits."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import numbers
from cases import CASES, chunk_of, gaussian_rows

from dem import store
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters
from dem.tree import flatten, unflatten


def fitted(case, rows, top_components):
    """Return a family in the frame of some rows, and parameters one step from a start."""
    family = case.family(rows, top_components=top_components)
    responsibilities = np.random.default_rng(1).dirichlet(np.ones(3), size=len(rows))
    parameters = family.truncated(family.start(np.asarray(rows, dtype=np.float64), responsibilities))
    return family, family.m_step(family.e_step(parameters, chunk_of(rows)), parameters)


@pytest.mark.parametrize("top_components", [None, 2], ids=["all components", "candidates"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_and_their_frame_come_back_with_the_same_bits(tmp_path, case, top_components):
    rows = case.data()
    family, parameters = fitted(case, rows, top_components)
    like = fitted(case, rows[1000:], top_components)
    assert_come_back((family, parameters), like, rows, str(tmp_path / "raw.zarr"))


def test_centres_and_their_frame_come_back_with_the_same_bits(tmp_path):
    rows = gaussian_rows()
    family, like = (Clusters(Frame.of(some, isotropic=True)) for some in (rows, rows[:10]))
    assert_come_back((family, rows[:4] / 3.0), (like, rows[4:8]), rows, str(tmp_path / "raw.zarr"))


def assert_come_back(model, like, rows, path):
    arrays = flatten(model)
    store.write(path, arrays, {}, overwrite=False)
    again = unflatten(like, store.read(path)[0])
    for name, array in flatten(again).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name, strict=True)
    expected, found = (family.e_step(parameters, chunk_of(rows)) for family, parameters in (model, again))
    np.testing.assert_array_equal(numbers(found), numbers(expected), strict=True)
