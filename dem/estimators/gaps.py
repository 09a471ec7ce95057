"""Missing values in a mixture: what a fit starts from, and the values that the fitted model puts in their place."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from sklearn.utils import check_random_state

from dem.data.base import Chunk, Rows
from dem.data.beside import found_beside
from dem.data.sources import RowOptions, parted, source_kind
from dem.em.predict import Imputed
from dem.engine.base import single_threaded_blas
from dem.errors import DataWarning, OptionError
from dem.estimators import inputs, streams
from dem.estimators.base import Estimator
from dem.families.base import Array, Component
from dem.families.gaps import keys_of, n_patterns, patterns_among
from dem.families.mixture import Mixture
from dem.families.mixture_parameters import MixtureParameters
from dem.initialise import RowSample, complete_rows, filled
from dem.validation import check_seed

# So many patterns, and complete rows, tell what one takes.
PATTERNS_TIMED, ROWS_TIMED = 300, 32768
# Complete rows for each component and coordinate of its mean that a start is content with.
ROWS_PER_NUMBER = 10


class Imputes(Estimator):
    """The part of a mixture estimator that knows of missing values.

    Attributes
    ----------
    n_patterns_ : int
        With ``missing='marginalise'``: sets of features that rows of the sample lack, which full and tied covariances
        take time for.
    """

    if TYPE_CHECKING:
        n_components: int

        def _component(self) -> Component[Any, Any]: ...

    def _check_marginalises(self, what: str) -> None:
        if not self._component().marginalises:
            model = type(self).__name__ + (" with noise" if getattr(self, "noise", False) else "")
            message = f"{what} is not for {model}; give missing='skip', or take another mixture"
            raise OptionError(message)

    def _to_start_from(self, sample: RowSample) -> RowSample:
        """Return a sample without missing values: its complete rows, if these are enough."""
        enough = ROWS_PER_NUMBER * self.n_components * (sample.rows.shape[1] + 1)
        return complete_rows(sample, enough) or filled(sample)

    def _note_patterns(
        self, whole: RowSample, sample: RowSample, rows: Rows, start: tuple[Mixture[Any, Any], MixtureParameters[Any]]
    ) -> None:
        """Note how many patterns the sample has, and say what they cost where they are many; `sample` has no gaps."""
        self.n_patterns_ = n_patterns(whole.rows)
        most = start[0].component.most_patterns(start[1].components)
        if self.n_patterns_ > most:
            times = relative_cost(*start, whole.rows, sample.rows, min(rows.read_rows, rows.n_rows))
            message = (
                f"{self.n_patterns_} sets of features are missing in sampled rows of {rows.name}, more than the {most} "
                "whose marginal distributions fit in memory: they are derived anew for every chunk, so that a pass "
                f"takes about {float(f'{times:.1g}'):,.0f} times as long as one over complete rows; "
                "covariance_type='diag' takes all of them together"
            )
            warnings.warn(message, DataWarning, stacklevel=3)

    def impute(
        self, X: Any, *, draw: bool = False, random_state: int | None = None, **source: Unpack[RowOptions]
    ) -> Any:
        """Return the data with its missing values filled in, whatever `missing` says.

        Parameters
        ----------
        X, **source
            Data as in `fit`, with labels, limits and errors where there are any; only NaN is replaced. What has limits
            (``lower``, ``upper``) stays within; with ``noise_covariance`` it is values without errors that are filled
            in, given what was measured with its errors.
        draw : bool
            Whether to draw each value from its distribution given the rest of its row, so that spread and correlation
            stay; else it is replaced by the mean of that distribution.
        random_state : int, optional
            Seed of the draws; that of a row depends on it and on the position of the row, not on chunks.

        Returns
        -------
        array of float64, of the shape of X
            Of the kinds that `predict` returns; of a pandas DataFrame one of its features, with its index; of a
            DataArray or a Dataset its own kind with dimensions and coordinates, of a Dataset the variables that are
            features.
        """
        function = self._imputing(draw=draw, random_state=random_state)
        found = inputs.mapped(self, function, X, **source)
        if source_kind(X) not in ("xarray", "pandas"):
            return found
        opened, columns = parted(source)
        named = found_beside(X, columns, inputs.features_of(self, opened))[1]
        data, opened = inputs.without_named(self, *inputs.as_fitted(self, X, opened), named)
        data, opened, _ = self._encoded(data, opened, reset=False)
        if source_kind(X) == "pandas":
            return type(data)(found, index=data.index, columns=data.columns) if hasattr(data, "columns") else found
        from dem.data.xarray import on_features  # noqa: PLC0415 - an optional package

        return on_features(data, found, opened.get("feature_dim"), opened.get("features"))

    def impute_to(
        self,
        X: Any,
        path: str,
        *,
        draw: bool = False,
        random_state: int | None = None,
        overwrite: bool = False,
        **source: Unpack[RowOptions],
    ) -> None:
        """Stream what `impute` returns into a zarr array, chunk by chunk, the features last.

        If it is ended, the same call goes on with the chunks that are not there; see docs/reliability.md.

        Parameters
        ----------
        X, draw, random_state, **source
            As for `impute`.
        path : str
            Where the array is written; it appears there only when it is whole. Of data on a grid with coordinates it is
            a group that has these beside the array, as `xarray.open_zarr` reads it.
        overwrite : bool
            Whether to replace what is at `path`, or what another job has left there that is not whole.
        """
        function = self._imputing(draw=draw, random_state=random_state)
        streams.impute_to(self, function, X, path, random_state=random_state, overwrite=overwrite, **source)

    def _imputing(self, *, draw: bool, random_state: int | None) -> Imputed:
        check_seed(random_state)
        self._check_marginalises("impute")
        family, parameters = self._model()
        seed = None
        if draw:
            seed = random_state if random_state is not None else int(check_random_state(None).randint(2**31 - 1))
        family = replace(family, marginalises=True)
        return Imputed(family, parameters, n_features=self.n_features_in_, seed=seed)


def relative_cost(
    family: Mixture[Any, Any], parameters: MixtureParameters[Any], gaps: Array, complete: Array, n_rows: int
) -> float:
    """Return how many times as long an E-step over `n_rows` rows takes as if these were complete, from a sample.

    Some rows with patterns of their own, and some without gaps, are timed here: nothing else knows this processor.
    """

    def seconds(rows: Array) -> float:
        chunk, at = Chunk(rows, range(len(rows))), replace(parameters)  # nothing is kept from what came before
        with single_threaded_blas():
            began = time.thread_time()
            family.e_step(at, chunk)
            return time.thread_time() - began

    def least(rows: Array) -> float:
        return min(seconds(rows) for _ in range(2))

    of_row = least(complete[:ROWS_TIMED]) / len(complete[:ROWS_TIMED])
    missing = np.isnan(gaps)
    (incomplete,) = np.nonzero(missing.any(axis=1))
    own = incomplete[np.unique(keys_of(missing[incomplete]), return_index=True)[1]]
    own = own[:: -(-len(own) // PATTERNS_TIMED)]
    of_pattern = least(gaps[own]) / len(own)
    return 1.0 + patterns_among(gaps, n_rows) * of_pattern / (n_rows * of_row)
