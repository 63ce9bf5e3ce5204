"""What one call of a constructor says: values, sizes, batch shape, device and dtype."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    ExplainedError,
    first_line,
    is_count,
    shorten,
)
from declarative_dist.fields.storage import to_tensor

if TYPE_CHECKING:
    from declarative_dist.fields.field import Field

KEYWORDS = ("batch_shape", "device", "dtype")
"""The keywords of every constructor, which a `Blueprint` has under the same names."""

Shape = tuple[int | str, ...]
T = TypeVar("T")


def as_shape(shape: int | str | Sequence[int | str] | None, subject: str) -> Shape | None:
    """The sizes and names of sizes that you declare; None for the value's own."""
    if shape is None:
        return None
    sizes: Any = (shape,) if isinstance(shape, str) or not isinstance(shape, Sequence) else shape
    for size in sizes:
        if not is_count(size) and not (isinstance(size, str) and size.isidentifier()):
            raise DeclarationError(subject, "sizes (0 or above) and names", shorten(shape))
    return tuple(size if isinstance(size, str) else int(size) for size in sizes)


@dataclass(frozen=True)
class Start:
    """A starting value that can be made again, on any device and in any dtype.

    Args:
        source: what the constructor was given: a number, a tensor or a callable from shapes to
            tensors; None for what the class declares.
        shape: the full shape, batch included.
    """

    source: float | Tensor | Callable[[torch.Size], Tensor] | None
    shape: torch.Size

    @classmethod
    def of(cls, value: Any) -> Start:
        """The start at a value, which may change later itself."""
        if not isinstance(value, Tensor):
            return cls(value, torch.Size())
        return cls(value.detach().clone(), value.shape)

    def repeat(self, copies: torch.Size) -> Start:
        """The same start for independent copies, which stand in front."""
        shape = torch.Size((*copies, *self.shape))
        source = self.source
        source = source.expand(shape) if isinstance(source, Tensor) else source
        return Start(source, shape)


def make_value(
    source: Any, shape: torch.Size, dtype: torch.dtype, device: torch.device, subject: str
) -> Tensor:
    """A starting value of a full shape, drawn if its source is a callable."""
    if not callable(source):
        return to_tensor(source, subject, dtype, device).expand(shape)
    is_lost = torch.get_default_device().type == "meta" != device.type
    with device if is_lost else nullcontext():  # where the default device has no numbers
        fix = "Write a number, or for instance torch.randn."
        return to_tensor(call_with_shape(source, shape, subject, fix), subject, dtype, device)


