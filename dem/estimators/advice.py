"""What to do about components that are of no use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dem.estimators.registry import is_bayesian
from dem.families.base import OK
from dem.families.status import COLLAPSED, DUPLICATE, EMPTY

# Components that are named, at most.
_NAMED = 5


def trouble_of_components(estimator: Any) -> str:
    """Return a line that names components that are empty, collapsed or duplicates, and says what to do; else ``''``.

    Parameters
    ----------
    estimator : estimator
        Fitted, with its `component_status_`.
    """
    status: Sequence[str] = estimator.component_status_
    if all(word == OK for word in status):
        return ""
    what = "component" if estimator._entry.is_mixture else "cluster"
    empty, collapsed = _numbers(status, EMPTY), _numbers(status, COLLAPSED)
    if is_bayesian(estimator):  # that is how it finds their number
        empty = []
    # What is alike before EM has converged may still part.
    duplicates = [k for k, word in enumerate(status) if word.startswith(DUPLICATE) and estimator.converged_]
    if len(collapsed) == len(status) and hasattr(estimator, "reg_covar"):
        cause, cure = "the data are that small", ", scale the data (scale=True),"
        if getattr(estimator, "scale", False):
            cause, cure = "a few values so far out are the scale of theirs", " or such rows,"
        return (
            f"in some direction reg_covar={estimator.reg_covar:g} is most of the variance of every component: a column "
            f"is constant or follows from others, or {cause}; drop such a column{cure} or decrease reg_covar"
        )
    if not (empty or collapsed or duplicates):
        return ""
    said = [_said(what, empty, "empty", "empty: less than half a row belongs to it")]
    said.append(_said(what, collapsed, "collapsed", "collapsed onto rows that hardly differ in some direction"))
    twins = _said(what, duplicates, "duplicates", "the same as another")
    said.append(f"{twins} ({', '.join(status[k] for k in duplicates[:_NAMED])})" if duplicates else "")
    advice = [f"take fewer {what}s", "another start (random_state, n_init)"]
    if collapsed and hasattr(estimator, "reg_covar"):
        if not getattr(estimator, "scale", True):
            advice.append("scale=True, if some columns are that small")
        advice.append("a larger reg_covar")
    if hasattr(estimator, "reseed"):
        advice.append("reseed=3, which lets them begin anew" if not estimator.reseed else "a larger reseed")
    return f"{'; '.join(filter(None, said))}: {', '.join(advice[:-1])} or {advice[-1]}"


def _numbers(status: Sequence[str], word: str) -> list[int]:
    return [k for k, found in enumerate(status) if found == word]


def _said(what: str, numbers: Sequence[int], short: str, long: str) -> str:
    """Word which components are what."""
    if not numbers:
        return ""
    named = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    verb = "are" if len(numbers) > 1 else "is"
    return f"{what}{'s' if len(numbers) > 1 else ''} {named}{more} {verb} {long if len(numbers) == 1 else short}"
