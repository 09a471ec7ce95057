"""`VonMisesMixture` and `VonMisesFisherMixture`: mixtures of angles, and of directions in any number of dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.data.base import Chunk
from dem.errors import OptionError
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families import bessel
from dem.families.von_mises import VonMisesComponent
from dem.families.von_mises_fisher import VonMisesFisherComponent, lengths
from dem.initialise.sample import RowSample


class VonMisesMixture(IndependentFeaturesMixture):
    """Mixture of independent angles: directions, phases, times of day, fitted by expectation–maximisation.

    Angles are in radians, and those that differ by a whole turn are the same: of hours ``x * 2 * np.pi / 24``. Rows are
    drawn, and means lie, between −π and π.

    Parameters
    ----------
    means_init, concentrations_init : array-like of shape (n_components, n_features), optional
        Start given by the user.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Mean directions μ (radians).
    concentrations_ : ndarray of shape (n_components, n_features)
        Concentrations κ, at most 1e10: 0 is the uniform distribution, many a Gaussian of variance 1/κ.

    References
    ----------
    Mardia, K. V. and Jupp, P. E. (2000). Directional statistics. Wiley.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.vonmises(0.5, 9.0, size=(500, 1)), rng.vonmises(3.1, 9.0, size=(500, 1))])
    >>> vm = dem.VonMisesMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(np.abs(vm.means_[:, 0])).round(1)
    array([0.5, 3.1])
    """

    means_init: ArrayLike | None = option("array-like", None, default=None)
    concentrations_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> VonMisesComponent:
        return VonMisesComponent()

    def _chunk_of_start(self, sample: RowSample) -> Chunk:
        return replace(sample.chunk, rows=self._component().sufficient_statistics(sample.rows))

    def _deviations(self) -> NDArray[Any]:
        """Return the circular standard deviations √(−2 log R), with the mean resultant length R."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.sqrt(-2.0 * np.log(bessel.ratio(0.0, np.asarray(self.concentrations_)))))


class VonMisesFisherMixture(IndependentFeaturesMixture):
    """Mixture of von Mises–Fisher distributions of directions, such as embeddings and normalised rows, fitted by EM.

    Rows are of length 1 (within 1e-5, so that single precision will do). Rows of words or genes are brought there by
    ``X / np.linalg.norm(X, axis=1, keepdims=True)``; dimensions may be thousands.

    Parameters
    ----------
    means_init : array-like of shape (n_components, n_features), optional
        Start given by the user: rows of length 1.
    concentrations_init : array-like of shape (n_components,), optional
        Start given by the user.

    Attributes
    ----------
    means_ : ndarray of shape (n_components, n_features)
        Mean directions μ, of length 1.
    concentrations_ : ndarray of shape (n_components,)
        Concentrations κ, at most 1e10: 0 is the uniform distribution.

    References
    ----------
    Banerjee, A., Dhillon, I. S., Ghosh, J. and Sra, S. (2005). Clustering on the unit hypersphere using von
    Mises–Fisher distributions. Journal of Machine Learning Research 6.

    Examples
    --------
    >>> import numpy as np
    >>> import dem
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 5)) + np.repeat([[9, 0, 0, 0, 0], [0, 0, 9, 9, 0]], 300, axis=0)
    >>> X /= np.linalg.norm(X, axis=1, keepdims=True)
    >>> vmf = dem.VonMisesFisherMixture(n_components=2, random_state=0).fit(X)
    >>> np.sort(vmf.means_[:, 0]).round(1)
    array([0., 1.])
    """

    means_init: ArrayLike | None = option("array-like", None, default=None)
    concentrations_init: ArrayLike | None = option("array-like", None, default=None)

    def _component(self) -> VonMisesFisherComponent:
        return VonMisesFisherComponent()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        if n_features < 2:
            message = "directions have at least 2 coordinates, not 1; angles are for VonMisesMixture"
            raise OptionError(message)
        values = super()._initial_values(n_features)
        if "means" in values:
            sizes = lengths(values["means"])
            if np.any(np.abs(sizes - 1.0) > VonMisesFisherComponent.support.tolerance):
                k = int(np.argmax(np.abs(sizes - 1.0)))
                message = f"means_init must be rows of length 1, but that of component {k} is {sizes[k]:g}"
                raise OptionError(message)
            values["means"] = values["means"] / sizes[:, np.newaxis]
        return values
