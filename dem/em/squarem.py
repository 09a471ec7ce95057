"""SQUAREM: extrapolates EM along its slow direction, and keeps the result only where it is likelier.

Varadhan and Roland (2008). Simple and globally convergent methods for accelerating the convergence of any EM algorithm.
Scandinavian Journal of Statistics 35.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dem.families.base import Family
from dem.families.unconstrained import Vector

# The longest step in units of an EM step: at first, and by what factor it grows and shrinks.
FIRST_LIMIT = 4.0
FACTOR = 4.0
# No coordinate (logarithms, or about one standard deviation of the data) moves further: such a step is nonsense.
LARGEST_MOVE = 10.0


class Squarem:
    """The acceleration of one model.

    Two EM steps v0 → v1 → v2 say how fast EM advances and how fast its steps shrink; the next E-step looks at an
    extrapolated point, the trial. It returns the log-likelihood and the statistics there together: a trial that is
    accepted costs no read of its own, and one that is refused costs that read.

    Attributes
    ----------
    trial : object or None
        The parameters that the next E-step tries.
    """

    def __init__(self) -> None:
        self.trial: Any = None
        self._limit = FIRST_LIMIT
        self._at_limit = False
        self._path: list[Vector] = []

    def advance(self, family: Family[Any, Any], point: Any, parameters: Any, *, accepted: bool) -> None:
        """Take note of an E-step.

        Parameters
        ----------
        family : Family
            The model.
        point : object
            The parameters of the E-step.
        parameters : object
            The parameters that EM goes on from: those of the M-step, or where the trial was refused those before it.
        accepted : bool
            Whether the E-step at `point` counts.
        """
        if self.trial is not None:
            if not accepted:
                self._limit = max(self._limit / FACTOR, 1.0)
            elif self._at_limit:
                self._limit *= FACTOR
            self.trial = None
            self._path = [family.unconstrain(parameters)]
            return
        if not self._path:
            self._path = [family.unconstrain(point)]
        self._path.append(family.unconstrain(parameters))
        if len(self._path) == 3:
            trial = self._extrapolate(*self._path)
            if trial is not None:
                self.trial = family.constrain(trial, parameters)
            self._path = self._path[2:]

    def _extrapolate(self, v0: Vector, v1: Vector, v2: Vector) -> Vector | None:
        """Return v0 − 2a r + a² q, or None where there is nothing to gain."""
        step = v1 - v0
        bend = (v2 - v1) - step
        length, curvature = step.norm, bend.norm
        if not (np.isfinite(length) and np.isfinite(curvature)) or curvature == 0.0:
            return None
        wanted = length / curvature
        self._at_limit = wanted >= self._limit
        factor = min(wanted, self._limit)
        if factor <= 1.0:  # that is the EM step itself
            if self._at_limit:
                self._limit *= FACTOR
            return None
        trial = v0 + (2.0 * factor) * step + factor**2 * bend
        return trial if (trial - v2).largest <= LARGEST_MOVE else None
