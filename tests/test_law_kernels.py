"""Laws of the arithmetic of an E-step, for every kind of component: any weights, any number of kernels at once."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import numbers
from cases import CASES, NARROW, chunk_of

KINDS = pytest.mark.parametrize("case", [*CASES, *NARROW], ids=str)


def problem(case):
    """Return a component, parameters and rows."""
    rows = case.data()
    component = case.family(rows).component
    labels = np.random.default_rng(1).choice(3, size=len(rows), p=case.truth["weights_"] / case.truth["weights_"].sum())
    return component, component.start(np.asarray(rows, dtype=np.float64), np.eye(3)[labels]), rows


def statistics_of(kernel, rows, weights):
    kernel.block(chunk_of(rows)).accumulate(weights.copy())
    return numbers(kernel.statistics())


@KINDS
def test_statistics_are_linear_in_the_weights(case):
    """Weights are responsibilities times how much a row counts: they sum to anything, also to 0."""
    component, parameters, rows = problem(case)
    rng = np.random.default_rng(3)
    first, second = rng.exponential(size=(2, case.size, len(rows)))
    first[:, :100] = 0.0
    one, other, both = (
        statistics_of(component.kernel(parameters, rows.dtype), rows, weights)
        for weights in (first, second, first + 2.0 * second)
    )
    np.testing.assert_allclose(both, one + 2.0 * other, rtol=0, atol=1e-12 * np.abs(both).max())
    only = np.zeros(len(rows))
    only[:100] = 1.0
    part = statistics_of(component.kernel(parameters, rows.dtype), rows, second * only)
    fewer = statistics_of(component.kernel(parameters, rows.dtype), rows[:100], second[:, :100])
    np.testing.assert_allclose(part, fewer, rtol=0, atol=1e-12 * np.abs(fewer).max())


@KINDS
def test_rows_may_count_several_times(case):
    """A row with the weight 3 is three rows."""
    component, parameters, rows = problem(case)
    rng = np.random.default_rng(5)
    weights = rng.dirichlet(np.ones(case.size), size=len(rows)).T
    times = rng.integers(0, 4, size=len(rows))
    ours = statistics_of(component.kernel(parameters, rows.dtype), rows, weights * times)
    repeated = statistics_of(
        component.kernel(parameters, rows.dtype), rows.repeat(times, axis=0), weights.repeat(times, axis=1)
    )
    np.testing.assert_allclose(ours, repeated, rtol=0, atol=1e-12 * np.abs(repeated).max())


@KINDS
def test_kernels_side_by_side_do_not_meet(case):
    component, parameters, rows = problem(case)
    weights = np.random.default_rng(3).dirichlet(np.ones(case.size), size=1000).T.copy()
    parts = [chunk_of(rows[start : start + 1000]) for start in (0, 1000, 2000)]

    def kernels():
        return [component.kernel(parameters, rows.dtype) for _ in parts]

    alone, densities = [], []
    for kernel, part in zip(kernels(), parts, strict=True):
        block = kernel.block(part)
        densities.append(block.log_density().copy())
        block.accumulate(weights.copy())
        alone.append(numbers(kernel.statistics()))
    together = kernels()
    blocks = [kernel.block(part) for kernel, part in zip(together, parts, strict=True)]
    found = [block.log_density() for block in blocks]
    for mine, expected in zip(found, densities, strict=True):
        np.testing.assert_array_equal(mine, expected)
    for block in blocks:
        block.accumulate(weights.copy())
    for kernel, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(numbers(kernel.statistics()), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_start_takes_any_weights(case):
    """A row that counts twice is two rows."""
    component, _, rows = problem(case)
    rows = np.asarray(rows, dtype=np.float64)
    responsibilities = np.random.default_rng(4).dirichlet(np.ones(3), size=len(rows))
    counts = 1 + np.arange(len(rows)) % 3
    repeated = component.start(rows.repeat(counts, axis=0), responsibilities.repeat(counts, axis=0))
    weighted = component.start(rows, responsibilities * counts[:, np.newaxis])
    for name, expected in component.to_user(repeated).items():
        atol = 1e-10 * np.abs(expected).max()
        np.testing.assert_allclose(component.to_user(weighted)[name], expected, rtol=0, atol=atol, err_msg=name)
