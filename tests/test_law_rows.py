"""Laws of weights and labels: on every family, algorithm and engine."""

from __future__ import annotations

import numpy as np
import pytest
from agreement import assert_same_bits
from cases import CASES, FAMILIES
from sources import CutRows

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

EDGES = [0, 700, 1500, 2100]
ALGORITHMS = [
    "batch",
    pytest.param("incremental", marks=pytest.mark.slow),
    pytest.param("stepwise", marks=pytest.mark.slow),
    pytest.param("auto", marks=pytest.mark.thorough),
]


def known(case, rows):
    """Return labels that differ between the components, from a fit, but not those of the fit alone."""
    labels = case.estimator(max_iter=5).fit(rows).predict(rows) % case.size  # that of a background is −1
    labels[::7] = np.arange(len(labels[::7])) % case.size
    return labels


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_labels_of_all_rows_make_fits_of_one_component_each(case, algorithm):
    rows = case.data()
    labels = known(case, rows)
    options = {"tol": 1e-9, "max_iter": 300, **case.learnt}
    ours = case.estimator(algorithm=algorithm, **options).fit(CutRows(rows, EDGES), labels=labels)
    weights = case.weights({"weights": ours.weights_, "noise_weight": getattr(ours, "noise_weight_", None)})
    np.testing.assert_allclose(weights, case.weights_of(np.bincount(labels)), rtol=1e-9)
    names = [name for name in case.parameters[1:] if name.removesuffix("_") not in case.shared]
    if "covariances" in case.shared:  # only the means of Gaussians do not depend on what all components share
        names = [] if "dofs_" in names else [case.located]
    close = np.sqrt(case.stands_within)
    for k in range(3):
        alone = case.estimator(n_components=1, **options, **case.plain).fit(rows[labels == k])
        for name in names:
            theirs = getattr(alone, name)[0]
            atol = close * max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(getattr(ours, name)[k], theirs, rtol=close, atol=atol)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_some_labels_as_numbers_and_as_sets(case, algorithm):
    rows = case.data()
    labels = np.where(np.arange(len(rows)) % 10 == 0, known(case, rows), -1)
    sets = (labels[:, np.newaxis] == np.arange(case.size)) | (labels[:, np.newaxis] < 0)
    options = {"algorithm": algorithm, "max_iter": 8, "tol": 0}
    weights = np.random.default_rng(1).random(len(rows))
    both = [
        case.estimator(**options).fit(CutRows(rows, EDGES), labels=given, sample_weight=weights)
        for given in (labels, sets)
    ]
    assert_same_bits(*both, (*case.parameters, "lower_bounds_"))
    falls = np.diff(both[0].lower_bounds_).min(initial=0.0)
    assert algorithm == "stepwise" or falls > -1e-5  # reg_covar costs a little
    score = both[0].score(rows, labels=labels, sample_weight=weights)
    joint = both[0].score_samples(rows)
    proba = both[0].predict_proba(rows)[np.arange(len(rows)), labels]
    joint += np.where(labels >= 0, np.log(np.where(labels >= 0, proba, 1.0)), 0.0)
    assert score == pytest.approx(np.average(joint, weights=weights), rel=1e-9)


@pytest.mark.parametrize("algorithm", ["batch", pytest.param("incremental", marks=pytest.mark.slow)])
def test_a_cluster_gives_the_bits_of_threads(cluster, algorithm):
    from distributed import Client

    weights = np.random.default_rng(1).random(3000)

    def fits():
        for case in CASES:
            if not case.is_slow:
                rows = case.data()
                labels = np.where(np.arange(len(rows)) % 10 == 0, np.arange(len(rows)) // 10 % 3, -1)
                given = {"labels": labels, "sample_weight": weights}
                yield case, case.estimator(algorithm=algorithm, max_iter=3, tol=0).fit(CutRows(rows, EDGES), **given)

    with Client(cluster):
        there = list(fits())
    for (case, here), (_, fitted) in zip(fits(), there, strict=True):
        assert_same_bits(here, fitted, (*case.parameters, "lower_bounds_"))
