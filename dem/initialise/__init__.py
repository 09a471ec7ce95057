"""Where EM starts from: a sample of the rows, and start methods on the sample or on all chunks."""

from dem.initialise.kmeans_parallel import kmeans_parallel_start
from dem.initialise.responsibilities import SAMPLE_METHODS, start_responsibilities
from dem.initialise.sample import RowSample, row_sample

__all__ = ["SAMPLE_METHODS", "RowSample", "kmeans_parallel_start", "row_sample", "start_responsibilities"]
