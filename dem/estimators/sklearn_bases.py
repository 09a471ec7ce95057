"""scikit-learn's base classes; to type checkers, which it tells nothing, classes that leave signatures whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BaseEstimator:
        """Has methods of scikit-learn, and attributes of any kind that a fit sets."""

        def __getattr__(self, name: str) -> Any: ...

        def __sklearn_tags__(self) -> Any: ...

    class DensityMixin:
        """Marks estimators of a density."""

    class ClusterMixin:
        """Marks clusterers."""

    class TransformerMixin:
        """Adds `fit_transform`."""

    class ClassNamePrefixFeaturesOutMixin:
        """Adds `get_feature_names_out`."""

else:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        ClusterMixin,
        DensityMixin,
        TransformerMixin,
    )

__all__ = ["BaseEstimator", "ClassNamePrefixFeaturesOutMixin", "ClusterMixin", "DensityMixin", "TransformerMixin"]
