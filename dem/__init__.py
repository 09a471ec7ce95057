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

__version__ = "0.1.0"

# Public names and where they live; imported on first use, so that `import dem` costs almost nothing.
_PUBLIC = {
    "BernoulliMixture": "dem.estimators",
    "BinomialMixture": "dem.estimators",
    "GaussianMixture": "dem.estimators",
    "load": "dem.estimators",
    "KMeans": "dem.estimators",
    "Plan": "dem.estimators",
    "Progress": "dem.estimators",
    "Selection": "dem.estimators",
    "open_rows": "dem.data",
    "plan": "dem.estimators",
    "select": "dem.estimators",
}

__all__ = [
    "BernoulliMixture",
    "BinomialMixture",
    "GaussianMixture",
    "KMeans",
    "Plan",
    "Progress",
    "Selection",
    "__version__",
    "load",
    "open_rows",
    "plan",
    "plot",
    "select",
]

if TYPE_CHECKING:
    from dem import plot
    from dem.data import open_rows
    from dem.estimators import (
        BernoulliMixture,
        BinomialMixture,
        GaussianMixture,
        KMeans,
        Plan,
        Progress,
        Selection,
        load,
        plan,
        select,
    )


def __getattr__(name: str) -> Any:
    if name == "plot":
        return importlib.import_module("dem.plot")
    if name not in _PUBLIC:
        message = f"module 'dem' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
