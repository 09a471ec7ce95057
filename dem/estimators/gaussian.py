"""`GaussianMixture`: scikit-learn's estimator for data larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from dem.errors import OptionError
from dem.estimators.base import MixtureEstimator
from dem.events import Callback
from dem.families.gaussian import COVARIANCE_TYPES, GaussianComponent
from dem.families.mixture import Mixture
from dem.validation import check_array, check_precisions, check_weights, shape_of_covariances


class GaussianMixture(MixtureEstimator):
    """Gaussian mixture fitted by expectation–maximisation, on data in memory or far larger.

    Parameters, attributes and methods are those of `sklearn.mixture.GaussianMixture`; the data may also be a path
    or URL of a zarr array, an open `zarr.Array`, a Dask array or an xarray object. It runs on threads of this
    process, or on a Dask cluster while a `distributed.Client` is active, to the same bits.

    Parameters
    ----------
    n_components : int, default=1
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    tol : float, default=1e-3
        EM stops when the log-likelihood per row changes by less.
    reg_covar : float, default=1e-6
        Added to the variances in every M-step, in squared units of the data.
    max_iter : int, default=100
        EM iterations at most; each one reads all the data once.
    algorithm : {'auto', 'batch', 'incremental', 'stepwise'}, default='batch'
        When the parameters move on: after each read of all data, as in scikit-learn; after each of some 40 blocks of
        it, in EM whose free energy never falls (Neal and Hinton 1998) and which needs fewer reads; or in one read of
        stepwise EM (Cappé and Moulines 2009) and then as incremental. All end at maxima of the same likelihood.
        ``'auto'`` takes what needed the fewest reads in the benchmark of docs/algorithms.md: batch with SQUAREM.
    max_in_flight : int, optional
        Blocks under way at once unless the algorithm is batch; a tenth of all by default. More keep more workers busy
        and need more reads. The bits depend on it, but not on the workers.
    step_power : float, default=0.7
        In stepwise EM and `partial_fit` step t has the size (t + 2)^−step_power; between ½ and 1.
    n_init : int, default=1
        Number of starts; the likeliest is kept, and no start ends otherwise than it would alone. In batch EM they
        advance together on each read, each to its own end, so that they cost the reads of the slowest. Data larger than
        the sample compares them on the sample and polishes the best three together. In incremental and stepwise EM only
        the best of the sample goes on; if the sample is all the data, they run one after another. A start that fails
        is left out; it is an error if all do.
    racing : bool, default=False
        Whether starts that fall behind in batch EM are dropped before they have converged: fewer reads, at most 1.2
        times those of the one that wins, but what is dropped might have won. docs/algorithms.md says how often.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', 'k-means||'}, default='kmeans'
        How to start; all but the last look at the sample only, with scikit-learn's meaning. ``'k-means||'``
        draws its seeds from all chunks.
    weights_init, means_init, precisions_init : array-like, optional
        Start given by the user, of the shapes of `weights_`, `means_` and `precisions_`.
    random_state : int, RandomState or None
        Seed of the sample and the start.
    warm_start : bool, default=False
        Whether another `fit` goes on from the current parameters.
    verbose, verbose_interval : int
        As in scikit-learn.
    sample_rows : int, optional
        Rows of the uniform random sample on which starts are chosen; as many as take 32 MiB by default. Data
        with no more rows is used whole, in order, so that it gives scikit-learn's own start.
    accelerate : {'squarem'}, optional
        SQUAREM extrapolates EM along its slow direction: worth it where EM takes hundreds of iterations (overlapping
        components, small `tol`). The log-likelihood still never falls: a point that is less likely is refused, and
        costs the one read that told so.
    top_components : int, optional
        How many components an E-step computes for each row, for mixtures of hundreds: those that compete in its region,
        found before the data is read (after the sample, where there is one) and kept, so that the truncated
        log-likelihood, a lower bound, never falls. `lower_bound_` is that one. All components when left out, and in
        everything but `fit`. docs/performance.md says what it saves and what it loses.
    dtype : {'float32', 'float64'}, optional
        Precision of the arithmetic on rows; that of the data when left out, so that float32 data is computed in
        single precision: log-densities then carry an error of at most 5e-4 (typically 1e-5) nats. Where the
        parameters of an iteration would make it larger (tight or ill-conditioned components), that iteration runs in
        double precision. Sums over blocks of rows are double always.
    callbacks : sequence of Callback, optional
        Called with every event of `fit` (`dem.events`).

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
    means_ : ndarray of shape (n_components, n_features)
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Full (K, d, d), tied (d, d), diag (K, d), spherical (K,).
    converged_ : bool
    n_iter_ : int
        Iterations on all the data.
    lower_bound_ : float
        Log-likelihood per row (nats) of the parameters that entered the last iteration.
    lower_bounds_ : list of float
        The same for each iteration.
    n_samples_seen_ : int
        Rows that `fit`, or all calls of `partial_fit`, have learned from.
    history_ : list of dict
        One per iteration and model, on the sample and on the data: phase, model, iteration, log_likelihood,
        gain, seconds.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Defined when the data names its features.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). Maximum likelihood from incomplete data via the EM
    algorithm. JRSS B 39.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = dem.GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(gm.means_[:, 0]).round(6)
    array([ 1., 10.])
    >>> bool(gm.predict([[0, 0]])[0] == gm.predict([[1, 2]])[0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MixtureEstimator._parameter_constraints,
        "covariance_type": [StrOptions(set(COVARIANCE_TYPES))],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "dtype": [StrOptions({"float32", "float64"}), None],
    }
    _parameter_names = ("weights", "means", "covariances", "precisions_cholesky")
    _centres = "means"

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        algorithm: str = "batch",
        max_in_flight: int | None = None,
        step_power: float = 0.7,
        n_init: int = 1,
        racing: bool = False,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        sample_rows: int | None = None,
        accelerate: str | None = None,
        top_components: int | None = None,
        dtype: str | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.algorithm = algorithm
        self.max_in_flight = max_in_flight
        self.step_power = step_power
        self.n_init = n_init
        self.racing = racing
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.sample_rows = sample_rows
        self.accelerate = accelerate
        self.top_components = top_components
        self.dtype = dtype
        self.callbacks = callbacks

    def _component(self) -> GaussianComponent:
        return GaussianComponent(self.covariance_type, self.reg_covar, dtype=self.dtype)

    def _family(self) -> Mixture[Any, Any]:
        return Mixture(self._component(), top_components=self.top_components)

    def _fitted_family(self) -> Mixture[Any, Any]:
        component = self._component().around(np.asarray(self.means_), np.asarray(self.covariances_))
        return Mixture(component, top_components=self.top_components)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values: dict[str, NDArray[Any]] = {}
        if self.weights_init is not None:
            values["weights"] = check_weights(self.weights_init, self.n_components)
        if self.means_init is not None:
            values["means"] = check_array("means_init", self.means_init, (self.n_components, n_features), "means")
        if self.precisions_init is not None:
            precisions = check_precisions(self.precisions_init, self.covariance_type, self.n_components, n_features)
            values.update(self._component().from_precisions(precisions))
        return values

    def _check_goes_on(self) -> None:
        super()._check_goes_on()
        wanted = shape_of_covariances(self.covariance_type, *np.shape(self.means_))
        if np.shape(self.covariances_) != wanted:
            message = (
                f"the fitted model, which is to go on, has covariances of another type than {self.covariance_type!r}"
            )
            raise OptionError(message)

    def _complete(self) -> None:
        self.precisions_ = self._component().shape.precisions(self.precisions_cholesky_)
