"""Constraints for declarative_dist."""

from declarative_dist import register_constraint
from declarative_dist_constraints.correlation import Correlation, CorrelationSet, correlation

__all__ = ["Correlation", "CorrelationSet", "correlation"]

register_constraint(CorrelationSet, Correlation)
