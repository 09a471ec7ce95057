"""Profiles: features that are the entries of several variables along dimensions of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from dem.data.labels import coordinate_text
from dem.errors import DataError

#: for each variable the dimension whose entries are features; None for a variable that is one feature
Features = Mapping[str, str | None]


def check_features(name: str, features: Any, others: Mapping[str, Any]) -> None:
    """Refuse features that are no mapping of variables to dimensions, or are given along with `others`.

    Raises
    ------
    DataError
        Saying what to give.
    """
    if not isinstance(features, Mapping) or not features:
        message = f"features must be a dict such as {{'TEMP': 'depth', 'SST': None}}, not {features!r}"
        raise DataError(message)
    for option, value in others.items():
        if value is not None:
            message = f"features tell the variables and dimensions of {name}; leave {option} ({value!r}) out"
            raise DataError(message)


def feature_names(variable: str, dim: str, labels: NDArray[Any] | None, n_features: int) -> list[str]:
    """Return the names of the entries of a variable, by their coordinates, or numbers where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> feature_names("TEMP", "depth", np.array([0.0, 12.5]), 2), feature_names("TEMP", "depth", None, 2)
    (['TEMP[depth=0]', 'TEMP[depth=12.5]'], ['TEMP[0]', 'TEMP[1]'])
    """
    if labels is None:
        return [f"{variable}[{number}]" for number in range(n_features)]
    return [f"{variable}[{coordinate_text(dim, label).replace(' ', '=', 1)}]" for label in labels]


def check_shared(name: str, grids: Mapping[str, tuple[Any, ...]], words: Mapping[str, Sequence[Any]]) -> None:
    """Refuse variables whose rows lie on other dimensions than those of the first.

    Parameters
    ----------
    name : str
        What messages call the data.
    grids : mapping
        What must be the same, by variable.
    words : mapping
        The dimensions without that of the features, for messages.
    """
    first, *others = grids
    for variable in others:
        if grids[variable] != grids[first]:
            message = (
                f"the rows of variable {variable!r} of {name} lie on {_listed(words[variable])}, but those of "
                f"{first!r} on {_listed(words[first])}; variables whose entries are features share all other dimensions"
            )
            raise DataError(message)


def _listed(words: Sequence[Any]) -> str:
    return f"({', '.join(map(str, words))})"
