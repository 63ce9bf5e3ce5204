"""Notebooks show declared modules, guides and conditioned joints as their summary."""

from __future__ import annotations

import importlib
from typing import Any

from declarative_dist.families.declarative import Declarative
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.posteriors.guides import NormalGuide


def _repr_html_(self: Any) -> str:
    display = importlib.import_module("declarative_dist.display.summary")  # only for notebooks
    html: str = display.summary(self)._repr_html_()
    return html


# The classes are below this layer, and must not know how they are shown.
for kind in (Declarative, NormalGuide, Conditioned):
    kind._repr_html_ = _repr_html_  # type: ignore[union-attr]
