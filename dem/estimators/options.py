"""Options of estimators, each said once: its default, its constraints, and in a docstring what it means."""

from __future__ import annotations

import inspect
import re
from dataclasses import Field, dataclass, field, fields
from numbers import Integral
from typing import Any, ClassVar, cast, dataclass_transform

from sklearn.utils._param_validation import Interval, InvalidParameterError

from dem.errors import OptionError
from dem.estimators.sklearn_bases import BaseEstimator

#: the constraint of an option that counts something
POSITIVE = Interval(Integral, 1, None, closed="left")
# The sections that a docstring takes over from those of the base classes, each entry once.
_TAKEN_OVER = ("Parameters", "Attributes")


def option(*constraints: Any, default: Any, kw_only: bool = True) -> Any:
    """Declare an option of an estimator, as a class attribute.

    Parameters
    ----------
    *constraints
        As in scikit-learn's `_parameter_constraints`: the value must meet one of them.
    default
        The value when left out.
    kw_only : bool
        Whether it must be given by name.
    """
    return field(default=default, kw_only=kw_only, metadata={"constraints": list(constraints)})


def sorted_choices(message: str) -> str:
    """Return scikit-learn's message about an option with the choices, a set, in a fixed order.

    Examples
    --------
    >>> sorted_choices("must be a str among {'full', 'diag'} or None. Got 'round' instead.")
    "must be a str among {'diag', 'full'} or None. Got 'round' instead."
    """
    return re.sub(r"\{('[^{}]*')\}", lambda found: f"{{{', '.join(sorted(found[1].split(', ')))}}}", message)


def check_options(estimator: Any) -> None:
    """Have scikit-learn judge the options of an estimator, and see that its callbacks can be called.

    Raises
    ------
    OptionError
        If an option has an unknown or impossible value.
    """
    try:
        estimator._validate_params()
    except InvalidParameterError as error:
        raise OptionError(sorted_choices(str(error))) from error
    for name, kinds in estimator._parameter_constraints.items():
        value = getattr(estimator, name)
        if isinstance(value, bool) and not {"boolean", "verbose"} & {kind for kind in kinds if isinstance(kind, str)}:
            message = f"{name} must be a number, not {value}"  # which Python takes for 1 or 0, and scikit-learn too
            raise OptionError(message)
    if not all(callable(callback) for callback in estimator.callbacks or ()):
        message = "callbacks must be callables that take an event"
        raise OptionError(message)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
class Options(BaseEstimator):
    """Base of the estimators: makes `__init__`, scikit-learn's constraints and the documentation from their options.

    A subclass declares and documents its own options alone; those of its base classes follow.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = {name for name, value in vars(cls).items() if isinstance(value, Field)}
        if not own:  # it keeps the `__init__` that it inherits, which may be one that a user wrote
            return
        annotations = cls.__annotations__
        cls.__annotations__ = {name: kind for name, kind in annotations.items() if name in own}
        dataclass(cls, repr=False, eq=False, match_args=False, kw_only=True)
        cls.__annotations__ = annotations
        options = fields(cast("Any", cls))
        cls._parameter_constraints = {one.name: one.metadata["constraints"] for one in options}
        if cls.__doc__:  # `python -OO` leaves none
            # Own options stand first, but behind those that may be given by position.
            order = sorted(options, key=lambda one: (one.kw_only, one.kw_only and one.name not in own))
            cls.__doc__ = _whole_docstring(cls, [one.name for one in order])

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that sparse rows are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _whole_docstring(cls: type, order: list[str]) -> str:
    """Return the docstring of a class with what those of its base classes say of parameters and attributes."""
    docstrings = [_sections(one.__doc__ or "") for one in cls.__mro__ if issubclass(one, Options)]
    sections = {"": docstrings[0].pop("")}
    for name in _TAKEN_OVER:
        entries: dict[str, str] = {}
        for docstring in docstrings:
            for entry in re.split(r"\n(?=\S)", docstring.get(name, "")):
                entries.setdefault(re.split(r"\W", entry)[0], entry)
        first = order if name == "Parameters" else []
        heads = [*(head for head in first if head in entries), *(head for head in entries if head not in first)]
        sections[name] = "\n".join(entries[head] for head in heads if head)
    sections = {**sections, **{name: text for name, text in docstrings[0].items() if name not in sections}}
    texts = (f"{name}\n{'-' * len(name)}\n{text}" if name else text for name, text in sections.items() if text)
    return "\n\n".join(texts) + "\n"


def _sections(docstring: str) -> dict[str, str]:
    """Divide a docstring into its sections, by their titles; the summary has the title ``''``."""
    parts = re.split(r"\n(\w+)\n-+\n", "\n" + inspect.cleandoc(docstring))
    return {title.strip(): text.strip() for title, text in zip(["", *parts[1::2]], parts[::2], strict=True)}
