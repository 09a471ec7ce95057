"""Factor analysers: Gaussian components whose covariance is of low rank, but for a diagonal."""

from __future__ import annotations

from dem.families.factor_analyzer.component import FactorAnalyzerComponent
from dem.families.factor_analyzer.parameters import FactorParameters

__all__ = ["FactorAnalyzerComponent", "FactorParameters"]
