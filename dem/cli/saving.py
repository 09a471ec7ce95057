"""Saves what a command has fitted; where that fails, somewhere else: hours of work are not thrown away for a path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dem.cli.options import check_output
from dem.errors import StoreError


@dataclass(frozen=True)
class Saved:
    """Where a model is saved, None if it is nowhere; and why it is not where it should be, if it is not."""

    path: str | None
    problem: str = ""

    def check(self) -> None:
        """Raise `StoreError` if the model is not where it should be."""
        if self.problem:
            raise StoreError(self.problem)


def save(estimator: Any, path: str, *, overwrite: bool) -> Saved:
    """Save a fitted model at a path or URL, or else beside it, in the current folder or in that for temporary files.

    The callbacks are taken from it; `overwrite` tells whether something at `path` may be replaced.
    """
    try:
        _write(estimator, path, overwrite=overwrite)
    except StoreError as error:
        return _save_elsewhere(estimator, path, error)
    return Saved(path)


def save_partial(estimator: Any, path: str) -> Saved:
    """Save the parameters of a fit that has not ended, beside the path of the model; replace those of one before."""
    partial = partial_of(path)
    try:
        check_output(partial, overwrite=True)
    except StoreError as error:
        return _save_elsewhere(estimator, partial, error)
    return save(estimator, partial, overwrite=True)


def partial_of(path: str) -> str:
    """Return where the parameters of a fit are saved that has not ended, and whose model is to be at `path`."""
    return f"{path.rstrip('/')}.partial"


def remove_partial(path: str, start_from: str | None) -> str:
    """Remove the partial model from which the one at `path` went on, if it did; return what became of it, in words."""
    from dem.data.atomic import is_occupied, remove  # noqa: PLC0415
    from dem.data.objects import is_failure_of_store  # noqa: PLC0415

    partial = partial_of(path)
    if start_from is None or start_from.rstrip("/") != partial:
        return ""
    try:
        remove(partial)
        there = is_occupied(partial)
    except Exception as error:  # the fit has succeeded, whatever a store raises
        if not (isinstance(error, StoreError) or is_failure_of_store(error)):
            raise
        there = True
    return f"{partial}, from which this fit went on, {'could not be' if there else 'is'} removed"


def _save_elsewhere(estimator: Any, path: str, error: StoreError) -> Saved:
    if error.kept:
        return Saved(error.kept, str(error))
    for folder in _folders(path):
        try:
            place = _free(os.path.join(folder, os.path.basename(path.rstrip("/"))))  # noqa: PTH118, PTH119 (URLs too)
            _write(estimator, place, overwrite=False)
        except StoreError:
            continue
        return Saved(place, f"{error}; the model is saved in {place}")
    return Saved(None, f"{error}; and the model could not be saved anywhere else")


def _write(estimator: Any, path: str, *, overwrite: bool) -> None:
    options = getattr(estimator, "background", estimator)  # of several groups
    options.set_params(callbacks=None)
    if "warm_start" in options.get_params():
        options.set_params(warm_start=False)
    estimator.save(path, overwrite=overwrite)


def _folders(path: str) -> Iterator[str]:
    yield os.path.dirname(path.rstrip("/"))  # noqa: PTH120 (URLs too)
    yield ""
    yield tempfile.gettempdir()


def _free(path: str) -> str:
    """Return the path itself, or the first of ``model-2.zarr``, … that nothing has."""
    from dem.data.atomic import is_occupied, numbered  # noqa: PLC0415

    number, place = 1, path
    while is_occupied(place):
        number += 1
        place = numbered(path, number)
    return place
