"""Information criteria, from sums over all rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dem.em.predict import RowTotal


@dataclass(frozen=True, eq=False)
class Criteria:
    """What a model with so many free parameters is worth on data; a lower criterion is better.

    Attributes
    ----------
    log_likelihood : RowTotal
        Nats.
    n_parameters : int
    entropy : RowTotal, optional
        Of the responsibilities, in nats; only the ICL needs it.
    """

    log_likelihood: RowTotal
    n_parameters: int
    entropy: RowTotal | None = None

    @property
    def bic(self) -> float:
        """The Bayesian information criterion −2 log L + p log n (Schwarz 1978)."""
        return -2.0 * self.log_likelihood.total + self.n_parameters * math.log(self.log_likelihood.n_rows)

    @property
    def aic(self) -> float:
        """The Akaike information criterion −2 log L + 2p (Akaike 1974)."""
        return -2.0 * self.log_likelihood.total + 2.0 * self.n_parameters

    @property
    def icl(self) -> float:
        """The integrated completed likelihood BIC + 2 · entropy (Biernacki et al. 2000)."""
        return math.nan if self.entropy is None else self.bic + 2.0 * self.entropy.total
