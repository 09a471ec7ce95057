"""Callbacks that every fit has: history, the latest parameters, and scikit-learn's verbose lines."""

from __future__ import annotations

from typing import Any

from dem.em.events import Event, FitEnded, FitStarted, IterationEnded


class History:
    """Collects one dict per iteration: phase, model, iteration, log_likelihood, gain, seconds."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def __call__(self, event: Event) -> None:
        """Note an iteration."""
        if isinstance(event, IterationEnded):
            names = ("phase", "model", "iteration", "log_likelihood", "gain", "seconds")
            self.records.append({name: getattr(event, name) for name in names})


class Latest:
    """Keeps the most advanced iteration, for a fit that is interrupted."""

    def __init__(self) -> None:
        self.event: IterationEnded | None = None

    def __call__(self, event: Event) -> None:
        """Keep an iteration on all the data rather than one on the sample, and of equals the likelier model."""
        if not isinstance(event, IterationEnded):
            return
        best = self.event
        if (
            best is None
            or event.phase != best.phase
            or event.model == best.model
            or event.log_likelihood > best.log_likelihood
        ):
            self.event = event


class Verbose:
    """Prints lines as scikit-learn's `verbose` does.

    Parameters
    ----------
    level : int
        1 for starts and iterations, 2 for gains and times too.
    interval : int
        Iterations between lines.
    """

    def __init__(self, level: int, interval: int) -> None:
        self.level = level
        self.interval = interval

    def __call__(self, event: Event) -> None:
        """Print what is due."""
        if isinstance(event, FitStarted):
            print(f"{event.n_models} model(s) on the {event.phase}: {event.n_rows} rows")  # noqa: T201
        elif isinstance(event, IterationEnded) and event.iteration % self.interval == 0:
            detail = ""
            if self.level > 1:
                detail = f"\t log-likelihood gain {event.gain:.5f}\t time lapse {event.seconds:.5f}s"
            print(f"  Model {event.model} iteration {event.iteration}{detail}")  # noqa: T201
        elif isinstance(event, FitEnded):
            print(f"Model {event.model} {event.status} (iteration {event.iteration})")  # noqa: T201
