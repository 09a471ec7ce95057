"""`KMeans`: scikit-learn's k-means for data larger than memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dem.data.base import Rows
from dem.data.sources import RowOptions, SourceOptions, WeightedOptions
from dem.em.algorithm import Batch, Fit, Settings, Start
from dem.em.checkpoint import Checkpoint
from dem.em.predict import Distances, Labels, RowFunction, RowTotal
from dem.engine import Engine
from dem.errors import OptionError
from dem.estimators.checkpoints import drawn
from dem.estimators.options import POSITIVE, option
from dem.estimators.registry import ESTIMATORS
from dem.estimators.scaling import ScalesFeatures
from dem.estimators.sklearn_bases import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from dem.estimators.starts import search
from dem.events import Callback, Preparing, notify
from dem.families.base import Array, EStep, Support
from dem.families.gaussian.frame import Frame
from dem.families.kmeans import Clusters, ClusterStatistics
from dem.initialise import row_sample
from dem.initialise.kmeans_parallel import kmeans_parallel
from dem.initialise.sample import RowSample, in_units
from dem.units import plural
from dem.validation import check_array, check_sample


class KMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, ScalesFeatures):
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

    _too_few = "n_samples={1.n_rows} should be >= n_clusters={0.n_clusters} ({1.name})"
    _outcome = ("converged_", "n_iter_", "inertia_", "history_")
    _row_functions: ClassVar[dict[str, type[RowFunction]]] = {"labels": Labels, "distances": Distances}

    n_clusters: int = option(POSITIVE, default=8, kw_only=False)
    init: str | Callable[..., ArrayLike] | ArrayLike = option(
        StrOptions(set(ESTIMATORS["kmeans"].starts)), callable, "array-like", default="k-means||"
    )
    n_init: str | int = option(StrOptions({"auto"}), POSITIVE, default="auto")
    max_iter: int = option(POSITIVE, default=300)
    tol: float = option(Interval(Real, 0.0, None, closed="left"), default=1e-4)

    def _check_options(self) -> None:
        super()._check_options()
        if self.missing == "marginalise":
            message = "missing='marginalise' is for mixtures, not for k-means; give missing='skip', or fill the values"
            raise OptionError(message)

    def _finish(self, data: Any, source: SourceOptions) -> None:
        self.labels_ = self.predict(data, **source)

    def _support(self) -> Support:
        return Clusters.support

    @property
    def _not_converged(self) -> str:
        return f"k-means did not converge within {plural(self.max_iter, 'iteration')}; increase max_iter or tol"

    def _search(
        self,
        rows: Rows,
        engine: Engine,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint,
        *,
        goes_on: bool,  # noqa: ARG002
    ) -> tuple[Clusters, Fit, float]:
        random_state = check_random_state(self.random_state)
        n_wanted = None if self.sample_rows is None else max(self.sample_rows, self.n_clusters)
        seed = np.random.SeedSequence(random_state.randint(2**31 - 1, size=4).tolist())
        notify(self.callbacks or (), Preparing("drawing a sample of the rows"))
        reader = checkpoint.recorded(engine)
        sample = row_sample(rows, reader, n_wanted, seed)
        check_sample(sample, rows, reader, Clusters.support, self.n_clusters, "clusters")
        self._learn_units(rows, reader)
        family = self._family(sample.rows)
        starts = [Start(family, one) for one in self._starts(family, rows, reader, sample, random_state, checkpoint)]
        with np.errstate(over="ignore"):  # equal rows may be as large as they like
            enough = self.tol * float(in_units(sample.chunk, self._units).rows.var(axis=0).mean()) / family.unit
        settings = Settings(enough, self.max_iter, callbacks, checkpoint=checkpoint)
        fits = search(starts, sample, rows, engine, Batch(), settings, compare=len(starts) > 1)[None]
        fits = [one for one in fits if one.eligible]
        # The inertia of the centres that the last steps arrived at.
        ends: list[ClusterStatistics] = engine.sweep(rows, [EStep(family, one.parameters) for one in fits])
        inertia, best = min((end.inertia, i) for i, end in enumerate(ends))
        fits[best].component_status = family.status_of(ends[best])
        return family, fits[best], inertia * family.unit

    def _keep(self, history: list[dict[str, Any]], family: Any, best: Fit, *inertia: float) -> None:
        """Set the fitted attributes; the labels of an earlier fit are no longer true."""
        self.inertia_ = inertia[0] if inertia else -best.log_likelihood * best.n_rows
        self.__dict__.pop("labels_", None)
        super()._keep(history, family, best)

    def _complete(self) -> None:
        self._n_features_out = self.n_clusters

    def _family(self, rows: Array) -> Clusters:
        """Return the family with a frame that suits rows."""
        return Clusters(Frame.of(rows, isotropic=True, units=self._units), self._units)

    def _starts(
        self,
        family: Clusters,
        rows: Rows,
        engine: Engine,
        sample: RowSample,
        random_state: np.random.RandomState,
        checkpoint: Checkpoint,
    ) -> list[Array]:
        """Return the centres of all starts, in the frame."""
        if not (isinstance(self.init, str) or callable(self.init)):
            if self.n_init not in ("auto", 1):
                message = f"init gives the centres, so there is one start, not n_init={self.n_init}"
                warnings.warn(message, RuntimeWarning, stacklevel=4)
            centres = check_array("init", self.init, (self.n_clusters, rows.n_features))
            return [family.from_user({"cluster_centers": centres})]
        if len(sample.rows) < self.n_clusters:
            message = f"a sample of {len(sample.rows)} rows cannot start {self.n_clusters} clusters"
            raise OptionError(message)
        n_init = self.n_init
        if n_init == "auto":
            n_init = 10 if self.init == "random" or callable(self.init) else 1
        draw = partial(self._start, rows, engine, sample, random_state)
        starts = [drawn(checkpoint, random_state, draw) for _ in range(int(n_init))]
        return [family.from_user({"cluster_centers": centres}) for centres in starts]

    def _start(self, rows: Rows, engine: Engine, sample: RowSample, random_state: np.random.RandomState) -> Array:
        callbacks = self.callbacks or ()
        if self.init == "k-means||":
            centres, origin = kmeans_parallel(
                rows, engine, sample.rows, self.n_clusters, random_state, callbacks, self._units
            )
            return (centres if self._units is None else centres * self._units) + origin
        weights = sample.chunk.weights
        how = getattr(self.init, "__name__", "callable") if callable(self.init) else self.init
        notify(callbacks, Preparing(f"looking for a start in the sample ({how})"))
        if callable(self.init):
            given = self.init(sample.rows, self.n_clusters, random_state=random_state)
            return check_array("what init returns", given, (self.n_clusters, rows.n_features))
        if self.init == "k-means++":
            from sklearn.cluster import kmeans_plusplus  # noqa: PLC0415 - as in `dem.initialise`

            seen, size = in_units(sample.chunk, self._units).rows, self.n_clusters
            _, chosen = kmeans_plusplus(seen, size, sample_weight=weights, random_state=random_state)
            return np.asarray(sample.rows[chosen])
        share = None if weights is None else weights / weights.sum()
        return sample.rows[random_state.choice(len(sample.rows), self.n_clusters, replace=False, p=share)]

    def transform(self, X: Any, **given: Unpack[RowOptions]) -> Any:
        """Return the distance of each row to each centre, shape (n_samples, n_clusters); of the kinds of `predict`."""
        return self._map(Distances, X, given)

    def score(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        sample_weight: Any = None,
        **given: Unpack[RowOptions],
    ) -> float:
        """Return −Σ weight · squared distance to the nearest centre, in one read."""
        return -self._inertia(X, {**given, "sample_weight": sample_weight}).total

    def _inertia(self, data: Any, given: WeightedOptions) -> RowTotal:
        """Return the weight of all rows and their inertia, in one read."""
        statistics: ClusterStatistics = self._sums(data, given, EStep)[0]
        return RowTotal(statistics.n_rows, float(statistics.inertia * self._model()[0].unit))

    def _model(self) -> tuple[Any, Array]:
        """Return family and centres; the centres span the frame."""
        check_is_fitted(self)
        family = self._family(self.cluster_centers_)
        return family, family.from_user({"cluster_centers": self.cluster_centers_})
