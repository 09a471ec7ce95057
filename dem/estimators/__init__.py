"""scikit-learn's face of the families: thin classes without maths and without Dask.

Nothing is imported here at run time: `dem` takes the names from where `registry` and its own list say they are. Type
checkers read them below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem.estimators.binomial import BernoulliMixture as BernoulliMixture
    from dem.estimators.binomial import BinomialMixture as BinomialMixture
    from dem.estimators.exponential import ExponentialMixture as ExponentialMixture
    from dem.estimators.forecast import Plan as Plan
    from dem.estimators.gaussian import GaussianMixture as GaussianMixture
    from dem.estimators.geometric import GeometricMixture as GeometricMixture
    from dem.estimators.kmeans import KMeans as KMeans
    from dem.estimators.persistence import load as load
    from dem.estimators.planning import plan as plan
    from dem.estimators.poisson import PoissonMixture as PoissonMixture
    from dem.estimators.progress import Progress as Progress
    from dem.estimators.selection import Selection as Selection
    from dem.estimators.selection import select as select
    from dem.estimators.student_t import StudentTMixture as StudentTMixture
