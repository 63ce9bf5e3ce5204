"""Distributions declared as classes: live, trainable, always inside their constraints."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from declarative_dist.constraints.adapters import as_constraint, register_constraint
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Exp, GreaterThan, LessThan, Positive, Real
from declarative_dist.constraints.interval import Interval, LogInterval, UnitInterval
from declarative_dist.constraints.matrix import CorrCholesky, LowerCholesky, PositiveDefinite
from declarative_dist.constraints.vector import Ordered, PositiveOrdered, Simplex
from declarative_dist.declaration.record import fields_of
from declarative_dist.divergence import entropy, kl_divergence, rsample_and_log_prob
from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    FieldError,
    NonFiniteError,
    StateMismatchError,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.learnable import learnable
from declarative_dist.families.transform import LearnableTransform
from declarative_dist.families.variational import Variational
from declarative_dist.fields.constant import Constant
from declarative_dist.fields.context import Head
from declarative_dist.fields.derived import derived
from declarative_dist.fields.given import Given
from declarative_dist.fields.param import Param
from declarative_dist.fields.site import site
from declarative_dist.fitting.compiled import compiled
from declarative_dist.fitting.fit import fit
from declarative_dist.fitting.history import History
from declarative_dist.fitting.verdict import NotConvergedWarning
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.posteriors.diagnosis import diagnose
from declarative_dist.posteriors.guides import FullRankNormal, MeanFieldNormal
from declarative_dist.snapshots import median, select

if TYPE_CHECKING:
    from declarative_dist.display.plot import plot
    from declarative_dist.display.summary import summary

__version__ = "0.1.0"

__all__ = [
    "Conditional",
    "Constant",
    "Constraint",
    "ConstraintError",
    "CorrCholesky",
    "DeclarationError",
    "Declarative",
    "Exp",
    "FieldError",
    "FullRankNormal",
    "Given",
    "GreaterThan",
    "Head",
    "History",
    "Interval",
    "Joint",
    "LearnableTransform",
    "LessThan",
    "LogInterval",
    "LowerCholesky",
    "MeanFieldNormal",
    "NonFiniteError",
    "NotConvergedWarning",
    "Ordered",
    "Param",
    "Positive",
    "PositiveDefinite",
    "PositiveOrdered",
    "Real",
    "Simplex",
    "StateMismatchError",
    "UnitInterval",
    "Variational",
    "WeightedDraws",
    "as_constraint",
    "compiled",
    "derived",
    "diagnose",
    "entropy",
    "fields_of",
    "fit",
    "kl_divergence",
    "learnable",
    "median",
    "plot",
    "register_constraint",
    "rsample_and_log_prob",
    "select",
    "site",
    "summary",
]


def __getattr__(name: str) -> object:
    """Import what draws and tabulates when it is asked for, not with every training script."""
    if name in ("plot", "summary"):
        return getattr(importlib.import_module(f"declarative_dist.display.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: also what is not imported yet."""
    return sorted({*globals(), *__all__})
