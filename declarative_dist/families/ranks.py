"""Whether values line up behind a batch of contexts, or would broadcast over it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from declarative_dist.errors import ConstraintError
from declarative_dist.fields.head import Head
from declarative_dist.fields.sizes import Start


def check_ranks(module: Any) -> None:
    """Refuse values of a conditional that would broadcast over the batch of contexts.

    Raises:
        ConstraintError: naming the field.
    """
    declaration, starts = module.__declaration__, vars(module)["_starts"]
    fields = declaration.fields
    groups = [list(declaration.inputs)] if isinstance(declaration.base, type) else []
    groups += [[head.name, *head.needs] for head in declaration.heads]
    for group in groups:
        ranks = {n: _rank(fields[n], starts.get(n)) for n in group}
        heads = {n: ranks[n] for n in group if isinstance(fields[n], Head)}
        most = max(heads.values(), default=None)
        for name, rank in ranks.items():
            if most is None or (rank <= most and heads.get(name, most) == most):
                continue
            raise ConstraintError(
                f"{type(module).__name__}.{name}",
                f"a shape that lines up behind a batch of contexts, of {most} dimensions "
                f"without those of its event, as {max(heads, key=heads.__getitem__)} has",
                f"{rank}",
                f"Write shape={(1,) * most}." if name in heads else "Predict it too.",
                code="wrong-shape",
            )


def _rank(field: Any, start: Any) -> int:
    """How many dimensions a value has without those of its event."""
    shape = start.shape if isinstance(start, (Start, Tensor)) else ()
    return len(shape) - field.event_dim if shape else 0
