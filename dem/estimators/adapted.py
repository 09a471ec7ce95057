"""Mixtures that were adapted, of which only what changed is held."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.estimators.inputs import labels_of
from dem.units import whole

# What a group keeps beside its parameters.
_OF_GROUPS = ("n_rows", "log_likelihoods", "counts")
# Sizes by which the dimensions of fitted arrays are told apart: no other has them.
_SIZE, _FEATURES = 1_000_003, 1_000_033
# Attributes that tell of the fit behind, of which an adapted model is none.
_OF_THE_FIT = ("_raw", "_checkpoint", "_job", "_held_rows", "_rows_of_start")


@dataclass(frozen=True, eq=False)
class AdaptedMixtures:
    """A mixture adapted to each of several groups of rows; ``adapted[group]`` is the mixture of one, fitted.

    Attributes
    ----------
    background : estimator
        The mixture that was adapted.
    groups : ndarray of shape (n_groups,)
        The groups that have rows which count, sorted.
    n_rows : ndarray of shape (n_groups,)
        For how many rows each counts.
    log_likelihoods : ndarray of shape (n_groups,)
        Log-likelihood of the rows of each under the background, in all.
    counts : ndarray of shape (n_groups, n_components)
        Sums of responsibilities.
    parameters : dict of ndarray
        What was adapted, by the names of the fitted attributes without the underscore at the end: ``means``, shape
        (n_groups, n_components, n_features), …
    """

    background: Any
    groups: NDArray[Any]
    n_rows: NDArray[np.float64]
    log_likelihoods: NDArray[np.float64]
    counts: NDArray[np.float64]
    parameters: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.groups.tolist())

    def __repr__(self) -> str:
        return f"AdaptedMixtures({len(self)} groups; {', '.join(self.parameters)})"

    def __getitem__(self, group: Any) -> Any:
        """Return the mixture of a group.

        Raises
        ------
        KeyError
            If no row of that group counts: its mixture is `background`.
        """
        (where,) = np.nonzero(self.groups == group)
        if not len(where):
            raise KeyError(group)
        place = where[0]
        own = {name: array[place] for name, array in self.parameters.items()}
        return moved(self.background, own, float(self.n_rows[place]), float(self.log_likelihoods[place]))

    def to_xarray(self) -> Any:
        """Return an `xarray.Dataset` over ``group``, ``component`` and the features, with their names."""
        import xarray as xr  # noqa: PLC0415 - optional

        feature = getattr(self.background, "feature_dim_", "feature")
        words = {_SIZE: "component", _FEATURES: feature}
        # Behind the components may be a background.
        counted = "component" if self.counts.shape[1] == self.background.n_components else "component_or_background"
        dims = {"counts": ("group", counted), "n_rows": ("group",), "log_likelihoods": ("group",)}
        data = {name: (dims[name], getattr(self, name)) for name in _OF_GROUPS}
        for name, array in self.parameters.items():
            own = ["group"]
            for axis, size in enumerate(self.background._shape(name, _SIZE, _FEATURES)[: array.ndim - 1]):
                word = words.get(size, f"{name}_{axis}")
                own.append(f"{word}_2" if word in own else word)
            data[name] = (tuple(own), array)
        coordinates: dict[str, Any] = {"group": self.groups}
        labels = labels_of(self.background, "_in_")
        if labels is not None:
            coordinates[feature] = np.asarray(labels.tolist())
        return xr.Dataset(data, coordinates)

    def save(self, path: str, *, overwrite: bool = False) -> None:
        """Write the background and what was adapted as a zarr group that `dem.load` reads, without pickles."""
        self.background._save_adapted(self, path, overwrite=overwrite)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What there is of each group, by name."""
        return {**self.parameters, **{name: np.asarray(getattr(self, name)) for name in _OF_GROUPS}}

    @property
    def told(self) -> dict[str, Any]:
        """Which groups, and what was adapted, as JSON holds it."""
        return {"parameters": [*self.parameters], "groups": self.groups.tolist()}


def restored(estimator: Any, arrays: dict[str, NDArray[Any]], told: dict[str, Any] | None) -> Any:
    """Return adapted mixtures from what `AdaptedMixtures.save` wrote; the estimator itself where that told nothing."""
    if told is None:
        return estimator
    groups = np.array(told["groups"])
    parameters = {str(name): arrays[name] for name in told["parameters"]}
    for name, array in arrays.items():
        like = np.shape(getattr(estimator, f"{name}_")) if name in parameters else array.shape[1:]
        if array.shape != (len(groups), *like):
            message = f"{name} of {len(groups)} groups are of shape {(len(groups), *like)}, not {array.shape}"
            raise ValueError(message)
    n_rows, log_likelihoods, counts = (arrays[name] for name in _OF_GROUPS)
    return AdaptedMixtures(estimator, groups, n_rows, log_likelihoods, counts, parameters)


def moved(estimator: Any, values: dict[str, NDArray[Any]], n_rows: float, log_likelihood: float) -> Any:
    """Return a copy of a fitted estimator with other parameters."""
    ours = copy.copy(estimator)
    for name in _OF_THE_FIT:
        vars(ours).pop(name, None)
    for name, value in values.items():
        setattr(ours, f"{name}_", np.array(value))
    ours.lower_bound_ = log_likelihood / n_rows
    ours.lower_bounds_, ours.n_iter_, ours.converged_, ours.history_ = [ours.lower_bound_], 1, True, []
    ours.n_samples_seen_, ours.n_retries_, ours.bad_chunks_ = whole(n_rows), 0, []
    ours._complete()
    family, parameters = ours._model()
    ours.component_status_ = [*family.component_status(parameters, n_rows)]
    return ours
