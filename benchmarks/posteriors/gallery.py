"""All posteriors by name."""

from __future__ import annotations

from posteriors.dynamics import dynamics
from posteriors.hierarchies import hierarchies
from posteriors.posterior import Posterior
from posteriors.processes import processes
from posteriors.regressions import regressions
from posteriors.series import series


def gallery() -> dict[str, Posterior]:
    """The 15 posteriors of posteriordb, and hierarchies of 20 and 100 groups."""
    every = [*regressions(), *series(), *processes(), *dynamics(), *hierarchies()]
    return {posterior.name: posterior for posterior in every}
