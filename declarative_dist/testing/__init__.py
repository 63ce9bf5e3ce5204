"""Checks of what constraints and families promise, for your own; they need no pytest."""

from declarative_dist.testing.constraint import check_constraint
from declarative_dist.testing.distribution import check_distribution
from declarative_dist.testing.promise import BrokenPromiseError

__all__ = ["BrokenPromiseError", "check_constraint", "check_distribution"]
