"""What one call of a constructor says: values, sizes, batch shape, device and dtype."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, DeclarationError, is_count, shorten
from declarative_dist.fields.storage import to_tensor

Shape = tuple[int | str, ...]


def as_shape(shape: int | str | Sequence[int | str] | None, subject: str) -> Shape | None:
    """The sizes and names of sizes that you declare; None for those of the value.

    Raises:
        DeclarationError: if one is neither.
    """
    if shape is None:
        return None
    sizes: Any = (shape,) if isinstance(shape, str) or not isinstance(shape, Sequence) else shape
    for size in sizes:
        if not is_count(size) and not (isinstance(size, str) and size.isidentifier()):
            raise DeclarationError(subject, "sizes (0 or above) and names", shorten(shape))
    return tuple(size if isinstance(size, str) else int(size) for size in sizes)


class Sized(Protocol):
    """What the blueprint needs to know of a field to find its shape."""

    name: str
    init: Any
    event_names: tuple[str, ...]

    @property
    def shape(self) -> Shape | None:
        """The sizes and names of sizes that were declared."""
        ...

    @property
    def event_dim(self) -> int:
        """How many rightmost dimensions belong to one event."""
        ...


@dataclass(frozen=True)
class Start:
    """A starting value that can be made again, on any device and in any dtype.

    Args:
        source: what the constructor was given: a number, a tensor or a callable from shapes to
            tensors; None for what the class declares.
        shape: the full shape, batch included.
        has_dtype: whether the source is a tensor whose dtype was meant.
    """

    source: float | Tensor | Callable[[torch.Size], Tensor] | None
    shape: torch.Size
    has_dtype: bool = False

    def repeat(self, copies: torch.Size) -> Start:
        """The same start for independent copies, which stand in front."""
        shape = torch.Size((*copies, *self.shape))
        source = self.source
        if isinstance(source, Tensor):
            source = source.expand(shape)
        return Start(source, shape, self.has_dtype)


def make_value(
    source: Any, shape: torch.Size, dtype: torch.dtype, device: torch.device, subject: str
) -> Tensor:
    """A starting value of a full shape, drawn if its source is a callable.

    Raises:
        ConstraintError: if a callable gives no numbers.
    """
    if not callable(source):
        return to_tensor(source, subject, dtype, device).expand(shape)
    is_lost = torch.get_default_device().type == "meta" != device.type
    with device if is_lost else nullcontext():  # where the default device has no numbers
        return to_tensor(source(shape), subject, dtype, device)


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, in the dicts and lists that nested parts take, and in modules."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            yield from itertools.chain(value.parameters(), value.buffers())
        elif isinstance(value, Mapping):
            yield from _tensors_in(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(v for v in value if not isinstance(v, (int, float, list)))


@dataclass
class Blueprint:
    """How to build one instance.

    Args:
        subject: the name of the class, for errors.
        given: values by field, from the constructor.
        sizes: sizes by name, from the constructor.
        batch_shape: what is prepended to the shape of every parameter.
        device: where to build; None for wherever the values are.
        dtype: the floating-point type; None for that of the values given.
    """

    subject: str
    given: Mapping[str, Any]
    sizes: dict[str, int]
    batch_shape: torch.Size = torch.Size()
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    with_dtype: set[str] = field(default_factory=set, init=False)
    copies: dict[int, Any] = field(default_factory=dict, init=False)
    """What nested parts were copied into, as `copy.deepcopy` remembers it."""
    replicated: dict[int, Any] = field(default_factory=dict, init=False)
    """By id the copies that have their batch dimensions already."""

    @cached_property
    def place(self) -> torch.device:
        """The device to build on, where no value says another."""
        return self.device or torch.get_default_device()

    def follow(self, values: Mapping[str, Any], *, is_whole: bool = False) -> None:
        """Take the dtype and the device of given tensors where they agree, unless told others.

        Lists and numbers say nothing of either. Tensors on the meta device have no numbers: the
        instance follows them there only if they are all that it needs.

        Args:
            values: what the constructor was given, by name.
            is_whole: whether that is a value for every field.
        """
        tensors = list(_tensors_in(values.values()))
        floating = {v.dtype for v in tensors if v.is_floating_point()}
        if self.dtype is None and len(floating) == 1:
            self.dtype = floating.pop()
        devices = {v.device for v in tensors if is_whole or not v.is_meta}
        self.with_dtype = {
            name
            for name, value in values.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        if self.device is None and len(devices) == 1:
            self.device = devices.pop()

    def read_sizes(
        self,
        fields: Iterable[Sized],
        told: Iterable[Mapping[str, int]] = (),
        said: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Find the sizes that values tell.

        Args:
            fields: the parameters and constants.
            told: what parts know that are built already; where they agree it holds for others.
            said: what the values say that nested parts are given, by part.

        Raises:
            ConstraintError: if two values, or a value and a keyword, disagree about a size.
        """
        fields = list(fields)
        origins = dict.fromkeys(self.sizes, "the keyword")
        for sized in fields:
            value = self._value(sized)
            names = sized.event_names if sized.shape is None else sized.shape
            if isinstance(value, Tensor) and names and value.ndim >= len(names):
                self._learn(sized, names, value.shape[-len(names) :], origins)
        for name, sizes in (said or {}).items():
            for size_name, size in sizes.items():
                self._agree(name, size_name, size, origins)
        self._learn_from_parts(list(told))

    def _learn(
        self, sized: Sized, names: Shape, shape: torch.Size, origins: dict[str, str]
    ) -> None:
        for name, size in zip(names, shape, strict=True):
            if not isinstance(name, int):
                self._agree(sized.name, name, size, origins)

    def _agree(self, field: str, name: str, size: int, origins: dict[str, str]) -> None:
        known = self.sizes.setdefault(name, size)
        origin = origins.setdefault(name, field)
        if known != size:
            subject = f"{self.subject}.{field}"
            expected = f"size {name}={known}, as {origin} says"
            fix = "Give sizes that agree."
            raise ConstraintError(subject, expected, f"{name}={size}", fix, code="wrong-shape")

    def _learn_from_parts(self, told: list[Mapping[str, int]]) -> None:
        for name in {name for sizes in told for name in sizes}:
            known = {sizes[name] for sizes in told if name in sizes}
            if len(known) == 1:
                self.sizes.setdefault(name, *known)

    def start(self, sized: Sized) -> Start:
        """The starting value and the full shape of a field.

        Raises:
            ConstraintError: if a size is unknown or the value has neither the field's shape nor
                that with the batch shape in front.
        """
        given = self.given.get(sized.name)
        source = self._value(sized)
        own = self._own_shape(sized)
        full = torch.Size((*self.batch_shape, *own))
        if not isinstance(source, Tensor):
            return Start(given, full)
        if source.ndim and source.shape not in (own, full):
            expected = f"shape {tuple(own)}"
            if self.batch_shape:
                expected += f", or {tuple(full)} with the batch in front"
            raise ConstraintError(
                f"{self.subject}.{sized.name}", expected, shorten(source), code="wrong-shape"
            )
        # What the constructor was given may change later; what the class holds does not.
        if given is None:
            return Start(None, full)
        return Start(given.detach().clone(), full, sized.name in self.with_dtype)

    def _value(self, sized: Sized) -> Any:
        return self.given.get(sized.name, sized.init)

    def _own_shape(self, sized: Sized) -> torch.Size:
        """The shape of one copy."""
        if sized.shape is not None:
            return self._sized(sized, sized.shape)
        value = self._value(sized)
        if isinstance(value, Tensor):
            return self.own_shape(sized, value)
        is_number = isinstance(value, (int, float))
        return torch.Size() if is_number else self._sized(sized, sized.event_names)

    def own_shape(self, sized: Sized, value: Tensor) -> torch.Size:
        """The shape of one copy of a value, whose shape tells if it is for one copy or for all."""
        count = len(self.batch_shape)
        init_shape = getattr(sized.init, "shape", None)
        is_full = (
            count > 0
            and sized.name in self.given
            and value.shape != init_shape
            and value.ndim >= count + sized.event_dim
            and value.shape[:count] == self.batch_shape
        )
        return value.shape[count:] if is_full else value.shape

    def _sized(self, sized: Sized, names: Shape) -> torch.Size:
        missing = [name for name in names if isinstance(name, str) and name not in self.sizes]
        if missing:
            subject = f"{self.subject}.{sized.name}"
            expected = f"a size for {', '.join(map(repr, missing))}"
            fix = f"Write {self.subject}({missing[0]}=...), or give a value of that size."
            raise ConstraintError(subject, expected, "none", fix, code="missing-value")
        return torch.Size(self.sizes[n] if isinstance(n, str) else n for n in names)
