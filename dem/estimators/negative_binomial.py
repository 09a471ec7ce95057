"""`NegativeBinomialMixture`: mixtures of independent counts that scatter more than Poisson's."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from dem.errors import OptionError
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.negative_binomial import LEAST, MOST, NegativeBinomialComponent


class NegativeBinomialMixture(IndependentFeaturesMixture):
    """Mixture of independent negative binomial features, fitted by expectation–maximisation.

    Counts of mean μ and variance μ + μ²/r, such as reads of genes or visits to a doctor, which vary more than
    `PoissonMixture` has it. EM is exact: a count is a sum of a Poisson number of logarithmic ones, and that number is
    taken as missing (Quenouille 1949, Adamidis 1999).

    As r grows, the distribution becomes Poisson's. r is sought between 1e-6 and 1e6; where counts scatter no more than
    Poisson's, it grows towards the upper bound as long as EM goes on. One iteration takes about a share 1/r of the way
    to the best r: where r or the counts are large, SQUAREM (``algorithm='auto'``) needs far fewer. At the default `tol`
    EM may stop some per cent (4 to 8) short of the best r, and 0.001 nats a row of the best likelihood; a smaller one
    goes on. (A step that went all the way would need to know how often each count has come in each component, sums
    whose size the data decides.)

    Parameters
    ----------
    size : float, optional
        r of all components and features at the start; from the variances of the start where left out.
    fit_size : {'free', 'shared', 'fixed'}, default='free'
        Whether each component gets its own r of each feature, all components one of each feature, or r stays as it
        starts (then `size` or `sizes_init` must be given).
    means_init, sizes_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Mean counts μ.
    sizes_ : ndarray of shape (n_components, n_features)
        r, which R calls ``size``; its inverse is the dispersion α of statsmodels. scipy has
        ``nbinom(sizes_, sizes_ / (sizes_ + means_))``.

    References
    ----------
    Adamidis, K. (1999). An EM algorithm for estimating negative binomial parameters. Australian & New Zealand Journal
    of Statistics 41.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = rng.negative_binomial(2.0, 2.0 / (2.0 + np.repeat([[3.0, 50.0], [40.0, 5.0]], 2000, axis=0)))
    >>> nb = dem.NegativeBinomialMixture(2, fit_size="shared", algorithm="auto", tol=1e-6, random_state=0).fit(X)
    >>> bool(abs(nb.sizes_ - 2.0).max() < 0.2)
    True
    """

    size: float | None = option(Interval(Real, LEAST, MOST, closed="both"), None, default=None)
    fit_size: str = option(StrOptions({"free", "shared", "fixed"}), default="free")
    means_init: ArrayLike | None = option("array-like", None, default=None)
    sizes_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> NegativeBinomialComponent:
        return NegativeBinomialComponent(None if self.size is None else float(self.size), self.fit_size)

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        if self.fit_size == "shared" and "sizes" in values and np.ptp(values["sizes"], axis=0).any():
            message = "sizes_init must be the same for all components of a feature, as fit_size='shared' asks for"
            raise OptionError(message)
        return values

    def _check_options(self) -> None:
        super()._check_options()
        if self.fit_size == "fixed" and self.size is None and self.sizes_init is None:
            message = "fit_size='fixed' needs to know r: give size or sizes_init"
            raise OptionError(message)
