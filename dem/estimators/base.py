"""What all models do: fit, label rows in memory or into a store, save."""

from __future__ import annotations

import os
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Rows
from dem.data.sources import RowOptions, WeightedOptions, parted
from dem.em.algorithm import Fit, Status
from dem.em.checkpoint import Checkpoint
from dem.em.predict import Labels, RowFunction
from dem.engine import Engine, Work, current_engine
from dem.engine.base import single_threaded_blas
from dem.errors import ComponentWarning, DataError
from dem.estimators import checkpoints, inputs, memory, persistence, streams
from dem.estimators.advice import trouble_of_components
from dem.estimators.callbacks import History, Reads, Verbose, keeping_last
from dem.estimators.describing import Describes
from dem.estimators.loops import COMPILING
from dem.estimators.options import POSITIVE, check_options, option
from dem.estimators.registry import BY_CLASS, MISSING
from dem.estimators.sklearn_callbacks import GIVEN, StopAskedFor, SupportsCallbacks, Tasks, with_callbacks
from dem.events import Callback, Preparing, notify
from dem.families.base import Support
from dem.native import is_compiled, permitted
from dem.tree import leaves
from dem.units import whole
from dem.validation import check_rows, rows_to_blame


class Estimator(Describes, SupportsCallbacks, metaclass=ABCMeta):
    """Base of mixtures and k-means: the frame of every fit, and what needs fitted attributes alone.

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
    missing : {'error', 'skip', 'marginalise'}, default='error'
        What is done with missing values (NaN): they are an error; or rows with any are left out, and get the label −1
        and NaN for all else; or, by mixtures, what is observed of each row counts, which gives the maximum of the
        likelihood if values are missing at random (Rubin 1976). docs/rows.md says what that costs.

    Attributes
    ----------
    converged_ : bool
    n_iter_ : int
        Iterations on all the data.
    n_retries_ : int
        How many attempts to read the data failed in passing, and were followed by another.
    bad_chunks_ : list of dict
        What could not be read and was left out (``on_bad_chunk="skip"``): `name`, `where` (its rows), and `why`.
    component_status_ : list of str
        Of each component (cluster) ``'ok'``; ``'empty'``, where less than half a row belongs to it; ``'duplicate of
        2'``, where its density is that of another; or ``'collapsed'``, where nine tenths of its variance in some
        direction or more is `reg_covar`. A warning (`dem.errors.ComponentWarning`) names them and says what to do.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Defined when the data names its features.
    """

    random_state: int | np.random.RandomState | None = option("random_state", default=None)
    verbose: int = option("verbose", default=0)
    sample_rows: int | None = option(POSITIVE, None, default=None)
    callbacks: Sequence[Callback] | None = option(list, tuple, None, default=None)
    missing: str = option(StrOptions(set(MISSING)), default="error")

    #: fitted attributes that tell how the fit went
    _outcome: ClassVar[tuple[str, ...]]
    #: what `predict_to` can write
    _row_functions: ClassVar[dict[str, type[RowFunction]]]
    #: what is said of data with too few rows, with places for the estimator and the rows
    _too_few: ClassVar[str]

    #: other fitted arrays that reports have beside what locates the components, without the underscore at the end
    _reported: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if entry := BY_CLASS.get(f"{cls.__module__}:{cls.__qualname__}"):
            cls._entry = entry

    # What a subclass provides -------------------------------------------------------------------------------

    @abstractmethod
    def _support(self) -> Support:
        """Return the values that the model allows."""

    @abstractmethod
    def _search(
        self, rows: Rows, engine: Engine, callbacks: Sequence[Callback], checkpoint: Checkpoint, *, goes_on: bool
    ) -> tuple[Any, ...]:
        """Return family and `Fit` of the best of all starts on all the data, and what else `_keep` needs."""

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        """Fitted attributes that are arrays, without the underscore at the end, the weights of a mixture first."""
        return ("weights", self._entry.location) if self._entry.is_mixture else (self._entry.location,)

    def _shape(self, name: str, size: int, n_features: int) -> tuple[int, ...]:
        """Return the shape of a fitted array, by its name without the underscore at the end."""
        return (size, n_features) if name == self._entry.location else (size,)

    @abstractmethod
    def _model(self) -> tuple[Any, Any]:
        """Return family and parameters from the fitted attributes, which are the one truth."""

    @property
    @abstractmethod
    def _not_converged(self) -> str:
        """What is said of a fit that has not converged."""

    def _check_options(self) -> None:
        check_options(self)

    def _check_features(self, n_features: int) -> None:
        """Refuse options that do not go with so many features."""

    # Fitting ------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | str | None = None,
        **given: Unpack[RowOptions],
    ) -> Self:
        """Fit the model: mixtures by EM, k-means by Lloyd's algorithm.

        Parameters
        ----------
        X : path or URL of a zarr array or group, zarr.Array, array, DataFrame, DataArray or Dataset
            The data, shape (n_samples, n_features). It is read chunk by chunk, several times.
        y : ignored
            For scikit-learn's API.
        sample_weight : array of shape (n_samples,), optional
            How much each row counts: numbers ≥ 0, of any kind of data that X may be, or the name of a variable of X.
            Their sum takes the place of the number of rows everywhere.
        checkpoint : str or path-like, optional
            Directory or URL where the fit keeps how far it is. If it holds a checkpoint of this very fit (the same
            data, options and versions), the fit goes on from there and comes to the same numbers as one that was
            never interrupted; that of another is refused. `save` removes it. docs/reliability.md says more.
        checkpoint_every : int or str, optional
            How often: after so many passes over the data, or a time such as ``'5min'``. When left out, after every
            pass, as far as that takes no more than a fiftieth of the time.
        **given
            Of mixtures, what is known of each row: `labels`, the numbers of the components that have made the rows, −1
            where not known, or a boolean array (n_samples, n_components), which components may have made each (with a
            background that is the component behind the last, and a column more); of full
            and tied covariances `noise_covariance`, the errors of rows: variances, shape (n_samples, n_features), or
            covariances, (n_samples, n_features, n_features). The model is then of the rows without their errors. Of
            Gaussian mixtures `lower` and `upper`, numbers or arrays (n_features,) or (n_samples, n_features): between
            what a value lies that is NaN; docs/rows.md says more. Of `BinomialMixture` without `n_trials` the `trials`
            of each row, (n_samples,), or of each value, (n_samples, n_features).
            How X is opened: `variable`, the name of the array if X is a zarr group; `feature_dim`, the name of the
            feature dimension if X is a DataArray; `features`, variables of a Dataset or a zarr group, each with the
            dimension whose entries are features (``{"TEMP": "depth"}``); `allow_missing_chunks`, whether chunks that
            are not in a zarr store count as their fill value: by default they are an error; `on_bad_chunk`, whether
            chunks of a zarr array, or row groups of parquet, that cannot be read are an error (``'raise'``, the
            default) or their rows are left out (``'skip'``).

        Returns
        -------
        self
            The fitted estimator. If the fit ends before its time (KeyboardInterrupt, an exception of a callback, a
            cluster or a store that goes away), the estimator holds the parameters of the last whole iteration (k-means
            the inertia from before it, and no labels), and a note of the exception says so.

        Raises
        ------
        OptionError
            If an option has an unknown or impossible value.
        DataError
            If the data cannot be read, is not finite, or has fewer rows than components; if chunks of a zarr store
            are missing, or the store changes during the fit.
        FitError
            If a covariance is not positive definite.
        """
        self._check_options()
        inputs.warn_of_labels(y, given)
        source, _ = parted(given)
        kept = checkpoints.open_checkpoint(checkpoint, checkpoint_every, self)
        with inputs.features_kept_on_failure(self):
            self._fit(X, {**given, "sample_weight": sample_weight}, kept)
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(self._not_converged, ConvergenceWarning, stacklevel=2)
        if (trouble := trouble_of_components(self)) and self.max_iter > 0:
            warnings.warn(trouble, ComponentWarning, stacklevel=2)
        self._finish(X, source)
        return self

    def fit_predict(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | str | None = None,
        **given: Unpack[RowOptions],
    ) -> Any:
        """Fit, and return the labels of X, given all else that `fit` is given; see `fit` and `predict`."""
        self.fit(X, y, sample_weight, checkpoint=checkpoint, checkpoint_every=checkpoint_every, **given)
        return vars(self)["labels_"] if "labels_" in vars(self) else self.predict(X, **given)

    @with_callbacks
    def _fit(self, data: Any, given: WeightedOptions, checkpoint: Checkpoint) -> None:
        goes_on = bool(getattr(self, "warm_start", False)) and hasattr(self, "converged_")
        if goes_on:
            self._check_goes_on()
        rows = inputs.rows_of(self, data, reset=not goes_on, **given)
        if rows.n_rows < getattr(self, self._entry.size):
            raise DataError(self._too_few.format(self, rows))
        callbacks = [*(self.callbacks or ())]
        if self.verbose:
            callbacks.append(Verbose(int(self.verbose), getattr(self, "verbose_interval", 1)))
        history = History()
        tasks = [Tasks(self, data, history)] if any(hasattr(self, name) for name in GIVEN) else []
        reads = Reads(callbacks)

        def keep(*found: Any) -> None:
            self._keep(history.records, *found)
            reads.keep(self)

        with current_engine(reads) as engine:
            rows = memory.fitting([self], rows, engine, callbacks)
            checkpoints.keep_arithmetic(checkpoint, engine)
            if engine.uses_loops() and not is_compiled():
                notify(callbacks, Preparing(COMPILING))
            with (
                single_threaded_blas(),  # whose threads would spin for a tenth of a second beside the engine's
                permitted(engine.uses_loops()),
                suppress(StopAskedFor),
                keeping_last(history, keep, checkpoint),
                rows_to_blame(rows, engine, self._support()),
                checkpoint.held(),
            ):
                checkpoints.begin(checkpoint, self, rows.sliced(1), engine, tallies=[reads], goes_on=goes_on)
                with checkpoints.random_numbers([self], checkpoint):
                    keep(*self._search(rows, engine, (history, *callbacks, *tasks), checkpoint, goes_on=goes_on))
        self._checkpoint, self._job = checkpoint.identity, checkpoint.job
        for task in tasks:
            task.end()

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *_: Any) -> None:
        """Set the fitted attributes."""
        for name, value in family.to_user(best.parameters).items():
            setattr(self, f"{name}_", value)
        self.converged_ = best.status is Status.CONVERGED
        self.n_iter_ = best.n_iter
        self.history_ = history
        self.n_samples_seen_ = whole(best.n_rows)
        self.component_status_ = [*(best.component_status or family.component_status(best.parameters, best.n_rows))]
        self._complete()

    # What needs fitted attributes alone ---------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether there are parameters: the number of features alone is none."""
        return hasattr(self, f"{self._entry.location}_")

    def _sums(self, data: Any, given: WeightedOptions, *kinds: Callable[..., Work]) -> list[Any]:
        """Return what works on the fitted model sum over all rows, in one read; the first tells of bad values."""
        family, parameters = self._model()
        rows = inputs.rows_of(self, data, reset=False, **given)
        with current_engine() as engine:
            rows = memory.fitting([self], rows, engine, row_bytes=0)
            totals = engine.sweep(rows, [kind(family, parameters) for kind in kinds])
            if not all(np.isfinite(leaf).all() for _, leaf in leaves(totals[0])):
                check_rows(rows, engine, family.support)
        return totals

    def _map(self, kind: type[RowFunction], data: Any, given: RowOptions) -> Any:
        return inputs.mapped(self, kind(*self._model()), data, **given)

    def predict(self, X: Any, **given: Unpack[RowOptions]) -> Any:
        """Return the label of each row: its most probable component, or its nearest centre.

        Parameters
        ----------
        X, **given
            Data as in `fit`. A row whose component is known, or may be one of some only (``labels``), gets no other;
            limits and errors count as in the fit.

        Returns
        -------
        array of int64, shape (n_samples,)
            Of the same kind as X: NumPy for arrays and DataFrames in memory; a lazy Dask array for Dask, parquet and
            zarr; a DataArray on the same grid, with its coordinates, for xarray.
        """
        return self._map(Labels, X, given)

    def predict_to(
        self,
        X: Any,
        path: str,
        *,
        kind: str = "labels",
        dtype: DTypeLike | None = None,
        overwrite: bool = False,
        **given: Unpack[RowOptions],
    ) -> None:
        """Stream the labels of X, or what else is said of each row, into a zarr array, chunk by chunk.

        If it is ended, the same call goes on with the chunks that are not there; see docs/reliability.md.

        Parameters
        ----------
        X, **given
            Data as in `fit`.
        path : str
            Where the array is written; it appears there only when it is whole. Of data on a grid with coordinates it is
            a group that has these beside the array, as `xarray.open_zarr` reads it.
        kind : str
            What is written: ``'labels'``; of a mixture also ``'proba'`` or ``'log_density'``, of `KMeans`
            ``'distances'``.
        dtype : dtype, optional
            Of what is written: by default the smallest integer that holds the labels, and float64 for all else.
        overwrite : bool
            Whether to replace what is at `path`, or what another job has left there that is not whole.
        """
        streams.predict_to(self, X, path, kind=kind, dtype=dtype, overwrite=overwrite, **given)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the fitted model as a zarr group that is readable without dem; see `dem.load`.

        A checkpoint of its fit is no longer needed then, and is removed.

        Parameters
        ----------
        path : str
            A directory or URL.
        overwrite : bool
            Whether to replace what is at `path`.
        """
        check_is_fitted(self)
        persistence.save(self, path, overwrite=overwrite)
        checkpoints.remove(vars(self).pop("_checkpoint", None))
