"""Distributions that people need and torch does not have, and the cdfs that these need."""

from declarative_dist.wrappers import tails as tails
from declarative_dist.wrappers.cdfs import cdf, log_cdf, log_survival_function
from declarative_dist.wrappers.censored import Censored
from declarative_dist.wrappers.quantiles import icdf
from declarative_dist.wrappers.truncated import Truncated
from declarative_dist.wrappers.zero_inflated import ZeroInflated

__all__ = [
    "Censored",
    "Truncated",
    "ZeroInflated",
    "cdf",
    "icdf",
    "log_cdf",
    "log_survival_function",
]
