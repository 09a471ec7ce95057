"""What every fitted model does: it labels rows, in memory or into a store, and can be saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray
from sklearn.utils.validation import check_is_fitted

from dem.data.sources import SourceOptions
from dem.em.predict import Labels, RowFunction
from dem.estimators import inputs, persistence, streams
from dem.estimators.options import POSITIVE, Options, option
from dem.estimators.registry import Entry, entry_of
from dem.events import Callback


class FittedModel(Options):
    """The part of an estimator that needs its fitted attributes alone; a subclass names them.

    The class attributes below serve the model files and the streams of results.

    Parameters
    ----------
    random_state : int, RandomState or None
        Seed of the sample and the start.
    verbose : int
        Whether to print what happens.
    sample_rows : int, optional
        Rows of the uniform random sample on which starts are chosen; as many as take 32 MiB by default.
    callbacks : sequence of Callback, optional
        Called with every event of `fit` (`dem.events`).

    Attributes
    ----------
    converged_ : bool
    n_iter_ : int
        Iterations on all the data.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Defined when the data names its features.
    """

    random_state: int | np.random.RandomState | None = option("random_state", default=None)
    verbose: int = option("verbose", default=0)
    sample_rows: int | None = option(POSITIVE, None, default=None)
    callbacks: Sequence[Callback] | None = option(list, tuple, None, default=None)

    #: other fitted attributes that tell how the fit went
    _outcome: ClassVar[tuple[str, ...]]
    #: what `predict_to` can write
    _row_functions: ClassVar[dict[str, type[RowFunction]]]

    @property
    def _entry(self) -> Entry:
        """What the registry tells: names of the size and of the parameter that locates the components."""
        return entry_of(self)

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        """Fitted attributes that are arrays, without the underscore at the end, the weights of a mixture first."""
        return ("weights", self._entry.location) if self._entry.is_mixture else (self._entry.location,)

    def _deviations(self) -> NDArray[np.float64] | None:
        """Return the standard deviation of each component in each feature, for models whose reports show it."""
        return None

    @abstractmethod
    def _model(self) -> tuple[Any, Any]:
        """Return family and parameters from the fitted attributes, which are the one truth."""

    def _complete(self) -> None:
        """Derive the attributes that follow from the parameters."""

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether there are parameters: the number of features alone is none."""
        return hasattr(self, f"{self._entry.location}_")

    def _map(self, kind: type[RowFunction], data: Any, source: SourceOptions) -> Any:
        return inputs.mapped(self, kind(*self._model()), data, **source)

    def predict(self, X: Any, **source: Unpack[SourceOptions]) -> Any:
        """Return the label of each row: its most probable component, or its nearest centre.

        Parameters
        ----------
        X, **source
            Data as in `fit`.

        Returns
        -------
        array of int64, shape (n_samples,)
            Of the same kind as X: NumPy for arrays and DataFrames in memory; a lazy Dask array for Dask and
            zarr; a DataArray on the same grid, with its coordinates, for xarray.
        """
        return self._map(Labels, X, source)

    def predict_to(
        self,
        X: Any,
        path: str,
        *,
        kind: str = "labels",
        dtype: DTypeLike | None = None,
        overwrite: bool = False,
        **source: Unpack[SourceOptions],
    ) -> None:
        """Stream the labels of X, or what else is said of each row, into a zarr array, chunk by chunk.

        Parameters
        ----------
        X, **source
            Data as in `fit`.
        path : str
            Where the array is written; it appears there only when it is whole.
        kind : str
            What is written: ``'labels'``; of a mixture also ``'proba'`` or ``'log_density'``, of `KMeans`
            ``'distances'``.
        dtype : dtype, optional
            Of what is written: by default the smallest integer that holds the labels, and float64 for all else.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        streams.predict_to(self, X, path, kind=kind, dtype=dtype, overwrite=overwrite, **source)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the fitted model as a zarr group that is readable without dem; see `dem.load`.

        Parameters
        ----------
        path : str
            A directory or URL.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        check_is_fitted(self)
        persistence.save(self, path, overwrite=overwrite)
