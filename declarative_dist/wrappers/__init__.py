"""Distributions that people need and torch refused: truncated, censored, zero-inflated."""

from declarative_dist.wrappers import tails as tails
from declarative_dist.wrappers.cdfs import cdf, icdf, log_cdf, log_survival_function

__all__ = ["cdf", "icdf", "log_cdf", "log_survival_function"]
