"""scikit-learn's face of the families: thin classes without maths and without Dask."""

from dem.estimators.binomial import BernoulliMixture, BinomialMixture
from dem.estimators.forecast import Plan
from dem.estimators.gaussian import GaussianMixture
from dem.estimators.kmeans import KMeans
from dem.estimators.persistence import load
from dem.estimators.planning import plan
from dem.estimators.progress import Progress
from dem.estimators.selection import Selection, select

__all__ = [
    "BernoulliMixture",
    "BinomialMixture",
    "GaussianMixture",
    "KMeans",
    "Plan",
    "Progress",
    "Selection",
    "load",
    "plan",
    "select",
]
