"""dem fits latent-variable models by expectation–maximisation to data larger than memory.

Examples
--------
>>> import dem
>>> gm = dem.GaussianMixture(n_components=16, random_state=0)
>>> gm = gm.fit("measurements.zarr")  # doctest: +SKIP
>>> labels = gm.predict("measurements.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dem.estimators.registry import ESTIMATORS as _ESTIMATORS

if TYPE_CHECKING:
    from dem import plot as plot
    from dem.data import open_rows as open_rows
    from dem.estimators import *  # noqa: F403

__version__ = "0.1.0"

# Public names and where they live; imported on first use, so that `import dem` costs almost nothing.
_PUBLIC = {
    **{entry.class_name: entry.estimator.partition(":")[0] for entry in _ESTIMATORS.values()},
    "AdaptedMixtures": "dem.estimators.adapted",
    "Plan": "dem.estimators.forecast",
    "Progress": "dem.estimators.progress",
    "Selection": "dem.estimators.selection",
    "load": "dem.estimators.persistence",
    "open_rows": "dem.data",
    "plan": "dem.estimators.planning",
    "plot": "dem.plot",
    "select": "dem.estimators.selection",
}

__all__ = ["__version__"]
__all__ += list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        message = f"module 'dem' has no attribute {name!r}"
        raise AttributeError(message)
    module = importlib.import_module(_PUBLIC[name])
    return module if name == "plot" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
