"""Missing values in a mixture: what a fit starts from, and the values that the fitted model puts in their place."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from sklearn.utils import check_random_state

from dem.data.base import Rows
from dem.data.beside import found_beside, without
from dem.data.sources import RowOptions, parted, source_kind
from dem.em.predict import Imputed
from dem.errors import DataWarning, OptionError
from dem.estimators import inputs, streams
from dem.estimators.base import Estimator
from dem.families.base import Component
from dem.families.gaps import n_patterns
from dem.initialise import RowSample, complete_rows, filled
from dem.validation import check_seed

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

    def _note_patterns(self, sample: RowSample, rows: Rows, most: float) -> None:
        """Note how many patterns of missing values there are, and say so where they are many."""
        self.n_patterns_ = n_patterns(sample.rows)
        if self.n_patterns_ > most:
            message = (
                f"{self.n_patterns_} sets of features are missing in sampled rows of {rows.name}, more than the {most} "
                "whose marginal distributions fit in memory: they are derived anew for every chunk, which takes long; "
                "covariance_type='diag' needs none"
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
            Seed of the draws, which depend on it and on how the data is cut into chunks.

        Returns
        -------
        array of float64, of the shape of X
            Of the kinds that `predict` returns; of a pandas DataFrame one of its features, with its index; of a
            DataArray or a Dataset its own kind with dimensions and coordinates, after ``features=`` a DataArray whose
            dimension ``feature`` has the names.
        """
        function = self._imputing(draw=draw, random_state=random_state)
        found = inputs.mapped(self, function, X, **source)
        if source_kind(X) not in ("xarray", "pandas"):
            return found
        opened, columns = parted(source)
        data, opened = without(
            *inputs.as_fitted(self, X, opened), found_beside(X, columns, inputs.features_of(self, opened))[1]
        )
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

        Parameters
        ----------
        X, draw, random_state, **source
            As for `impute`.
        path : str
            Where the array is written; it appears there only when it is whole.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        function = self._imputing(draw=draw, random_state=random_state)
        streams.impute_to(self, function, X, path, overwrite=overwrite, **source)

    def _imputing(self, *, draw: bool, random_state: int | None) -> Imputed:
        check_seed(random_state)
        self._check_marginalises("impute")
        family, parameters = self._model()
        seed = None
        if draw:
            seed = random_state if random_state is not None else int(check_random_state(None).randint(2**31 - 1))
        family = replace(family, marginalises=True)
        return Imputed(family, parameters, n_features=self.n_features_in_, seed=seed)
