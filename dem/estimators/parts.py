"""`families=` of `Mixture`: which columns have which family, in all the forms that users may give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from dem.errors import OptionError
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.registry import ESTIMATORS, name_of
from dem.families.mixture import Mixture as MixtureOfComponents

#: mixtures that are no part: of parts, and those whose columns explain one another
NO_PARTS = ("mixture", "regression")
# Options of some mixtures that are of the whole, or that a part cannot have.
_OF_THE_WHOLE = {*MixtureEstimator._parameter_constraints, "fit_weights", "scale", "noise", "dtype"}
_FORM = "{'height,weight': 'gaussian', 'smoker': 'bernoulli'}"


@dataclass(frozen=True, eq=False)
class GivenPart:
    """Some columns of a table, by name or number, and an estimator that has the options of their family.

    Attributes
    ----------
    key : str
        What the part is called: its columns, with commas between them.
    names : tuple of str or of int
    estimator : MixtureEstimator
        Never fitted by itself: it tells the component, the names of its parameters and their shapes.
    """

    key: str
    names: tuple[Any, ...]
    estimator: Any

    @property
    def family(self) -> str:
        """The name of its family."""
        return name_of(self.estimator)


def parts_of(given: Any, n_components: int) -> list[GivenPart]:
    """Return the parts that an option describes.

    Raises
    ------
    OptionError
        In one line: which part is wrong, and what to give.
    """
    if not isinstance(given, Mapping) or not given:
        message = f"families must be a dict of columns and their families, such as {_FORM}, not {given!r}"
        raise OptionError(message)
    parts = [_part(key, value, n_components) for key, value in given.items()]
    names = [name for part in parts for name in part.names]
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        message = f"column {twice!r} is in two parts; each column has one family"
        raise OptionError(message)
    if len({isinstance(name, str) for name in names}) > 1:
        message = f"columns are given by their names or by their numbers, not by both: {names!r}"
        raise OptionError(message)
    return parts


def numbers_of(parts: list[GivenPart]) -> list[NDArray[np.intp]]:
    """Return the numbers of the columns of each part: those that are named stand in the order of their names."""
    found, start = [], 0
    for part in parts:
        stop = start + len(part.names)
        named = isinstance(part.names[0], str)
        found.append(np.arange(start, stop) if named else np.array(part.names, dtype=np.intp))
        start = stop
    return found


def names_in(key: Any) -> tuple[Any, ...]:
    """Return the columns that a key names; those that are all digits are numbers.

    Examples
    --------
    >>> names_in("height, weight"), names_in("0,2"), names_in(("a,b", "c"))
    (('height', 'weight'), (0, 2), ('a,b', 'c'))
    """
    names = [name.strip() for name in key.split(",")] if isinstance(key, str) else key
    names = [names] if isinstance(names, int | np.integer) else list(names)
    if not names or not all(isinstance(name, str | int | np.integer) and name != "" for name in names):
        message = f"families: {key!r} names no columns; give 'height,weight', ('height', 'weight') or numbers"
        raise OptionError(message)
    if all(not isinstance(name, str) or name.isdigit() for name in names):
        return tuple(int(name) for name in names)
    return tuple(names)


def _part(key: Any, value: Any, n_components: int) -> GivenPart:
    names = names_in(key)
    called = key if isinstance(key, str) else ",".join(map(str, names))
    family, options = value if isinstance(value, tuple | list) and len(value) == 2 else (value, {})
    if isinstance(family, str) and isinstance(options, Mapping):
        estimator = _of_family(called, family, dict(options))
    elif isinstance(family, MixtureEstimator) and name_of(family) not in NO_PARTS and not options:
        estimator = clone(family)
    else:
        message = (
            f"families: what {called!r} has must be the name of a family, ('gaussian', {{'covariance_type': 'diag'}}), "
            f"or a mixture such as dem.BernoulliMixture(), not {value!r}"
        )
        raise OptionError(message)
    defaults = type(estimator)().get_params(deep=False)
    for name, own in estimator.get_params(deep=False).items():
        if name in _OF_THE_WHOLE and name != "n_components" and own is not defaults[name] and own != defaults[name]:
            message = f"{name} of {called!r} is not for a part; leave it out, or give it to the Mixture if that has it"
            raise OptionError(message)
    if getattr(estimator, "prior", None) is not None and not isinstance(estimator, IndependentFeaturesMixture):
        message = (
            f"prior of {called!r} is not for a part of {name_of(estimator)}: parts of exponential families take one; "
            "leave it out (reg_covar keeps covariances from collapsing)"
        )
        raise OptionError(message)
    if type(estimator._family()) is not MixtureOfComponents:
        message = (
            f"families: a {type(estimator).__name__} (of {called!r}) has more than components; it cannot be a part"
        )
        raise OptionError(message)
    return GivenPart(called, names, estimator.set_params(n_components=n_components))


def _of_family(called: str, family: str, options: dict[str, Any]) -> Any:
    known = {name: entry for name, entry in ESTIMATORS.items() if entry.is_mixture and name not in NO_PARTS}
    if family not in known:
        message = f"families: there is no family {family!r} (of {called!r}); there are {', '.join(known)}"
        raise OptionError(message)
    kind = known[family].load()
    unknown = sorted(options.keys() - kind().get_params())
    if unknown:
        message = f"families: {family} (of {called!r}) has no option {unknown[0]!r}"
        raise OptionError(message)
    return kind(**options)


def stored(given: Any) -> dict[str, Any]:
    """Return the option as JSON holds it: the key, the family and the options of each part that are not defaults."""
    parts = []
    for key, value in given.items():
        part = _part(key, value, 1)
        defaults = type(part.estimator)().get_params(deep=False)
        options = {
            name: _plain(value)
            for name, value in part.estimator.get_params(deep=False).items()
            if name not in _OF_THE_WHOLE and (isinstance(value, np.ndarray) or value != defaults[name])
        }
        plain = not any(isinstance(name, str) and "," in name for name in part.names)
        parts.append([part.key if plain else list(part.names), part.family, options])
    return {"parts": parts}


def _plain(value: Any) -> Any:
    """Return the value of an option as JSON holds it."""
    if isinstance(value, Mapping):
        return {name: _plain(own) for name, own in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def from_stored(found: Any) -> dict[Any, Any]:
    """Return the option that `stored` was given, with estimators as the names and options of their families."""
    return {
        key if isinstance(key, str) else tuple(key): (family, options) if options else family
        for key, family, options in found["parts"]
    }
