"""What a mixture says of rows, and what it is worth on data."""

from __future__ import annotations

from typing import Any, Unpack

from dem.data.sources import RowOptions, WeightedOptions
from dem.em.predict import Entropy, LogDensity, LogLikelihood, Posterior, RowTotal
from dem.estimators.base import Estimator
from dem.estimators.criteria import Criteria


class Scores(Estimator):
    """Densities, responsibilities and criteria, for the base of mixtures."""

    def predict_proba(self, X: Any, **given: Unpack[RowOptions]) -> Any:
        """Return the responsibilities, shape (n_samples, n_components); of the kinds that `predict` returns."""
        return self._map(Posterior, X, given)

    def score_samples(self, X: Any, **given: Unpack[RowOptions]) -> Any:
        """Return the log-density of each row (nats), shape (n_samples,); of the kinds that `predict` returns."""
        return self._map(LogDensity, X, given)

    def score(
        self,
        X: Any,
        y: object = None,  # noqa: ARG002
        sample_weight: Any = None,
        **given: Unpack[RowOptions],
    ) -> float:
        """Return the mean log-likelihood per row (nats), in one read; the rows may have weights, as in `fit`."""
        return self._criteria(X, {**given, "sample_weight": sample_weight}).log_likelihood.mean

    def bic(self, X: Any, **given: Unpack[WeightedOptions]) -> float:
        """Return the Bayesian information criterion −2 log L + p log n (Schwarz 1978); lower is better."""
        return self._criteria(X, given).bic

    def aic(self, X: Any, **given: Unpack[WeightedOptions]) -> float:
        """Return the Akaike information criterion −2 log L + 2p (Akaike 1974); lower is better."""
        return self._criteria(X, given).aic

    def icl(self, X: Any, **given: Unpack[WeightedOptions]) -> float:
        """Return the integrated completed likelihood BIC + 2 · entropy (Biernacki et al. 2000); lower is better."""
        return self._criteria(X, given, Entropy).icl

    def _criteria(self, data: Any, given: WeightedOptions, *more: type[Entropy]) -> Criteria:
        """Return what the model is worth on data, in one read."""
        model = self._model()
        totals: list[RowTotal] = self._sums(data, given, LogLikelihood, *more)
        return Criteria(totals[0], model[0].n_parameters(model[1]), *totals[1:])
