"""Objectives: modules whose forward is a scalar loss to minimise."""

from declarative_dist.objectives.elbo import ImportanceWeightedELBO, NegativeELBO

__all__ = ["ImportanceWeightedELBO", "NegativeELBO"]
