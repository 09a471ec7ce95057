"""Multivariate t components: Gaussian ones whose rows have scale weights of their own, so that outliers count less."""

from __future__ import annotations

from dem.families.student_t.component import StudentTComponent, StudentTParameters, fenced
from dem.families.student_t.kernel import StudentTStatistics

__all__ = ["StudentTComponent", "StudentTParameters", "StudentTStatistics", "fenced"]
