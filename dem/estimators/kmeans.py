"""`KMeans`: scikit-learn's k-means for data larger than memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Rows
from dem.data.sources import SourceOptions
from dem.em.algorithm import Batch
from dem.em.fit import Fit, Settings, Start, Status
from dem.em.predict import Distances, Labels, RowFunction
from dem.engine import Engine, current_engine
from dem.errors import DataError, OptionError
from dem.estimators import inputs
from dem.estimators.fitted import FittedModel
from dem.estimators.options import POSITIVE, option
from dem.estimators.recorders import History, Latest, Verbose, keeping_last, teller
from dem.estimators.registry import ESTIMATORS
from dem.estimators.starts import search
from dem.events import Callback, Preparing, notify
from dem.families.base import Array, EStep
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters, ClusterStatistics
from dem.initialise import row_sample
from dem.initialise.kmeans_parallel import kmeans_parallel
from dem.initialise.sample import RowSample
from dem.units import plural
from dem.validation import check_array, check_rows, check_spread, rows_to_blame, warn_of_few_distinct_rows


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, FittedModel):
    """k-means clustering by Lloyd's algorithm, on data in memory or far larger.

    Parameters, attributes and methods are those of `sklearn.cluster.KMeans`; the data may be of any kind that
    `GaussianMixture` takes. Each iteration reads the data once.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.
    init : {'k-means||', 'k-means++', 'random'}, callable or array-like of shape (n_clusters, n_features)
        Where to start: ``'k-means||'`` draws centres from all chunks in a few reads, the next two from the sample. A
        callable is given the sample, `n_clusters` and `random_state=`, as in scikit-learn, and returns the centres.
    n_init : 'auto' or int, default='auto'
        Number of starts, which share the reads; 10 for ``'random'`` or a callable and else 1 when left to dem. Given
        centres are one start. Data larger than the sample compares them on the sample and polishes the best three.
    max_iter : int, default=300
        Iterations at most.
    tol : float, default=1e-4
        k-means stops once the squares of all movements of centres add up to no more than `tol` times the mean variance
        of the features (of the sample).
    callbacks : sequence of Callback, optional
        Called with every event of the fit; there the log-likelihood is −inertia per row.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
    labels_ : array of int64, shape (n_samples,)
        Cluster of each row of the data of the fit: lazy where `predict` is. They are as many as the rows, so that
        `save` leaves them out, and a model that was loaded has none; `predict` tells them.
    inertia_ : float
        Sum of the squared distances of all rows to their centres.
    converged_ : bool
        Whether the centres came to rest within `max_iter` iterations.
    history_ : list of dict
        One entry for each iteration, as `GaussianMixture` has it; the log-likelihood is −inertia per row.

    References
    ----------
    Lloyd, S. (1982). Least squares quantization in PCM. IEEE Transactions on Information Theory 28.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> kmeans = dem.KMeans(n_clusters=2, random_state=0).fit(X)
    >>> np.sort(kmeans.cluster_centers_[:, 0])
    array([ 1., 10.])
    >>> kmeans.inertia_
    16.0
    """

    _outcome = ("converged_", "n_iter_", "inertia_", "history_")
    _row_functions: ClassVar[dict[str, type[RowFunction]]] = {"labels": Labels, "distances": Distances}

    n_clusters: int = option(POSITIVE, default=8, kw_only=False)
    init: str | Callable[..., ArrayLike] | ArrayLike = option(
        StrOptions(set(ESTIMATORS["kmeans"].starts)), callable, "array-like", default="k-means||"
    )
    n_init: str | int = option(StrOptions({"auto"}), POSITIVE, default="auto")
    max_iter: int = option(POSITIVE, default=300)
    tol: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-4)

    def fit(self, X: Any, y: object = None, **source: Unpack[SourceOptions]) -> Self:  # noqa: ARG002
        """Find the clusters of X.

        Parameters
        ----------
        X, **source
            Data as for `GaussianMixture.fit`.
        y : ignored
            For scikit-learn's API.

        Returns
        -------
        self
            If the fit ends before its time (KeyboardInterrupt, an exception of a callback, a cluster or a store that
            goes away), the estimator holds the centres of the last whole iteration, the inertia from before it, and no
            labels; a note of the exception says so.

        Raises
        ------
        OptionError
            If an option has an unknown or impossible value.
        DataError
            If the data cannot be read, is not finite, or has fewer rows than clusters.
        """
        inputs.check_options(self)
        with inputs.features_kept_on_failure(self):
            rows = inputs.rows_of(self, X, reset=True, **source)
            if rows.n_rows < self.n_clusters:
                message = f"n_samples={rows.n_rows} should be >= n_clusters={self.n_clusters} ({rows.name})"
                raise DataError(message)
            callbacks = [*(self.callbacks or ()), *([Verbose(int(self.verbose), 1)] if self.verbose else [])]
            engine = current_engine(teller(callbacks))
            history, latest = History(), Latest()

            def keep() -> None:
                inertia = -latest.fit.log_likelihood * rows.n_rows
                self._keep(latest.family, latest.fit, inertia, history.records)

            try:
                with (
                    keeping_last(latest, keep),
                    rows_to_blame(rows, engine, Clusters.support),
                ):
                    family, best, inertia = self._search(rows, engine, [history, latest, *callbacks])
            finally:
                engine.close()
            self._keep(family, best, inertia, history.records)
        if not self.converged_:
            message = f"k-means did not converge within {plural(self.max_iter, 'iteration')}; increase max_iter or tol"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        self.labels_ = self.predict(X, **source)
        return self

    def _search(self, rows: Rows, engine: Engine, callbacks: Sequence[Callback]) -> tuple[Clusters, Fit, float]:
        """Return the best of all starts, fitted to all the data, and its inertia."""
        random_state = check_random_state(self.random_state)
        n_wanted = None if self.sample_rows is None else max(self.sample_rows, self.n_clusters)
        seed = np.random.SeedSequence(random_state.randint(2**31 - 1, size=4).tolist())
        notify(self.callbacks or (), Preparing("drawing a sample of the rows"))
        sample = row_sample(rows, engine, n_wanted, seed)
        if not np.isfinite(sample.rows).all():
            check_rows(rows, engine, Clusters.support)
        check_spread(sample.rows, rows)
        warn_of_few_distinct_rows(sample, rows, self.n_clusters, "clusters")
        family = Clusters(Frame.of(sample.rows, isotropic=True))
        starts = [Start(family, start) for start in self._starts(family, rows, engine, sample, random_state)]
        enough = self.tol * float(sample.rows.var(axis=0).mean()) / family.unit
        settings = Settings(enough, self.max_iter, callbacks)
        fits = search(starts, sample, rows, engine, Batch(), settings, compare=len(starts) > 1)[None]
        fits = [one for one in fits if one.eligible]
        # The inertia of the centres that the last steps arrived at.
        ends: list[ClusterStatistics] = engine.sweep(rows, [EStep(family, one.parameters) for one in fits])
        inertia, best = min((end.inertia, i) for i, end in enumerate(ends))
        return family, fits[best], inertia * family.unit

    def _keep(self, family: Clusters, best: Fit, inertia: float, history: list[dict[str, Any]]) -> None:
        """Set the fitted attributes; the labels of an earlier fit are no longer true."""
        self.cluster_centers_ = family.to_user(best.parameters)
        self.inertia_ = inertia
        self.n_iter_ = best.n_iter
        self.converged_ = best.status is Status.CONVERGED
        self.history_ = history
        if hasattr(self, "labels_"):
            del self.labels_
        self._complete()

    def _complete(self) -> None:
        self._n_features_out = self.n_clusters

    def _starts(
        self, family: Clusters, rows: Rows, engine: Engine, sample: RowSample, random_state: np.random.RandomState
    ) -> list[Array]:
        """Return the centres of all starts, in the frame."""
        if not (isinstance(self.init, str) or callable(self.init)):
            if self.n_init not in ("auto", 1):
                message = f"init gives the centres, so there is one start, not n_init={self.n_init}"
                warnings.warn(message, RuntimeWarning, stacklevel=4)
            return [family.from_user(check_array("init", self.init, (self.n_clusters, rows.n_features)))]
        if len(sample.rows) < self.n_clusters:
            message = f"a sample of {len(sample.rows)} rows cannot start {self.n_clusters} clusters"
            raise OptionError(message)
        n_init = self.n_init
        if n_init == "auto":
            n_init = 10 if self.init == "random" or callable(self.init) else 1
        return [family.from_user(self._start(rows, engine, sample, random_state)) for _ in range(int(n_init))]

    def _start(self, rows: Rows, engine: Engine, sample: RowSample, random_state: np.random.RandomState) -> Array:
        callbacks = self.callbacks or ()
        if self.init == "k-means||":
            centres, origin = kmeans_parallel(rows, engine, sample.rows, self.n_clusters, random_state, callbacks)
            return centres + origin
        how = getattr(self.init, "__name__", "callable") if callable(self.init) else self.init
        notify(callbacks, Preparing(f"looking for a start in the sample ({how})"))
        if callable(self.init):
            drawn = self.init(sample.rows, self.n_clusters, random_state=random_state)
            return check_array("what init returns", drawn, (self.n_clusters, rows.n_features))
        if self.init == "k-means++":
            from sklearn.cluster import kmeans_plusplus  # noqa: PLC0415 - as in `dem.initialise`

            return np.asarray(kmeans_plusplus(sample.rows, self.n_clusters, random_state=random_state)[0])
        return sample.rows[random_state.choice(len(sample.rows), self.n_clusters, replace=False)]

    def transform(self, X: Any, **source: Unpack[SourceOptions]) -> Any:
        """Return the distance of each row to each centre, shape (n_samples, n_clusters); of the kinds of `predict`."""
        return self._map(Distances, X, source)

    def fit_predict(self, X: Any, y: object = None, **source: Unpack[SourceOptions]) -> Any:
        """Find the clusters of X and return its labels."""
        return self.fit(X, y, **source).labels_

    def score(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        **source: Unpack[SourceOptions],
    ) -> float:
        """Return −Σ squared distance to the nearest centre, in one read."""
        family, centres = self._model()
        rows = inputs.rows_of(self, X, reset=False, **source)
        engine = current_engine()
        try:
            inertia = engine.sweep(rows, [EStep(family, centres)])[0].inertia
            if not math.isfinite(inertia):
                check_rows(rows, engine, family.support)
        finally:
            engine.close()
        return -float(inertia * family.unit)

    def _model(self) -> tuple[Any, Array]:
        """Return family and centres; the centres span the frame."""
        check_is_fitted(self)
        family = Clusters(Frame.of(self.cluster_centers_, isotropic=True))
        return family, family.from_user(self.cluster_centers_)
