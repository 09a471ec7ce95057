"""What a row of the table of cases is, and the numbers that several rows are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dem.estimators.measuring import family_for

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 1.0], [5.0, 1.0, -2.0], [-4.0, 6.0, 0.0]])
NOISE = np.array([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 0.6]])
PROBABILITIES = np.array([[0.9, 0.8, 0.1, 0.2, 0.9], [0.1, 0.2, 0.9, 0.7, 0.2], [0.5, 0.05, 0.05, 0.95, 0.95]])
RATES = np.array([[1.0, 9.0, 0.5, 4.0], [8.0, 1.0, 5.0, 0.2], [15.0, 3.0, 0.1, 20.0]])


@dataclass(frozen=True)
class Case:
    """A family, 3,000 rows drawn from a known mixture of three components, and what must come out."""

    name: str
    make: Callable[..., Any]
    data: Callable[[], np.ndarray]
    #: names of the fitted attributes that hold the parameters: the weights, what locates the components, others
    parameters: tuple[str, ...]
    #: how many free parameters the model has, counted by hand: weights, means, covariances or probabilities
    n_parameters: int
    #: what `dem fit` is told of the family
    shell: tuple[str, ...]
    #: the mixture that the data comes from: weights and the attribute that locates the components
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    #: how far a fit may be from the truth, in units of `truth`
    within: float = 0.1
    #: the means of a component's rows, or of their sufficient statistics, from what locates it
    means: Callable[[np.ndarray], np.ndarray] = lambda located: located
    #: the same from all parameters, under their users' names, where what locates a component does not tell
    means_of_all: Callable[[dict[str, np.ndarray]], np.ndarray] | None = None
    #: what of the rows these are the means of: T(x), where that is not x
    statistics: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
    #: how much each row (n, n_features) counts for what locates each component, (n, n_components), beside its
    #: responsibilities: by the mixture and its parameters
    row_weights: Callable[[Any, Any, np.ndarray], Any] = lambda *_: 1.0
    #: whether parameters, under their users' names, are some that the family admits
    admits: Callable[[dict[str, np.ndarray]], bool] = lambda _: True
    #: parameters that no component has of its own, under their users' names
    shared: tuple[str, ...] = ()
    #: iterations after which EM stands still
    n_iterations: int = 25
    #: how closely they then agree, whatever the way: flat directions are known to the root of rounding
    stands_within: float = 1e-8
    #: whether features are independent within a component
    independent: bool = True
    #: whether `make test` leaves it out: what it does differently from others, other tests look at
    is_slow: bool = False
    #: whether another row has the same family with another type of covariance, which the shell treats alike
    is_variant: bool = False
    #: whether its arithmetic is that of other rows, so that most laws look at it in `make test-thorough` alone
    is_alike: bool = False
    #: whether a uniform background is the last of the components, with the label −1 and a weight of its own
    background: bool = False
    #: what the model consists of besides, and how many reads look at all rows before a start
    besides: tuple[str, ...] = ()
    n_looks: int = 0
    #: options that leave the background out, and those without which it does not learn from a stream
    plain: dict[str, Any] = field(default_factory=dict)
    #: options that take the place of what a fit learns from all rows
    learnt: dict[str, Any] = field(default_factory=dict)
    #: for how many rows at the mean of all a prior counts in what locates each component
    prior_rows: float = 0.0
    #: the weights of components with so many rows
    weights_of: Callable[[np.ndarray], np.ndarray] = lambda counts: counts / counts.sum()
    for_streams: dict[str, Any] = field(default_factory=dict)

    def estimator(self, **options: Any) -> Any:
        return self.make(**{"n_components": 3, "random_state": 0, "tol": 1e-6, **options})

    def family(self, rows: np.ndarray | None = None, **options: Any) -> Any:
        """Return what the estimator fits, in the frame of the rows."""
        rows = self.data() if rows is None else rows
        return family_for(self.estimator(**options), np.asarray(rows, dtype=np.float64))

    def objective(self, model: Any) -> float:
        """Return what EM maximises, per row of the data, of a fitted model."""
        family, parameters = model._model()
        return model.score(rows := self.data()) + family.log_prior(parameters) / len(rows)

    @property
    def fitted(self) -> tuple[str, ...]:
        """The fitted attributes that a model consists of."""
        return (*self.parameters, *self.besides)

    @property
    def size(self) -> int:
        """The number of components, with the background."""
        return 3 + self.background

    @property
    def shares(self) -> np.ndarray:
        """The weights of all of them that the data comes from."""
        weights = self.truth["weights_"]
        return np.append(weights, 1.0 - weights.sum()) if self.background else weights

    def weights(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return the weights of all of them, from parameters under their users' names."""
        return np.append(values["weights"], values["noise_weight"]) if self.background else values["weights"]

    def labels(self, numbers: np.ndarray) -> np.ndarray:
        """Return the labels of components by their numbers."""
        return np.where(numbers < 3, numbers, -1)

    def row_means(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return the means of each component's rows, or statistics, from parameters under their users' names."""
        if self.means_of_all is not None:
            return self.means_of_all(values)
        return self.means(values[self.located.removesuffix("_")])

    @property
    def located(self) -> str:
        """The attribute that locates the components."""
        return self.parameters[1]

    def __str__(self) -> str:
        return self.name
