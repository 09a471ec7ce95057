"""Racing: when a start that competes with others is dropped before it has converged, if the user asks for it.

Three rules, all about starts of the same model:

- *merged*: another start that is at least as likely has the same parameters, up to the order of the components
  (`SAME_PARAMETERS`, on the unconstrained vectors), and the same log-likelihood per row (`SAME_LOG_LIKELIHOOD`);
- *dominated*: its last `LOOK_BACK` gains have fallen one after the other, and even `SAFETY` times what the next ones
  add up to, falling as slowly as the slowest of these falls, leaves it below what another start has reached already.
  With a the largest ratio of a gain to the one before (Aitken's a), that sum is gain · a / (1 − a);
- *late*: a likelier start has converged, and the others have had a fifth more reads (`PATIENCE`). So several starts
  never cost more than 1.2 times the reads of the one that wins.

None of them is safe. EM may leave a plateau after many small gains, so that the second, an extrapolation, drops starts
that would have won; two starts that have met near a saddle may part again; the third is a budget. How often they lose
the winner is measured in docs/algorithms.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from dem.em.algorithm import Fit, Start, Status
from dem.families.base import Model

SAME_LOG_LIKELIHOOD = 1e-5
SAME_PARAMETERS = 1e-2
LOOK_BACK = 4
SAFETY = 10.0
PATIENCE = 0.2


def rivals_to_drop(
    starts: Sequence[Start], fits: Sequence[Fit], *, extrapolate: bool
) -> Iterator[tuple[int, Status, str]]:
    """Yield the numbers of models that seem to compete in vain, one after the other; each is to be ended at once.

    Each is compared with the likelier ones of its contest.

    Parameters
    ----------
    starts, fits : sequence
        The models, and how far they are.
    extrapolate : bool
        Whether their gains tell of the next ones.

    Yields
    ------
    number : int
    status : Status
    why : str
        To be said behind the status.
    """
    ranking = sorted(range(len(fits)), key=lambda number: (-fits[number].log_likelihood, number))
    for place, number in enumerate(ranking):
        one, start = fits[number], starts[number]
        ahead = [n for n in ranking[:place] if fits[n].eligible and starts[n].contest == start.contest]
        if one.status is not Status.RUNNING or not ahead:
            continue
        leader = fits[ahead[0]]
        state = (one.parameters, one.log_likelihood)
        twins = [n for n in ahead if merged(start.model, state, (fits[n].parameters, fits[n].log_likelihood))]
        if twins:
            yield number, Status.MERGED, f" (model {twins[0]})"
        elif extrapolate and dominated(one.log_likelihoods, leader.log_likelihood):
            yield number, Status.DOMINATED, f" (model {ahead[0]}, at {leader.log_likelihood:.6g})"
        elif leader.status is Status.CONVERGED and one.n_iter >= (1.0 + PATIENCE) * leader.n_iter:
            yield number, Status.LATE, ""


def merged(model: Model[Any, Any], one: tuple[Any, float], other: tuple[Any, float]) -> bool:
    """Tell whether two starts, each with its parameters and log-likelihood per row, have become the same model."""
    if abs(one[1] - other[1]) > SAME_LOG_LIKELIHOOD:
        return False
    return not model.unconstrain(one[0]).differs(model.unconstrain(other[0]), SAME_PARAMETERS)


def dominated(log_likelihoods: Sequence[float], reached: float) -> bool:
    """Tell whether a start with these log-likelihoods per row will probably stay below `reached`."""
    bound = highest(log_likelihoods)
    return bound is not None and bound < reached


def highest(log_likelihoods: Sequence[float]) -> float | None:
    """Return what the log-likelihood per row will hardly exceed; None where that cannot be told yet."""
    recent = log_likelihoods[-LOOK_BACK - 1 :]
    gains = [after - before for before, after in itertools.pairwise(recent)]
    if len(gains) < LOOK_BACK or min(gains) <= 0.0:
        return None
    ratio = max(after / before for before, after in itertools.pairwise(gains))
    return None if ratio >= 1.0 else recent[-1] + SAFETY * gains[-1] * ratio / (1.0 - ratio)
