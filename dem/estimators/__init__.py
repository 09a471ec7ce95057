"""scikit-learn's face of the families: thin classes without maths and without Dask.

Nothing is imported here at run time: `dem` takes the names from where `registry` and its own list say they are. Type
checkers read them below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem.estimators.adapted import AdaptedMixtures as AdaptedMixtures
    from dem.estimators.bayesian import BayesianGaussianMixture as BayesianGaussianMixture
    from dem.estimators.beta import BetaMixture as BetaMixture
    from dem.estimators.binomial import BernoulliMixture as BernoulliMixture
    from dem.estimators.binomial import BinomialMixture as BinomialMixture
    from dem.estimators.categorical import CategoricalMixture as CategoricalMixture
    from dem.estimators.exponential import ExponentialMixture as ExponentialMixture
    from dem.estimators.factor_analyzer import FactorAnalyzerMixture as FactorAnalyzerMixture
    from dem.estimators.forecast import Plan as Plan
    from dem.estimators.gamma import GammaMixture as GammaMixture
    from dem.estimators.gaussian import GaussianMixture as GaussianMixture
    from dem.estimators.geometric import GeometricMixture as GeometricMixture
    from dem.estimators.kmeans import KMeans as KMeans
    from dem.estimators.log_normal import LogNormalMixture as LogNormalMixture
    from dem.estimators.mixed import Mixture as Mixture
    from dem.estimators.multinomial import MultinomialMixture as MultinomialMixture
    from dem.estimators.negative_binomial import NegativeBinomialMixture as NegativeBinomialMixture
    from dem.estimators.persistence import load as load
    from dem.estimators.planning import plan as plan
    from dem.estimators.poisson import PoissonMixture as PoissonMixture
    from dem.estimators.progress import Progress as Progress
    from dem.estimators.regression import RegressionMixture as RegressionMixture
    from dem.estimators.selection import Selection as Selection
    from dem.estimators.selection import select as select
    from dem.estimators.student_t import StudentTMixture as StudentTMixture
    from dem.estimators.von_mises import VonMisesFisherMixture as VonMisesFisherMixture
    from dem.estimators.von_mises import VonMisesMixture as VonMisesMixture
