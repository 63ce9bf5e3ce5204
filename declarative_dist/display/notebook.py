"""Notebooks show declared modules, guides and conditioned joints as their summary."""

from __future__ import annotations

from typing import Any

from declarative_dist.display.summary import summary
from declarative_dist.distributions.declarative import Declarative
from declarative_dist.distributions.guides import NormalGuide
from declarative_dist.distributions.joint import Conditioned


def _repr_html_(self: Any) -> str:
    return summary(self)._repr_html_()


# The classes are below this layer, and must not know how they are shown.
for kind in (Declarative, NormalGuide, Conditioned):
    kind._repr_html_ = _repr_html_  # type: ignore[union-attr]
