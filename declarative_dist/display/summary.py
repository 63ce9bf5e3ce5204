"""The table of all fields of a module, or of a posterior, with what is to be known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from declarative_dist.display.posterior import draws_of, posterior_rows
from declarative_dist.display.reading import rows_of
from declarative_dist.display.rows import Row, name_of_class
from declarative_dist.display.table import as_html, as_text
from declarative_dist.errors import DeclarationError, did_you_mean, shorten
from declarative_dist.fields.kinds import as_module
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.posteriors.guides import NormalGuide


@dataclass(frozen=True, repr=False)
class Summary:
    """A table of fields: printed as text, shown as HTML in a notebook, and read as data.

    Attributes:
        title: what the table is about.
        rows: a `Row` for each field, in the order of declaration; of a guide or draws, a
            `PosteriorRow` for each number.
    """

    title: str
    rows: tuple[Any, ...]

    @property
    def saturated(self) -> list[str]:
        """The names of fields with saturated numbers."""
        return [row.name for row in self.rows if row.saturated]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The rows by name, as numbers, strings and lists, such as JSON can hold."""
        return {row.name: asdict(row) for row in self.rows}

    def __getitem__(self, name: str) -> Any:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}. {did_you_mean(name, [row.name for row in self.rows])}")

    def __str__(self) -> str:
        return as_text(self.title, self.rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self.title, self.rows)


def summary(module: Any) -> Summary:
    """A table of the fields of a module: what each is now, and how it is learned.

    A row has the field's name, its value (of more than six numbers, or nine of a matrix, the
    smallest, the median and the largest), its constraint, its prior and its shape. A note says
    what is unusual: that it is frozen, that its gradient is zero or not finite, or that it is
    saturated, so far out on the map of its constraint that steps of an optimizer hardly move the
    value. Parts stand indented below their names, and the table fits 80 columns.

    Of a guide or of draws there is a row for every number, with its mean, its standard deviation,
    and its 5, 50 and 95 % quantiles: of the guide as it is, and of weighted draws of their target.

    Nothing is changed by reading, nor are hooks called.

    Args:
        module: a declared module, a guide, a conditioned joint, or any module in which there are
            some, such as an objective. A plain distribution is read as constants. Draws are
            `WeightedDraws`, or a dict of tensors of shape `(num_samples, *event)` by site.

    Returns:
        A `Summary`: printed as a table, also in a notebook; its `rows` and `to_dict()` are data,
        with the name of the raw parameter, the norm of the gradient and more.

    Raises:
        DeclarationError: if it is nothing of these.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import LogInterval, Param, Variational, summary
        >>> class Policy(Variational):
        ...     base = dd.Normal
        ...     loc = Param(0.0)
        ...     scale = Param(1.0, LogInterval(0.001, 10.0))
        >>> policy = Policy()
        >>> policy.raw_scale.data.fill_(30.0)
        tensor(30.)
        >>> table = summary(policy)
        >>> table.saturated, table["loc"].raw_name
        (['scale'], 'raw_loc')
    """
    if isinstance(module, WeightedDraws):
        return Summary(repr(module), posterior_rows(module))
    is_table = isinstance(module, Mapping) and len(module) > 0
    if is_table and all(isinstance(each, Tensor) and each.ndim for each in module.values()):
        count = len(next(iter(module.values())))
        return Summary(f"{count} draws", posterior_rows(WeightedDraws(module, torch.zeros(count))))
    is_plain = isinstance(module, (Distribution, Transform)) and not isinstance(module, nn.Module)
    inner: Any = as_module(module) if is_plain else getattr(module, "_orig_mod", module)
    if not isinstance(inner, nn.Module):
        expected = "a declared module, one in which there are some, or draws"
        fix = "Give the module itself: not its class, nor what calling it returns."
        raise DeclarationError("summary", expected, shorten(module), fix)
    rows = rows_of(inner)
    draws = draws_of(inner) if isinstance(inner, NormalGuide) else None
    return Summary(_title(inner, rows), posterior_rows(draws) if draws else rows)


def _title(module: nn.Module, rows: Sequence[Row]) -> str:
    """The class, how many numbers are trained, and where they are."""
    count, trained = sum(row.parameters for row in rows), sum(row.trained for row in rows)
    name = name_of_class(type(module))
    if isinstance(module, Conditioned):
        name = f"{type(module.joint).__name__} given {', '.join(module.observed) or 'no data'}"
    if not count:
        return f"{name.removeprefix('learnable ')}: no parameters"
    places = ", ".join(sorted({str(parameter.device) for parameter in module.parameters()}))
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})
    frozen = f" of {count}" if trained != count else ""
    noun = "number" if count == 1 else "numbers"
    return f"{name}: {trained}{frozen} {noun} to train, {', '.join(dtypes)} on {places}"
