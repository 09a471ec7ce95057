"""`MultinomialMixture`: mixtures of rows of counts, such as words of documents or genes of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dem.errors import OptionError
from dem.estimators.independent import IndependentFeaturesMixture
from dem.estimators.options import option
from dem.families.multinomial import MultinomialComponent
from dem.initialise.sample import RowSample


class MultinomialMixture(IndependentFeaturesMixture):
    """Mixture of multinomial rows of counts, each of any total, fitted by expectation–maximisation.

    Each row counts in which column its events have fallen: words of a document, genes of a cell. Components differ in
    the probabilities of the columns; the totals tell them nothing. Sparse rows (CSR, in memory or in zarr as AnnData
    has them) are computed with as they are.

    Parameters
    ----------
    probabilities_init : array-like of shape (n_components, n_features), optional
        Start given by the user; each row sums to 1. `row_totals_` then start at the mean total of the rows.

    Attributes
    ----------
    probabilities_ : ndarray of shape (n_components, n_features)
        Probability of each column; each row sums to 1.
    row_totals_ : ndarray of shape (n_components,)
        Mean total of the rows of each component. No density depends on it; `sample` draws totals from Poisson
        distributions of these means.

    References
    ----------
    Nigam, K., McCallum, A. K., Thrun, S. and Mitchell, T. (2000). Text classification from labeled and unlabeled
    documents using EM. Machine Learning 39.

    Examples
    --------
    >>> import dem
    >>> import scipy.sparse
    >>> X = scipy.sparse.csr_array([[5, 0, 1], [9, 1, 0], [0, 3, 8], [0, 2, 4]])
    >>> mm = dem.MultinomialMixture(2, random_state=0).fit(X)
    >>> mm.predict(X).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """

    probabilities_init: ArrayLike | None = option("array-like", None, default=None)
    _sums_to_one = True

    @property
    def _parameter_names(self) -> tuple[str, ...]:
        return ("weights", "probabilities", "row_totals")

    def _component(self) -> MultinomialComponent:
        return MultinomialComponent()

    def _initial_values(self, n_features: int) -> dict[str, NDArray[Any]]:
        values = super()._initial_values(n_features)
        found = values.get("probabilities")
        if found is not None and not np.allclose(found.sum(axis=1), 1.0, rtol=0.0, atol=1e-6):
            message = "each row of probabilities_init must sum to 1"
            raise OptionError(message)
        return values

    def _given_start(self, sample: RowSample) -> dict[str, NDArray[Any]]:
        given = super()._given_start(sample)
        if "probabilities" in given:  # of which no totals follow, but the first step of stepwise EM weighs by them
            totals = np.asarray(sample.rows, dtype=np.float64).sum(axis=1)
            mean = np.average(totals, weights=sample.chunk.weights)
            given["row_totals"] = np.full(self.n_components, mean)
        return given
