"""Sources of rows, whatever they lie in."""

from dem.data.base import Batch, Chunk, Rows
from dem.data.sources import open_rows

__all__ = ["Batch", "Chunk", "Rows", "open_rows"]