def call_with_shape(
    make: Callable[[torch.Size], T], shape: torch.Size, subject: str, fix: str
) -> T:
    """What a callable of a class body makes for a shape."""
    try:
        return make(shape)
    except ExplainedError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        expected, got = f"a callable that takes the shape {tuple(shape)}", first_line(error)
        raise DeclarationError(subject, expected, got, fix, code="failed-method") from error


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, in the dicts and lists that nested parts take, and in modules."""
    for value in tree_leaves(list(values)):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            yield from itertools.chain(value.parameters(), value.buffers())


@dataclass
class Blueprint:
    """How to build one instance.

    Args:
        subject: the name of the class, for errors.
        given: values by field, from the constructor.
        sizes: sizes by name, from the constructor.
        batch_shape: what is prepended to the shape of every parameter.
        device: where to build; None for wherever the values are.
        dtype: the floating-point type; None for the dtype of the values you give.
    """

    subject: str
    given: Mapping[str, Any]
    sizes: dict[str, int]
    batch_shape: torch.Size = torch.Size()
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    copies: dict[int, Any] = dataclasses.field(default_factory=dict, init=False)
    """What nested parts were copied into, as `copy.deepcopy` remembers it."""
    replicated: dict[int, Any] = dataclasses.field(default_factory=dict, init=False)
    """By id the copies that have their batch dimensions already."""

    @property
    def place(self) -> torch.device:
        """The device to build on, where no value says another."""
        return self.device or torch.get_default_device()

    def follow(self, values: Mapping[str, Any], *, is_whole: bool) -> None:
        """Take the dtype and the device of given tensors, unless the constructor got others.

        Of several dtypes it is the one that holds the numbers of all, and of several devices none.
        Lists and numbers say nothing of either. Tensors on the meta device have no numbers: the
        instance follows them there only if they are all that it needs.

        Args:
            values: what the constructor was given, by name.
            is_whole: whether that is a value for every field.
        """
        tensors = list(_tensors_in(values.values()))
        dtypes = {v.dtype for v in tensors if v.is_floating_point()}
        devices = {v.device for v in tensors if is_whole or not v.is_meta}
        if self.dtype is None and dtypes:
            self.dtype = reduce(torch.promote_types, dtypes)
        if self.device is None and len(devices) == 1:
            self.device = devices.pop()

    def read_sizes(self, fields: Iterable[Any]) -> None:
        """Find the sizes that values and built parts have, where these agree.

        Raises:
            ConstraintError: if two values, or a value and a keyword, disagree about a size.
        """
        origins = dict.fromkeys(self.sizes, "the keyword")
        built: dict[str, set[int]] = {}
        for field in fields:
            given = self.given.get(field.name)
            for name, size in field.built_sizes(given) if field.is_part else ():
                built.setdefault(name, set()).add(size)
            for name, size in field.known_sizes(given):
                known = self.sizes.setdefault(name, size)
                origin = origins.setdefault(name, field.name)
                if known != size:
                    subject, fix = f"{self.subject}.{field.name}", "Give sizes that agree."
                    expected, got = f"size {name}={known}, as {origin} says", f"{name}={size}"
                    raise ConstraintError(subject, expected, got, fix, code="wrong-shape")
        for name, found in built.items():
            if len(found) == 1:
                self.sizes.setdefault(name, found.pop())

    def start(self, field: Field) -> Start:
        """The starting value and the full shape of a field.

        Raises:
            ConstraintError: if a size is unknown or the value has neither the field's shape nor
                that with the batch shape in front.
        """
        given = self.given.get(field.name)
        source = field.init if given is None else given
        if field.shape is None and isinstance(source, Tensor):
            own = self.own_shape(field, source)
        elif field.shape is None and isinstance(source, (int, float)):
            own = torch.Size()
        else:
            own = self.named_shape(field)
        full = torch.Size((*self.batch_shape, *own))
        if not isinstance(source, Tensor):
            return Start(given, full)
        if source.ndim and source.shape not in (own, full):
            subject, expected = f"{self.subject}.{field.name}", f"shape {tuple(own)}"
            if self.batch_shape:
                expected += f", or {tuple(full)} with the batch in front"
            raise ConstraintError(subject, expected, shorten(source), code="wrong-shape")
        # What the constructor was given may change later; what the class holds does not.
        return Start(None if given is None else given.detach().clone(), full)

    def dtype_of(self, field: Field) -> torch.dtype:
        """The dtype of a field: of all values, or else of the tensor that the class holds."""
        if self.dtype is not None:
            return self.dtype
        return field.init.dtype if field.has_dtype else torch.get_default_dtype()

    def own_shape(self, field: Field, value: Tensor) -> torch.Size:
        """The shape of one copy of a value, whose shape tells if it is for one copy or for all."""
        count = len(self.batch_shape)
        is_full = (
            count > 0
            and field.name in self.given
            and value.shape != getattr(field.init, "shape", None)
            and value.ndim >= count + field.event_dim
            and value.shape[:count] == self.batch_shape
        )
        return value.shape[count:] if is_full else value.shape

    def named_shape(self, field: Field) -> torch.Size:
        """The shape that a field declares, with the sizes of this instance for their names."""
        missing = [name for name in field.size_names if name not in self.sizes]
        if missing:
            subject = f"{self.subject}.{field.name}"
            expected = f"a size for {', '.join(map(repr, missing))}"
            fix = f"Write {self.subject}({missing[0]}=...), or give a value of that size."
            raise ConstraintError(subject, expected, "none", fix, code="missing-value")
        return torch.Size(self.sizes[n] if isinstance(n, str) else n for n in field.sizes)
