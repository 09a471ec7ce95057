"""Linear regression in each component of a mixture."""

from dem.families.regression.component import RegressionComponent, RegressionParameters

__all__ = ["RegressionComponent", "RegressionParameters"]
