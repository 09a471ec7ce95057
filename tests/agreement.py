"""How results are compared: relative to their size, or bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.em.algorithm import Plan
from dem.em.e_step import Blocks
from dem.tree import flatten

_WHY = "takes what has predict_proba for a classifier, once a fit of sparse rows comes to its end"
#: checks of scikit-learn that mixtures fail, and why
OF_CLASSIFIERS = {f"check_estimator_sparse_{kind}": _WHY for kind in ("array", "matrix")}


def assert_close(ours: Any, theirs: Any, names: tuple[str, ...], rtol: float = 1e-10) -> None:
    """Compare fitted attributes relative to the largest entry of each."""
    for name in names:
        mine, other = np.asarray(getattr(ours, name)), np.asarray(getattr(theirs, name))
        assert mine.shape == other.shape, name
        np.testing.assert_allclose(mine, other, rtol=0, atol=rtol * np.abs(other).max(), err_msg=name)


def assert_same_bits(ours: Any, theirs: Any, names: tuple[str, ...]) -> None:
    """Compare fitted attributes bit for bit."""
    for name in names:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def numbers(tree):
    """Return all numbers of a tree of arrays, one after another."""
    return np.concatenate([np.ravel(array) for array in flatten(tree).values()])


def sweep_models(engine, rows, models):
    """Return the statistics of each (model, parameters), all from one read."""
    points = {number: parameters for number, (_, parameters) in enumerate(models)}
    (visit,) = Blocks.of(rows, engine, None).visit(Plan([0], 1), [model for model, _ in models], lambda: points)
    return [visit.statistics[number] for number in points]
