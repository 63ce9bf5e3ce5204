"""A short loop over an objective, and what it leaves behind."""

from declarative_dist.fitting.history import History

__all__ = ["History"]
