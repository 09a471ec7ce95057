"""`weight_concentration=`: the part of a mixture estimator that knows of a prior of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

from sklearn.utils._param_validation import Interval

from dem.engine import Work
from dem.errors import OptionError
from dem.estimators.base import Estimator
from dem.estimators.options import option


class WeighsComponents(Estimator):
    """Base of mixtures whose weights may have a prior.

    Parameters
    ----------
    weight_concentration : float, default=1.0
        α of a symmetric Dirichlet prior of the weights: they are (n_k + α − 1) / (n + K (α − 1)), as if each component
        had α − 1 rows more, so that none becomes empty. At 1 they are those of maximum likelihood. Smaller ones are
        refused: a component with fewer than 1 − α rows would get a negative weight.
    """

    weight_concentration: float = option(Interval(Real, 0.0, None, closed="neither"), default=1.0)

    #: an option of some mixtures: whether EM updates the weights
    fit_weights = True

    def _measures(self) -> Sequence[Work]:
        """Return what priors ask of all rows, on the read of the sample."""
        return ()

    def _check_options(self) -> None:
        super()._check_options()
        if self.weight_concentration < 1.0:
            message = (
                f"weight_concentration must be at least 1, not {self.weight_concentration}: a component with fewer "
                "rows than 1 - weight_concentration would get a negative weight"
            )
            raise OptionError(message)
        if self.weight_concentration > 1.0 and not self.fit_weights:
            message = "weight_concentration needs weights that are fitted: set fit_weights=True, or leave it out"
            raise OptionError(message)
