"""Rows drawn from a fitted mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from dem.errors import OptionError
from dem.estimators import inputs, streams
from dem.estimators.base import Estimator
from dem.validation import check_count


class Draws(Estimator):
    """The part of a mixture estimator that draws rows."""

    def sample(self, n_samples: int = 1) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int
            Number of rows. For more than fit in memory see `sample_to`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of int64, shape (n_samples,)
            The components they come from, in increasing order as in scikit-learn.
        """
        inputs.check_known(self, {})
        family, parameters, labels, rng = self._labels_drawn(n_samples)
        return family.component.sample(parameters.components, labels, rng), family.named(labels, parameters)

    def _labels_drawn(self, n_samples: int) -> tuple[Any, Any, NDArray[np.int64], np.random.Generator]:
        """Return the mixture, its parameters, the numbers of components drawn, and what draws their rows."""
        family, parameters = self._model()
        check_count("n_samples", n_samples)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1, size=4))
        weights = parameters.weights
        numbers = np.sort(rng.choice(len(weights), size=n_samples, p=weights / np.sum(weights)))
        return family, parameters, numbers, rng

    def sample_to(
        self,
        n_rows: int,
        path: str,
        *,
        random_state: int | None = None,
        overwrite: bool = False,
        chunk_rows: int | None = None,
    ) -> None:
        """Stream rows drawn from the mixture into a zarr group with the arrays ``rows`` and ``labels``.

        If it is ended, the same call goes on with the chunks that are not there; see docs/reliability.md.

        Parameters
        ----------
        n_rows : int
            Number of rows; memory holds a few chunks of them.
        path : str
            Where the group is written; it appears there only when it is whole.
        random_state : int, optional
            Seed; each chunk has its own stream of random numbers derived from it. Without one, every call draws other
            rows, whatever the estimator's own `random_state`.
        overwrite : bool
            Whether to replace what is at `path`, or what another job has left there that is not whole.
        chunk_rows : int, optional
            Rows per chunk; about 16 MB when left out.
        """
        if self._needs:
            name = type(self).__name__
            message = (
                f"rows of a {name} whose trials are those of each row are drawn in Python, by sample(n_rows, trials)"
            )
            raise OptionError(message)
        streams.sample_to(self, n_rows, path, random_state=random_state, overwrite=overwrite, chunk_rows=chunk_rows)
