"""Checkpoints of estimators: which fit a checkpoint is of, and where it is."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from dask.utils import parse_timedelta
from numpy.random import RandomState
from sklearn.utils import check_random_state

from dem import __version__, native
from dem.data.base import Rows
from dem.data.fingerprint import FirstChunks, digest_of, digests, shape_of
from dem.data.snapshots import Snapshots
from dem.data.sources import WeightedOptions
from dem.em.checkpoint import NO_CHECKPOINT, Checkpoint, Every, Tally, digest_of_job
from dem.engine import Engine, current_engine
from dem.errors import OptionError, StoreError
from dem.estimators.inputs import rows_of
from dem.estimators.loops import LOOPS_BYTES
from dem.estimators.registry import name_of
from dem.packing import pack
from dem.units import human_bytes

T = TypeVar("T")

# Options that change nothing of a fit, or are told apart otherwise.
_NOT_OF_THE_JOB = ("callbacks", "verbose", "verbose_interval", "random_state", "estimator")


def open_checkpoint(path: str | os.PathLike[str] | None, every: int | str | None, estimator: Any) -> Checkpoint:
    """Return the checkpoint at a path or URL; one that keeps nothing where there is none.

    Parameters
    ----------
    path : str or path-like, optional
    every : int or str, optional
        After how many passes over the data, or ``'5min'``; see `Checkpoint`.
    estimator : estimator
        Whose classes a checkpoint may hold.
    """
    if path is None:
        if every is not None:
            message = "checkpoint_every goes with checkpoint, the path of the checkpoint"
            raise OptionError(message)
        return NO_CHECKPOINT
    place: object = path if isinstance(path, str) else getattr(path, "__fspath__", lambda: None)()
    if not isinstance(place, str) or not place or "\0" in place:
        message = f"checkpoint must be a path or URL, not {path!r}"
        raise OptionError(message)
    packages = {"dem", type(estimator).__module__.partition(".")[0]}
    return Checkpoint(Snapshots(path, packages), interval(every))


def interval(every: int | str | None) -> Every:
    """Return how often to save.

    Raises
    ------
    OptionError
        If `every` is neither a number of passes nor a time.

    Examples
    --------
    >>> interval("5min"), interval(2)
    (Every(passes=None, seconds=300.0), Every(passes=2, seconds=None))
    """
    if every is None:
        return Every()
    given = str(every).strip()
    if re.fullmatch(r"0*[1-9]\d{0,17}", given):
        return Every(passes=int(given))
    with suppress(ValueError, KeyError, IndexError, OverflowError):
        seconds = float(parse_timedelta(re.sub(r"mins?$", "m", given), default=False))
        if 0 <= seconds < math.inf:
            return Every(seconds=seconds)
    message = f"checkpoint_every must be a number of passes such as 1, or a time such as '5min', not {every!r}"
    raise OptionError(message)


def keep_arithmetic(checkpoint: Checkpoint, engine: Engine) -> None:
    """Go on with the arithmetic that a fit was begun with, whatever there is memory for now.

    Raises
    ------
    StoreError
        Where there is no memory for compiled loops any more.
    """
    before = checkpoint.told("arithmetic")
    with native.permitted(engine.uses_loops()):
        now = native.state()
    if before == "NumPy":
        engine.loops = False
    elif before == native.offered() and now == "NumPy":  # not where loops serve whatever there is memory for
        message = (
            "the fit of the checkpoint was begun with compiled loops, for which there is no memory now: give each "
            f"process {human_bytes(LOOPS_BYTES)} more, or the fit another path"
        )
        raise StoreError(message)


def begin(
    checkpoint: Checkpoint,
    estimator: Any,
    rows: Rows,
    engine: Engine,
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    tallies: Sequence[Tally] = (),
    goes_on: bool = False,
) -> None:
    """Compare a fit with that of its checkpoint, or begin one.

    Parameters
    ----------
    checkpoint : Checkpoint
    estimator : estimator
        With its options.
    rows : Rows
        The data, as it will be read.
    engine : Engine
    more : mapping
        What else tells fits apart.
    tallies : sequence of Tally
        What is counted along the way, beside what of the data cannot be read.
    goes_on : bool
        Whether the fit starts from the fitted attributes.

    Raises
    ------
    StoreError
        Naming the first difference.
    """
    if not checkpoint.keeps:
        return
    checkpoint.tallies = [*tallies, *([rows.unreadable] if rows.unreadable else [])]
    if rows.unreadable:  # what was left out is not to be told from other data by its having come back
        checkpoint.recount()
    checkpoint.begin(job_of(estimator, rows, engine, more, goes_on=goes_on))


def job_of(
    estimator: Any,
    rows: Rows,
    engine: Engine,
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    goes_on: bool = False,
) -> dict[str, Any]:
    """Return what tells a fit from others; two chunks are read. See `begin` for the parameters."""
    options = {
        name: told(value)
        for name, value in sorted(estimator.get_params(deep=False).items())
        if name not in _NOT_OF_THE_JOB
    }
    seed = estimator.random_state
    if isinstance(seed, int | np.integer):
        options["random_state"] = int(seed)
    if goes_on:
        options |= {
            f"{name}_ at the start": told(getattr(estimator, f"{name}_")) for name in estimator._parameter_names
        }
    (content,) = engine.sweep(FirstChunks(rows), [digests])
    return {
        "model": name_of(estimator),
        **options,
        **{name: told(value) for name, value in more.items()},
        **shape_of(rows),
        **dict(content),
        **versions(),
    }


def is_done(estimator: Any, fitted: Any, data: Any, given: WeightedOptions, checkpoint: str) -> bool:
    """Tell whether a model is what a fit of an estimator to data, with a checkpoint, has come to.

    If it is, the checkpoint goes: the process may have been killed after it saved the model.
    """
    goes_on = bool(getattr(estimator, "warm_start", False)) and hasattr(estimator, "converged_")
    rows = rows_of(estimator, data, reset=not goes_on, **given)
    with current_engine() as engine:
        job = job_of(estimator, rows.sliced(1), engine, goes_on=goes_on)
    kept = open_checkpoint(checkpoint, None, estimator)
    job["arithmetic"] = kept.told("arithmetic")
    if digest_of_job(job) != getattr(fitted, "_job", None):
        return False
    with suppress(StoreError), kept.held():
        kept.begin(job)
        remove(kept.identity)
    return True


def output_job(estimator: Any, function: Any, **more: Any) -> dict[str, Any] | None:
    """Return what tells the writing of results from that of others, besides the rows that they are of.

    Parameters
    ----------
    estimator : estimator
        With its fitted attributes.
    function : object
        What the results come of, with its `family` and `parameters`.
    **more
        What else counts.

    Returns
    -------
    dict, or None
        None for a model whose parts are nothing that can be compared.
    """
    try:
        shape, arrays = pack((function.family, function.parameters))
    except TypeError:
        return None
    digest = hashlib.sha256(json.dumps([shape, *map(digest_of, arrays)]).encode()).hexdigest()[:16]
    fitted = {f"{name}_": told(getattr(estimator, f"{name}_")) for name in estimator._parameter_names}
    given = {name: told(value) for name, value in more.items()}
    return {"model": name_of(estimator), **fitted, **given, "digest of the model": digest, **versions()}


def versions() -> dict[str, str]:
    """Return the versions that bits depend on."""
    found = {name: importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn")}
    found = {"dem": __version__, "python": platform.python_version(), **found}
    return {**{f"version of {name}": version for name, version in found.items()}, "arithmetic": native.state()}


def told(value: Any) -> str | int | float | bool | None:
    """Return what an option is compared by."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, dict):
        return repr({key: told(one) for key, one in value.items()})
    if isinstance(value, list | tuple) and len(value) <= 100:
        return repr(value)
    array = np.asarray(value)
    return f"an array {array.shape} ({digest_of(array)})" if array.dtype != object else repr(value)


