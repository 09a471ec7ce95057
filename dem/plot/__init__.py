"""Pictures of fits, with matplotlib (``pip install 'dask-em[plot]'``).

Each function returns a figure, which a notebook shows as the last line of a cell; its `savefig` writes it to a file.
"""

from dem.plot.curves import convergence, selection
from dem.plot.segments import segmentation

__all__ = ["convergence", "segmentation", "selection"]


def __dir__() -> list[str]:
    return sorted(__all__)
