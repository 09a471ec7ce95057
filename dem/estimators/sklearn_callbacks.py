"""Callbacks of scikit-learn, which it has from 1.9 on: a phase of a fit is a task, in it each read of the data."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dem.em.progress import Tracker
from dem.estimators.callbacks import History
from dem.events import Event, FitStarted

_theirs: Any = importlib.import_module("sklearn.callback") if importlib.util.find_spec("sklearn.callback") else None
if TYPE_CHECKING:

    class SupportsCallbacks:
        """Gives an estimator `set_callbacks`, if scikit-learn has it."""

else:
    SupportsCallbacks = object if _theirs is None else _theirs.CallbackSupportMixin
F = TypeVar("F", bound=Callable[..., Any])


def with_callbacks(fit: F) -> F:
    """Have scikit-learn tear its callbacks down after a method, however it ends."""
    return fit if _theirs is None else cast("F", _theirs.with_callbacks(fit))


#: attributes of estimators that are fitted with callbacks; an estimator of estimators, such as a pipeline, sets one
GIVEN = ("_skl_callbacks", "_parent_callback_ctx")


class StopAskedFor(Exception):  # noqa: N818
    """A callback of scikit-learn asks to end the fit here."""


class Tasks:
    """Tells the callbacks that were given to `set_callbacks` of a fit, from dem's events.

    Parameters
    ----------
    estimator : estimator
        What is fitted.
    data : object
        What it is fitted to, as the user gave it.
    history : History
        Has the parameters; it is told of each event before.
    """

    def __init__(self, estimator: Any, data: Any, history: History) -> None:
        self.history = history
        self.tracker = Tracker()
        self.phase: Any = None
        self._about = {"estimator": estimator, "X": data}
        self.root: Any = estimator._init_callback_context(max_subtasks=None)
        self.root.call_on_fit_task_begin(**self._about)

    def __call__(self, event: Event) -> None:
        """Begin or end a task; raises `StopAskedFor` if a callback wants no further read."""
        self.tracker(event)
        if isinstance(event, FitStarted):
            self._end_phase()
            where = "sample" if event.phase == "sample" else "all data"
            self.phase = self.root.subcontext(task_name=where, max_subtasks=event.max_iter)
            self.phase.call_on_fit_task_begin(**self._about)
        elif self.tracker.read_ended:
            read = self.phase.subcontext(task_name="read").call_on_fit_task_begin(**self._about)
            if read.call_on_fit_task_end(**self._about, reconstruction_attributes=self._attributes):
                raise StopAskedFor

    def _attributes(self) -> dict[str, Any]:
        """Return what makes a copy of the estimator a fitted one, as if the fit had ended here."""
        estimator = self._about["estimator"]
        fitted = type(estimator)(**estimator.get_params(deep=False))
        fitted._keep([], *self.history.so_far())
        return dict(vars(fitted))

    def _end_phase(self) -> None:
        if self.phase is not None:
            self.phase.call_on_fit_task_end(**self._about)
            self.phase = None

    def end(self) -> None:
        """End the tasks of a fit that was successful."""
        self._end_phase()
        self.root.call_on_fit_task_end(**self._about, reconstruction_attributes=dict)