@contextmanager
def random_numbers(estimators: Sequence[Any], checkpoint: Checkpoint) -> Iterator[None]:
    """Let estimators without a seed draw, while they are fitted, what they drew when the checkpoint was begun.

    The first has the `random_state` that the user gave; the others those that it is for them.
    """
    seeds = [one.random_state for one in estimators]
    if not checkpoint.keeps or isinstance(seeds[0], int | np.integer):
        yield
        return
    numbers = RandomState() if seeds[0] is None else check_random_state(seeds[0])
    numbers.set_state(checkpoint.step("random_state", numbers.get_state))
    for one in estimators:
        one.random_state = numbers
    try:
        yield
    finally:
        for one, seed in zip(estimators, seeds, strict=True):
            one.random_state = seed


def remove(identity: tuple[str, str] | None) -> None:
    """Remove a checkpoint, if it is still the one that was meant."""
    if identity is not None:
        Checkpoint(Snapshots(identity[0])).remove(identity[1])


def drawn(checkpoint: Checkpoint, random_state: RandomState, draw: Callable[[], T]) -> T:
    """Return what is kept of a start that was drawn, or draw it; the random numbers after it are the same."""
    if not checkpoint.keeps:
        return draw()
    found, state = checkpoint.step("start", lambda: (draw(), random_state.get_state()))
    random_state.set_state(state)
    return found
