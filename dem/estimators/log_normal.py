"""`LogNormalMixture`: Gaussian mixtures of logarithms, as densities of the numbers themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dem.data.base import Chunk
from dem.errors import OptionError
from dem.estimators.gaussian import GaussianMixture
from dem.families.base import Component
from dem.families.log_normal import LogNormalComponent, logarithms
from dem.initialise.sample import RowSample


class LogNormalMixture(GaussianMixture):
    """Mixture of multivariate log-normal distributions: positive numbers, such as sizes, incomes and concentrations.

    The logarithms (to the base e) of the rows are a Gaussian mixture, of which `means_`, `covariances_` and all options
    are; densities, criteria, draws and imputed values are of the numbers themselves, so that BIC compares it with other
    families of the same data. SciPy's parameters of a feature are ``s`` (the deviation of its logarithm) and
    ``scale=medians_``. Units do not matter: `reg_covar` 1e-6 is a relative deviation of 0.001. There is no `scale` and
    no `prior`.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Means of the logarithms.
    medians_ : ndarray of shape (n_components, n_features)
        Medians (geometric means) of the numbers, ``exp(means_)``.
    covariances_, precisions_, precisions_cholesky_ : ndarray
        Of the logarithms, of the shapes that `GaussianMixture` has.

    References
    ----------
    Crow, E. L. and Shimizu, K. (1988). Lognormal distributions: theory and applications. Dekker.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.exp(np.concatenate([rng.normal(0.0, 0.3, (500, 2)), rng.normal(3.0, 0.5, (500, 2))]))
    >>> ln = dem.LogNormalMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(ln.medians_[:, 0]).round()
    array([ 1., 20.])
    """

    def _own_component(self, *, fitted: bool) -> Component[Any, Any]:
        return LogNormalComponent(self._gaussian_as_fitted() if fitted else self._gaussian())

    def _chunk_of_start(self, sample: RowSample) -> Chunk:
        return replace(sample.chunk, rows=logarithms(sample.rows))

    def _check_options(self) -> None:
        super()._check_options()
        for name, value in (("scale", self.scale), ("prior", self.prior)):
            if value:
                message = f"{name} is not for logarithms, whose units are those of no feature: leave it out"
                raise OptionError(message)

    def _complete(self) -> None:
        super()._complete()
        self.medians_ = np.exp(self.means_)
