"""Sources of rows, whatever they lie in, and functions of rows with results of the same kind."""

from dem.data.base import Batch, Chunk, Rows
from dem.data.mapping import map_rows
from dem.data.sources import open_rows

__all__ = ["Batch", "Chunk", "Rows", "map_rows", "open_rows"]
