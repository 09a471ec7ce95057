"""What estimators may say of themselves: defaults that most keep, for fits, reports and model files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dem.data.base import Chunk, Rows
from dem.data.sources import SourceOptions
from dem.engine import Engine
from dem.estimators.options import Options
from dem.estimators.registry import Entry
from dem.initialise.sample import RowSample, in_units


class Describes(Options):
    """Base of `Estimator`: methods that a subclass overrides where its model is not like most."""

    #: what the registry tells: names of the size and of the parameter that locates the components
    _entry: ClassVar[Entry]

    @property
    def _knows(self) -> frozenset[str]:
        """What may be given of each row beside weights and labels: fields of a `Chunk`."""
        return frozenset()

    @property
    def _needs(self) -> Mapping[str, str]:
        """What must be given of each row, and the option that would stand for it."""
        return {}

    def _complete(self) -> None:
        """Derive the attributes that follow from the parameters."""

    def _finish(self, data: Any, source: SourceOptions) -> None:
        """Do what remains after a fit to all of `data`."""

    def _deviations(self) -> NDArray[np.float64] | None:
        """Return the standard deviation of each component in each feature, for models whose reports show it."""
        return None

    @property
    def _units(self) -> NDArray[np.float64] | None:
        """The standard deviations of the features, for models that measure them, as soon as they are known."""
        return vars(self).get("feature_scales_") if getattr(self, "scale", False) else None

    def _units_of_start(self, _: RowSample) -> NDArray[np.float64] | None:
        """Return in what units features are where a start is sought."""
        return self._units

    def _chunk_of_start(self, sample: RowSample) -> Chunk:
        """Return a sample as numbers whose distances tell how unlike rows are."""
        return in_units(sample.chunk, self._units_of_start(sample))

    @property
    def _named(self) -> list[str] | None:
        """The names of the columns to read, where options name all of them; else all columns are features."""
        return None

    def _table(self) -> tuple[list[str] | None, NDArray[np.float64]]:
        """Return what reports show of each component: headings, None for the features, and numbers, a row for each."""
        return None, np.asarray(getattr(self, f"{self._entry.location}_"))

    def _learn_units(self, rows: Rows, engine: Engine, like: Any = None) -> None:
        """Measure the features in one read, or take what another estimator has measured."""

    def _said(self, option: str) -> Any:
        """Return an option as reports tell it."""
        return getattr(self, option)

    def _encoded(
        self,
        data: Any,
        source: SourceOptions,
        *,
        reset: bool,  # noqa: ARG002
    ) -> tuple[Any, SourceOptions, Mapping[str, list[Any]] | None]:
        """Return data with numbers in the place of categories, how to open it, and the categories by column."""
        return data, source, None

    def _options_to_store(self) -> dict[str, Any]:
        """Return the options as model files hold them."""
        return dict(self.get_params(deep=False))

    @classmethod
    def _options_from_store(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Return options as model files hold them as `__init__` takes them."""
        return options

    def _check_goes_on(self) -> None:
        """Compare the options with the model that a warm start goes on from."""
