"""Where EM starts from: a sample of the rows, and start methods on the sample or on all chunks."""

from dem.initialise.gaps import complete_rows, filled
from dem.initialise.kmeans_parallel import kmeans_parallel_start
from dem.initialise.sample import SAMPLE_METHODS, RowSample, row_sample, start_responsibilities

__all__ = [
    "SAMPLE_METHODS",
    "RowSample",
    "complete_rows",
    "filled",
    "kmeans_parallel_start",
    "row_sample",
    "start_responsibilities",
]
