"""A row of a summary, and what it has of values, parameters and modules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.words import as_data, describe_absence, format_value


@dataclass(frozen=True)
class Row:
    """One line of a summary: a field, a part, or parameters that no field stands for.

    Args:
        name: the field's name, dotted in nested parts.
        kind: what it is: "param", "constant", "derived", "head", "given", "site", "observed",
            "part", "module" or "parameter".
        value: the current value as data: a number, nested lists, or for more than six numbers a
            dict of the smallest, the median and the largest; None where there is none.
        shown: the value as it stands in the table.
        raw_name: the name of the unconstrained parameter, in `named_parameters()`.
        constraint: the constraint by its class, or where the value comes from.
        prior: the prior, in words.
        shape: the shape of the value.
        parameters: how many numbers are parameters.
        trained: how many of them are trained.
        gradient: the norm of their gradient; None without one.
        saturated: how many numbers are saturated; None where that is not known.
        hint: what to do about it.
    """

    name: str
    kind: str
    value: Any = None
    shown: str = ""
    raw_name: str = ""
    constraint: str = ""
    prior: str = ""
    shape: tuple[int, ...] | None = None
    parameters: int = 0
    trained: int = 0
    gradient: float | None = None
    saturated: int | None = None
    hint: str = ""

    @property
    def note(self) -> str:
        """What is unusual about its numbers, such as that they are frozen or saturated."""
        notes = []
        if self.trained < self.parameters:
            notes.append("partly frozen" if self.trained else "frozen")
        if self.saturated:
            some = f"{self.saturated} " if self.saturated < self.parameters else ""
            notes.append(f"{some}saturated")
        if self.gradient is not None and not 0 < self.gradient < math.inf:
            notes.append(f"gradient {self.gradient:g}")
        notes.append(self.raw_name.partition(" (")[2].rstrip(")"))
        return ", ".join(filter(None, notes))

    @property
    def cells(self) -> dict[str, str]:
        """What stands under each heading of the table."""
        return {
            "name": self.name,
            "value": self.shown.replace("], [", "],\n ["),  # rows of a matrix below each other
            "constraint": self.constraint,
            "prior": self.prior,
            "shape": str(self.shape) if self.shape else "",
            "note": self.note,
        }


def name_of_class(kind: Any) -> str:
    """The name of a class of modules; of one that `learnable` made the name of its base."""
    if "__recipe__" in vars(kind):  # such as LiveNormal
        return f"learnable {kind.__declaration__.base.__name__}"
    return kind.__name__


def read_value(value: Any) -> dict[str, Any]:
    """Read a value: as data, as text, and its shape."""
    has_shape = isinstance(value, Tensor) and not is_lazy(value)
    shape = tuple(value.shape) if has_shape else None
    shown = format_value(value, with_shape=False)
    return {"value": as_data(value), "shown": shown, "shape": shape}


def read_parameters(parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """Count parameters and those that train, and measure the length of their gradient."""
    found = [parameter for parameter in parameters if not is_lazy(parameter)]
    gradients = [each.grad for each in found if each.grad is not None]
    norms = [g.abs().double().norm().item() for g in gradients if not describe_absence(g)]
    return {
        "parameters": sum(each.numel() for each in found),
        "trained": sum(each.numel() for each in found if each.requires_grad),
        "gradient": math.hypot(*norms) if norms else None,
    }


def read_saturation(
    constraint: Constraint, raw: Tensor, name: str, raw_name: str
) -> dict[str, Any]:
    """Count raw numbers that steps no longer move, and say what to do about them.

    Args:
        constraint: with values in place of the names of its bounds.
        raw: the raw numbers.
        name: what the field is called.
        raw_name: what its raw numbers are called.
    """
    if describe_absence(raw):
        return {}
    count = int(constraint.is_at_end(raw).sum())
    if not count:
        return {"saturated": 0}
    some = f" in {count} of {raw.numel()} numbers" if raw.numel() > 1 else ""
    has_guard = constraint.guard not in (None, False)
    way_out = " (guard=False widens its guard band)" if has_guard else ""
    return {
        "saturated": count,
        "hint": f"{name}: saturated{some}, at the edge of its constraint "
        f"({constraint.describe()}), where steps of {raw_name} hardly move it. Set {name} "
        f"further inside, or give its constraint more room{way_out}.",
    }
