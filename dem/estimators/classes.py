"""What a mixture of parts tells of its classes: parameters by columns, tables, drawn and imputed rows."""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dem.data.sources import source_kind
from dem.estimators.mixture import MixtureEstimator
from dem.estimators.parts import GivenPart, numbers_of
from dem.families.product import named

# Families whose columns may hold text.
CATEGORICAL, TWO_VALUES = "categorical", "bernoulli"


class DescribesClasses(MixtureEstimator):
    """The part of `Mixture` that speaks of the fitted classes."""

    # What parts have learned beside their parameters.
    _part_outcomes: list[dict[str, Any]] | None = None

    @property
    @abstractmethod
    def _parts(self) -> list[GivenPart]:
        """The parts, with what is known of their columns."""

    def _fitted_parts(self) -> list[GivenPart]:
        """Return the parts, whose estimators have the parameters of the fit."""
        parts = self._parts
        for number, part in enumerate(parts):
            values = {name: getattr(self, f"{named(number, name)}_") for name in names_of_parameters(part)}
            vars(part.estimator).update({f"{name}_": value for name, value in values.items()}, weights_=self.weights_)
        return parts

    @property
    def parameters_(self) -> dict[str, dict[str, NDArray[Any]]]:
        """The parameters of each part by the names of its family: ``{"height,weight": {"means": …}}``.

        Model files have their arrays, as ``part0_means``, …
        """
        return {
            part.key: {name: getattr(self, f"{named(number, name)}_") for name in names_of_parameters(part)}
            for number, part in enumerate(self._parts)
        }

    def _spreads(self) -> NDArray[np.float64]:
        """Return the standard deviations of columns, NaN where the family tells none, (n_components, n_features)."""
        found = np.full(np.shape(self.means_), np.nan)
        for part, numbers in zip(fitted := self._fitted_parts(), numbers_of(fitted), strict=True):
            if (own := part.estimator._deviations()) is not None:
                found[:, numbers] = own
        return found

    def class_table(self) -> list[dict[str, Any]]:
        """Return what each class (component) is like: its size, and P(category | class) of every column.

        Returns
        -------
        list of dict
            A row for each category of a column, with ``'column'``, ``'category'`` and the probabilities ``'class 0'``,
            …; of columns of numbers their ``'mean'``, and of Gaussian ones their ``'standard deviation'``. The first
            row is the sizes of the classes. ``pandas.DataFrame(…)`` takes it as it is.
        """
        rows = [_row("", "class size", np.asarray(self.weights_))]
        means, deviations = np.asarray(self.means_), self._spreads()
        for part, numbers in zip(parts := self._parts, numbers_of(parts), strict=True):
            for place, (name, number) in enumerate(zip(part.names, numbers, strict=True)):
                shares = self._shares(part, place)
                values = self._values_of(name, len(shares.T)) if shares is not None else []
                for value, of_value in zip(values, () if shares is None else shares.T, strict=True):
                    rows.append(_row(name, value, of_value))
                if shares is None:
                    rows.append(_row(name, "mean", means[:, number]))
                    if not np.isnan(deviations[:, number]).any():
                        rows.append(_row(name, "standard deviation", deviations[:, number]))
        return rows

    def _shares(self, part: GivenPart, place: int) -> NDArray[np.float64] | None:
        """Return P(category | component) of a column of a part, (n_components, n_categories); None of numbers."""
        if part.family not in (CATEGORICAL, TWO_VALUES):
            return None
        found = np.asarray(self.parameters_[part.key]["probabilities"])[:, place]
        if part.family == TWO_VALUES:
            return np.column_stack([1.0 - found, found])
        known = (self._part_outcomes or [{}])[[one.key for one in self._parts].index(part.key)].get("n_categories_")
        return found if known is None else found[:, : known[place]]

    def _values_of(self, name: Any, n: int) -> list[Any]:
        """Return the categories of a column, which are numbers where nothing else is known of them."""
        known: list[Any] = list(vars(self).get("categories_", {}).get(name, ()))
        return known + list(range(len(known), n))

    def _table(self) -> tuple[list[str] | None, NDArray[Any]]:
        """Return means, or the most probable category and its probability; see `Describes`."""
        means, deviations = np.asarray(self.means_), self._spreads()
        cells = np.empty(means.shape, dtype=object)
        headings = [""] * means.shape[1]
        for part, numbers in zip(parts := self._parts, numbers_of(parts), strict=True):
            for place, (name, number) in enumerate(zip(part.names, numbers, strict=True)):
                headings[number] = name if isinstance(name, str) else f"feature {name}"
                named_ones = part.family == CATEGORICAL or name in vars(self).get("categories_", {})
                shares = self._shares(part, place) if named_ones else None
                for k, mean in enumerate(means[:, number]):
                    if shares is None:
                        spread = deviations[k, number]
                        cells[k, number] = f"{mean:.4g}" + ("" if np.isnan(spread) else f" ± {spread:.2g}")
                    else:
                        best = int(shares[k].argmax())
                        cells[k, number] = f"{self._values_of(name, len(shares.T))[best]} {shares[k, best]:.2f}"
        return headings, cells

    def _said(self, option: str) -> Any:
        """Return the families by their columns; see `Describes`."""
        return {part.key: part.family for part in self._parts} if option == "families" else super()._said(option)

    def sample(self, n_samples: int = 1) -> tuple[Any, NDArray[np.int64]]:
        """Draw rows from the fitted mixture.

        Parameters
        ----------
        n_samples : int
            Number of rows. For more than fit in memory see `sample_to`, which writes categories as their numbers.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), or DataFrame
            A DataFrame with the categories of the fit, if the columns have names and pandas is installed.
        y : ndarray of int64, shape (n_samples,)
            The components they come from, in increasing order as in scikit-learn.
        """
        rows, labels = super().sample(n_samples)
        return self._as_table(rows), labels

    def impute(self, X: Any, **given: Any) -> Any:
        """Return the data with its missing values filled in; see `GaussianMixture.impute`.

        A missing category becomes the most probable one. Of DataFrames the result has the categories of the fit, of
        other kinds of data their numbers, in the order of `categories_`.
        """
        found = super().impute(X, **given)
        if source_kind(X) != "pandas" or not hasattr(found, "columns"):
            return found
        return self._as_table(found.to_numpy(), found.index)

    def _as_table(self, rows: NDArray[Any], index: Any = None) -> Any:
        """Return rows as a DataFrame with categories in the place of their numbers, where columns have names."""
        names = getattr(self, "feature_names_in_", None)
        if names is None or importlib.util.find_spec("pandas") is None:
            return rows
        import pandas as pd  # noqa: PLC0415 - an optional package

        supports: Any = self._component_as_fitted().support
        columns = {}
        for number, name in enumerate(names):
            values = rows[:, number]
            if (known := vars(self).get("categories_", {}).get(name)) is not None:
                values = np.array(known, dtype=object)[np.rint(values).astype(int)]
                columns[name] = pd.Series(values, index).infer_objects()
            else:
                whole = supports.part_of(number)[1].whole and bool(np.all(values == np.rint(values)))
                columns[name] = pd.Series(values.astype(np.int64) if whole else values, index)
        return pd.DataFrame(columns)


def _row(column: Any, category: Any, values: NDArray[Any]) -> dict[str, Any]:
    """Return a row of the table of classes."""
    return {"column": column, "category": category, **{f"class {k}": float(v) for k, v in enumerate(values)}}


def names_of_parameters(part: GivenPart) -> list[str]:
    """Return the names of the parameters of a part, without the weights."""
    return [name for name in part.estimator._parameter_names if name != "weights"]
