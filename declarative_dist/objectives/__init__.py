"""Objectives: modules whose forward is a scalar loss to minimise."""

from declarative_dist.objectives.elbo import ImportanceWeightedELBO, NegativeELBO
from declarative_dist.objectives.likelihood import NegativeLogLikelihood
from declarative_dist.objectives.posterior import NegativeLogPosterior

__all__ = [
    "ImportanceWeightedELBO",
    "NegativeELBO",
    "NegativeLogLikelihood",
    "NegativeLogPosterior",
]
