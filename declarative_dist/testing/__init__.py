"""Checks of what constraints and families promise, for your own; they need no pytest."""

from declarative_dist.testing.checks import check_constraint, check_distribution
from declarative_dist.testing.promise import BrokenPromiseError

__all__ = ["BrokenPromiseError", "check_constraint", "check_distribution"]
