"""Choice by stability: how far partitions agree that the same mixture finds from random halves of the rows."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.random import RandomState
from sklearn.base import clone
from sklearn.utils import check_random_state

from dem.data.base import Rows
from dem.em.algorithm import Fit, Start
from dem.em.checkpoint import Checkpoint
from dem.engine import Engine
from dem.engine.base import single_threaded_blas
from dem.errors import DataWarning, FitError, OptionError
from dem.estimators.checkpoints import drawn
from dem.estimators.holdout import Holdout, OnSubset
from dem.initialise.sample import RowSample

#: fits of each model where nothing else is said, and how many there must be
SUBSAMPLES, FEWEST = 10, 3
# Share of the rows that each fit is given; and rows of the sample, at most, whose partitions are compared.
SHARE, COMPARED = 0.5, 5000
# Seeds of the halves, away from that of held-out rows.
_SEED = 2**32
#: what the table says of it
COLUMNS = ("stability", "stability_error", "stability_low", "stability_high")


def check_subsamples(criterion: str, subsamples: Any, sizes: Sequence[int]) -> int:
    """Return how many fits to halves of the rows each model gets."""
    if subsamples is None:
        subsamples = SUBSAMPLES if criterion == "stability" else 0
    whole = isinstance(subsamples, int | np.integer) and not isinstance(subsamples, bool)
    if not whole or (subsamples < FEWEST and (subsamples != 0 or criterion == "stability")):
        message = f"subsamples must be a whole number of at least {FEWEST}, not {subsamples!r}"
        raise OptionError(message)
    if criterion == "stability" and max(sizes) < 2:
        message = "criterion 'stability' compares partitions, and one component has none; search among more components"
        raise OptionError(message)
    return int(subsamples)


def starts_on_subsets(
    number: int, candidate: Any, subsamples: int, rows: Rows, engine: Engine, sample: RowSample, checkpoint: Checkpoint
) -> list[Start]:
    """Return the starts of a model on random halves of the rows: those of each half are a contest of their own.

    Each is found in the same way as that of the model itself, with other random numbers, from half of the sample.
    """
    estimator = candidate.estimator
    if estimator.n_components < 2:
        return []
    if estimator.init_params == "k-means||":  # which would read all rows again for each
        estimator = clone(estimator).set_params(init_params="kmeans", callbacks=None)
        estimator._learn_units(rows, engine, like=candidate.estimator)
    seeds = check_random_state(estimator.random_state).randint(2**31 - 1, size=subsamples)
    starts: list[Start] = []
    for half, seed in enumerate(seeds):
        part = Holdout(SHARE, _SEED + half)
        own = replace(sample, chunk=sample.chunk.take(part.holds(range(len(sample.chunk)))))
        random_state = RandomState(int(seed))
        if len(own.rows) < estimator.n_components:
            continue
        with warnings.catch_warnings():  # what is said of the model itself
            warnings.simplefilter("ignore", DataWarning)
            if estimator.missing == "marginalise":
                own = estimator._to_start_from(own)
            for _ in range(estimator.n_init):
                draw = partial(estimator._start, candidate.family, rows, engine, own, random_state)
                try:
                    start = drawn(checkpoint, random_state, draw)
                except FitError:
                    continue
                starts.append(Start(OnSubset(candidate.family, part), start, (number, half)))  # type: ignore[arg-type]
    return starts


def stability_of(family: Any, fits: Sequence[Fit], sample: RowSample) -> dict[str, float]:
    """Return the agreement of the partitions of rows of a sample by several fits of a family, two by two.

    Agreement is the adjusted Rand index (Hubert and Arabie 1985): 1 for the same partition, 0 on average for partitions
    that have nothing to do with each other. Two that put all rows into one part have 0, since they tell nothing.

    Returns
    -------
    dict of float
        The mean of all pairs; its standard error, by the jackknife over fits; the first and the last decile of pairs.
        NaN where fewer than three fits have come to an end.
    """
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 - 30 MB that others do without

    if len(fits) < FEWEST:
        return dict.fromkeys(COLUMNS, math.nan)
    chunk = replace(sample.chunk, labels=None).take(slice(None, None, -(-len(sample.chunk) // COMPARED)))
    with single_threaded_blas():
        labels = [family.labels(one.parameters, chunk) for one in fits]
    n = len(fits)
    agreement = np.zeros((n, n))
    parts = [len(np.unique(one)) for one in labels]
    for i, j in itertools.combinations(range(n), 2):
        if parts[i] == parts[j] == 1:
            continue
        agreement[i, j] = agreement[j, i] = adjusted_rand_score(labels[i], labels[j])
    pairs = agreement[np.triu_indices(n, 1)]
    total = pairs.sum()
    without = (total - agreement.sum(axis=1)) / (len(pairs) - (n - 1))
    error = math.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    low, high = np.quantile(pairs, [0.1, 0.9])
    return dict(zip(COLUMNS, (float(total / len(pairs)), error, float(low), float(high)), strict=True))


def most_stable(table: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the place of the model with most components among those within a standard error of the highest agreement.

    A partition that is stable often is so with some of its parts taken together too: the finer one tells more. None if
    no model has an agreement.
    """
    known = [number for number, row in enumerate(table) if math.isfinite(row.get("stability", math.nan))]
    if not known:
        return None
    best = max(known, key=lambda number: table[number]["stability"])
    enough = table[best]["stability"] - table[best]["stability_error"]
    among = [number for number in known if table[number]["stability"] >= enough]
    return max(among, key=lambda number: (table[number]["n_components"], table[number]["stability"], -number))
