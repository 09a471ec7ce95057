"""`partial_fit`: a mixture that learns from rows as they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self, Unpack

import numpy as np
from sklearn.utils import check_random_state

from dem.data.base import COLUMNS, Chunk, Rows
from dem.data.joined import followed, table_of
from dem.data.sources import RowOptions
from dem.em.algorithm import Settings, Start
from dem.em.loop import run
from dem.em.stepwise import Stepwise
from dem.engine import Engine, current_engine
from dem.errors import OptionError
from dem.estimators import inputs, memory
from dem.estimators.base import Estimator
from dem.estimators.callbacks import Reads
from dem.estimators.persistence import HELD_ARRAYS
from dem.families.base import total_weight
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.initialise import row_sample
from dem.initialise.sample import RowSample
from dem.native import permitted
from dem.units import whole
from dem.validation import check_observed, check_rows, rows_to_blame

# Rows for each weight and each coordinate of a mean.
ROWS_PER_NUMBER = 10
# While the first rows are held, the start is found anew whenever they have grown by this factor.
GROWTH = 1.1
# Attributes of an estimator that holds its first rows.
HELD = (*HELD_ARRAYS, "_rows_of_start")


class LearnsFromStreams(Estimator):
    """The part of a mixture estimator that learns from a stream.

    Its state is the fitted parameters and `n_samples_seen_`: parameters stand for the statistics from which the M-step
    makes them. At first it is the rows themselves: too few of them make components that are narrow, and that no
    later row belongs to. A model that was saved and loaded goes on to the same bits.
    """

    def partial_fit(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        sample_weight: Any = None,
        **given: Unpack[RowOptions],
    ) -> Self:
        """Learn from newly observed rows by stepwise EM, going on from `fit`, earlier calls, or a loaded model.

        Without any of these, the first rows are held, 10 for each component and feature; the start is found from
        those there are, as soon as there are `n_components`, and better ones as they become more. Later rows move
        the parameters, fewer of them by less.

        Parameters
        ----------
        X, y, sample_weight, **given
            Data as in `fit`, of any size, with labels, errors and limits where there are any; it is read once (and once
            more for the start). A few rows make one step, many make one for each of their blocks. After the first rows
            their weights may be as small as they like, or all 0: then nothing is learned.

        Returns
        -------
        self
            `converged_` is False; `lower_bound_` is the log-likelihood per row of X under the parameters before each
            step.

        Raises
        ------
        OptionError, DataError, FitError
            As `fit` does; the estimator is then as it was.
        """
        self._check_options()
        if getattr(self, "_boxed", False) and not hasattr(self, "noise_box_"):
            message = "noise=True needs the box of all rows, which a stream has not; fit first, or give noise=VOLUME"
            raise OptionError(message)
        if getattr(self, "scale", False) and self._units is None:
            message = (
                "scale=True needs all the data before the first step, which a stream has not; fit first, or scale the "
                "rows yourself"
            )
            raise OptionError(message)
        with inputs.features_kept_on_failure(self):
            begins = not hasattr(self, "weights_") and not hasattr(self, "_held_rows")
            if hasattr(self, "weights_"):
                self._check_goes_on()
            rows = inputs.rows_of(self, X, reset=begins, minimum=1, **{**given, "sample_weight": sample_weight})
            reads = Reads(None)
            with current_engine(reads) as engine, rows_to_blame(rows, engine, self._support()):
                rows = memory.fitting([self], rows, engine)
                with permitted(engine.uses_loops()):
                    self._learn(rows, engine)
            reads.keep(self)
        return self

    def _learn(self, rows: Rows, engine: Engine) -> None:
        if hasattr(self, "weights_") and not hasattr(self, "_held_rows"):
            family, parameters = self._model()
            n_seen = getattr(self, "n_samples_seen_", 0)  # files of earlier versions do not say
            self._step(family, parameters, rows, engine, n_seen)
            return
        held = total_weight(self._held()) if hasattr(self, "_held_rows") else 0.0
        seed = np.random.SeedSequence(self._seed())
        sample = row_sample(rows, engine, self.sample_rows, seed, besides=held)
        if self._support().outside(sample.rows).any():
            check_rows(rows, engine, self._support())
        table = self._with_held(sample.chunk)
        if not sample.complete:  # the held rows, fewer than tell the components apart, count for the start alone
            self._step(*self._first_start(table, rows, engine), rows, engine, 0)
        elif len(table) < self.n_components:
            self._hold(table)
            return
        elif len(table) < GROWTH * getattr(self, "_rows_of_start", 0):
            self.n_samples_seen_ = whole(total_weight(table))
        else:
            self._step(*self._first_start(table, rows, engine), table_of(table), engine, 0)
            self._rows_of_start = len(table)
        if sample.complete and len(table) < self._rows_of_whole_step(rows.n_features):
            self._hold(table)
        else:
            for name in HELD:
                vars(self).pop(name, None)

    def _step(
        self,
        family: Mixture[Any, Any],
        parameters: MixtureParameters[Any],
        rows: Rows,
        engine: Engine,
        n_seen: int,
    ) -> None:
        """Learn from rows once, and keep what was learned."""
        algorithm = Stepwise(
            self.step_power,
            self._seed(),
            self.max_in_flight,
            n_seen,
            n_rows=n_seen + rows.n_rows,
            whole=self._rows_of_whole_step(rows.n_features),
            watches_order=False,
        )
        (one,) = run([Start(family, parameters)], algorithm, rows, engine, Settings(max_iter=1))
        if not one.n_iter:  # all rows have the weight 0
            return
        one.n_rows += n_seen
        one.component_status = ()  # what is a row's share, all rows decide that were seen
        self._keep([], family, one)

    def _with_held(self, chunk: Chunk) -> Chunk:
        """Return the rows that are held, and these behind them."""
        if not hasattr(self, "_held_rows"):
            return replace(chunk, index=range(len(chunk)))
        return followed(self._held(), chunk)

    def _held(self) -> Chunk:
        rows = vars(self)["_held_rows"]
        return Chunk(rows, range(len(rows)), **{field: vars(self).get(f"_held_{field}") for field in COLUMNS})

    def _hold(self, chunk: Chunk) -> None:
        vars(self).update(_held_rows=chunk.rows)
        vars(self).update({f"_held_{field}": values for field, values in chunk.columns.items()})

    def _rows_of_whole_step(self, n_features: int) -> int:
        """Return how many rows tell the components apart: fewer give no start that lasts, and no whole step."""
        return ROWS_PER_NUMBER * int(self.n_components) * (n_features + 1)

    def _first_start(
        self, table: Chunk, rows: Rows, engine: Engine
    ) -> tuple[Mixture[Any, Any], MixtureParameters[Any]]:
        """Return a start from the first rows, and the family in their frame."""
        first = RowSample(table, True, total_weight(table))
        check_observed(first, rows)
        first = self._to_start_from(first)
        family = replace(self._family_for(rows, engine, first), top_components=None)
        return family, self._start(family, rows, engine, first, check_random_state(self.random_state))
