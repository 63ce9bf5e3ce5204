"""A user's numbers as a tensor; the tensors inside a transform, and light copies with others.

Transforms are plain objects: whoever holds one in a module registers its tensors as buffers, and
asks for a copy with the current buffers when the transform is needed. Copies have empty caches.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from numbers import Complex, Integral, Real
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from declarative_dist.plain.tracing import is_traced, unmap

HALF = (torch.float16, torch.bfloat16)
"""The dtypes of half precision."""


def as_tensor(
    value: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Real numbers, however you write them, as a tensor of the dtype in which they are used.

    Numbers go straight to that dtype, so that a float64 field gets all the digits of a Python
    float, and an integer field all digits of an int.

    Args:
        value: a number, an array (NumPy's, pandas'), a tensor, or a nested list of these. A tensor
            keeps its graph: write `.detach()` behind the call if you want numbers only. One that
            fits already comes back as it is: `.clone()` what you keep.
        dtype: the dtype of the result. None for one that loses nothing: int64 for Python's ints,
            float64 for its floats, and the dtype of an array or a tensor.
        device: the device of the result; None for the tensor's own, and the CPU for the rest.

    Returns:
        The numbers as a tensor. Those too large for a floating-point dtype are infinite in it.

    Raises:
        TypeError: if it is no number, such as a string or None.
        ValueError: if it is complex, ragged, sparse, without values (on the meta device), or does
            not fit into a dtype of integers.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tensors import as_tensor
        >>> as_tensor([0.1, 1], torch.float64), as_tensor(2**53 + 1)
        (tensor([0.1000, 1.0000], dtype=torch.float64), tensor(9007199254740993))
    """
    if type(value) is float and abs(value) < 1e4 and (dtype is None or dtype.is_floating_point):
        # The common case, without a second tensor: a number that every such dtype holds.
        return torch.scalar_tensor(value, dtype=dtype or torch.float64, device=device or "cpu")
    try:
        exact = _as_exact_tensor(value)
        result = exact.to(device or exact.device, dtype or exact.dtype)
    except (RuntimeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    is_whole = not (result.is_floating_point() or result.dtype == exact.dtype)
    if is_whole and not is_traced(exact, result) and not (result.to(exact) == exact).all():
        raise ValueError(f"numbers that {result.dtype} does not hold")
    return result


def _as_exact_tensor(value: Any) -> Tensor:
    """Real numbers as a tensor in a dtype that loses nothing."""
    if isinstance(value, Tensor):
        tensor = value
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        tensor = _stack(value)
    elif isinstance(value, bool):
        tensor = torch.tensor(value, device="cpu")
    elif isinstance(value, (Real, Decimal)):
        tensor = _stack([int(value) if isinstance(value, Integral) else float(value)])[0]
    elif isinstance(value, Complex):
        raise ValueError("a complex number")
    elif hasattr(value, "__array__"):
        source: Any = value
        if getattr(getattr(source, "mask", None), "any", bool)():  # NumPy's masked arrays
            raise ValueError("an array with masked entries")
        array = source.__array__()
        if array.dtype == object:  # of Python's numbers, as in a column of decimals
            return _as_exact_tensor(array.tolist())
        # Torch takes none that runs backwards, is read-only, or of another machine.
        copied = array.astype(array.dtype.newbyteorder("="), order="C")
        tensor = torch.as_tensor(copied, device="cpu")
    else:
        raise TypeError(f"no number: {type(value).__name__}")
    if tensor.is_complex():
        raise ValueError("complex numbers")
    if not is_dense(tensor) or tensor.is_quantized:
        raise ValueError("a sparse, nested or quantized tensor")
    return tensor


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that holds every number."""
    if not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not value.is_nested


def is_floating(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a dense tensor of floating-point numbers."""
    return is_dense(value) and value.is_floating_point()


def are_finite(tensors: list[Tensor]) -> bool:
    """Whether sums of the tensors are finite, as they are of finite numbers but for overflow."""
    sums = [tensor.sum() if tensor.ndim else tensor for tensor in tensors]
    if not sums[0].is_cpu:  # where each number is waited for
        place = sums[0].device
        sums = [torch.stack([one.abs().to(place, torch.float32) for one in sums]).sum()]
    return math.isfinite(abs(sum([one.item() for one in sums])))


def _stack(values: Sequence[Any]) -> Tensor:
    kinds = set(map(type, values))
    if kinds == {bool}:
        return torch.tensor(values, device="cpu")
    if kinds <= {int, float, bool}:
        # Integers beyond 64 bits are rounded.
        is_whole = float not in kinds and all(-(2**63) <= value < 2**63 for value in values)
        dtype = torch.int64 if is_whole and kinds else torch.float64
        return torch.tensor(values, dtype=dtype, device="cpu")
    tensors = [_as_exact_tensor(item) for item in values]
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if dtype.is_floating_point and not all(t.is_floating_point() for t in tensors):
        dtype = torch.float64  # which holds the integers among them
    return torch.stack([tensor.to(dtype) for tensor in tensors])


def is_array(value: object) -> bool:
    """Whether a value is a tensor, an array or a list, and no single Python or NumPy number."""
    is_number = isinstance(value, (Real, type))
    return not is_number and (isinstance(value, (list, tuple)) or hasattr(value, "__array__"))


def tensors_of(part: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a transform and its parts hold, under names of their own.

    Example:
        >>> import torch
        >>> from torch.distributions import AffineTransform, ComposeTransform, ExpTransform
        >>> from declarative_dist.plain.tensors import tensors_of
        >>> shift = AffineTransform(torch.tensor(1.0), 2.0)
        >>> dict(tensors_of(ComposeTransform([ExpTransform(), shift])))
        {'part1_loc': tensor(1.)}
    """
    if isinstance(part, Tensor):
        yield name, part
    for key, value in _entries(part):
        yield from tensors_of(value, _join(name, key))


def map_tensors(
    part: Any,
    change: Callable[[str, Tensor], Any],
    name: str = "",
    copies: dict[int, nn.Module] | None = None,
) -> Any:
    """A light copy of a transform, a distribution or a module that holds other tensors.

    Args:
        part: it, or a list of such.
        change: from the name of a tensor, as `tensors_of` gives it, and the tensor itself, to the
            one in its place.
        name: what the part is called in the one that it belongs to.
        copies: by `id` the copies of modules that are made already.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tensors import map_tensors
        >>> shift = torch.distributions.AffineTransform(torch.tensor(1.0), 2.0)
        >>> map_tensors(shift, lambda name, tensor: tensor + 1)(0.0), shift(0.0)
        (tensor(2.), tensor(1.))
    """
    copies = {} if copies is None else copies
    if isinstance(part, Tensor):
        return change(name, part)
    if not _holds_tensors(part):
        return part
    if id(part) in copies:
        return copies[id(part)]
    new: Any = part if isinstance(part, (list, tuple)) else without_cache(part)
    if isinstance(part, nn.Module):
        copies[id(part)] = new  # before its parts, one of which may hold it
    changed = {
        key: map_tensors(value, change, _join(name, key), copies) for key, value in _entries(part)
    }
    if isinstance(part, (list, tuple)):
        return list(changed.values())
    if not isinstance(part, nn.Module):
        vars(new).update(changed)
        return new
    for store in ("_parameters", "_buffers", "_modules"):
        vars(new)[store] = {key: changed.get(key) for key in vars(part)[store]}
    return new


def _is_part(value: object) -> bool:
    return isinstance(value, (Transform, Distribution, nn.Module))


def _holds_tensors(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor) or _is_part(value)


def _entries(part: Any) -> Iterable[tuple[Any, Any]]:
    """What a part, or a list, holds that has tensors: these, other parts, and lists of parts."""
    if isinstance(part, (list, tuple)):
        return enumerate(part)
    if not _is_part(part):
        return ()
    is_module = isinstance(part, nn.Module)
    held = {**part._parameters, **part._buffers, **part._modules} if is_module else vars(part)
    return [
        (name, value)
        for name, value in held.items()
        if _holds_tensors(value) and not _is_remembered(part, name)
    ]


def has_parts(part: Any) -> bool:
    """Whether a transform or a distribution holds others, and not only tensors."""
    return any(not isinstance(value, Tensor) for _, value in _entries(part))


def _join(outer: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{outer.removesuffix('s')}{key}"
    return f"{outer}_{key}" if outer else key


def _is_remembered(part: Any, name: str) -> bool:
    """Whether an attribute says nothing about an object, but what was done with it last."""
    if name != "_inv" and not name.startswith("_cached"):
        return name == "_compiled_call_impl"  # of `module.compile()`, which calls that module
    is_module = isinstance(part, nn.Module) and not isinstance(part, Transform)
    return not (is_module or (name == "_inv" and isinstance(part, _InverseTransform)))


def is_of_torch(part: Any) -> bool:
    """Whether an object and all parts that it is made of keep their tensors as torch's do."""
    is_own = not _is_part(part) or type(part).__module__.startswith("torch.distributions")
    return is_own and all(is_of_torch(value) for _, value in _entries(part))


def without_cache(part: Any) -> Any:
    """A light copy of a transform that shares everything but remembers nothing.

    What was drawn without gradients would otherwise be scored without them.
    """
    new: Any = object.__new__(Inverse if isinstance(part, _InverseTransform) else type(part))
    vars(new).update(vars(part))
    for name in vars(part):
        if _is_remembered(part, name):
            vars(new)[name] = (None, None) if name == "_cached_x_y" else None
    return new


def floating_tensors(part: Any) -> Iterator[Tensor]:
    """The tensors of real numbers in a module or a plain object: others follow the first one."""
    if isinstance(part, nn.Module):
        every: Iterable[Tensor] = itertools.chain(part.parameters(), part.buffers())
    else:
        every = (tensor for _, tensor in tensors_of(part))
    return (tensor for tensor in every if tensor.is_floating_point())


def typical_tensor(part: Any) -> Tensor:
    """A tensor of the dtype and on the device of what a module or a plain object computes."""
    return next(floating_tensors(part), torch.zeros(()))


def with_checks(distribution: Any, checks: bool) -> Any:
    """A light copy of a distribution that checks values, or does not; yours stays as it is."""
    new = without_cache(distribution)
    vars(new)["_validate_args"] = checks
    return new


class Inverse(_InverseTransform):
    """The inverse of a transform, which copies and pickles with what it inverts.

    Torch's own forgets it (pytorch/pytorch#191197).
    """

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __repr__(self) -> str:
        return f"{self._inv!r}.inv"


def is_same(one: Any, other: Any, slack: float = 0.0) -> bool:
    """Whether an object holds only what another of its class holds too: numbers and parts.

    Torch compares some of its transforms by identity, which copies do not share. What is
    remembered from earlier calls does not count.

    Args:
        one: a distribution, a transform, a module, or anything that these hold.
        other: what it is compared with.
        slack: how far tensors may differ, as a share of their size.

    Example:
        >>> import torch
        >>> from torch.distributions import AffineTransform, IndependentTransform
        >>> from declarative_dist.plain.tensors import is_same
        >>> one, other = (IndependentTransform(AffineTransform(0.0, 2.0), 1) for _ in range(2))
        >>> one == other, is_same(one, other)
        (False, True)
    """
    if one is other:
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = unmap(one), unmap(other)  # a site may be built where it is mapped
        is_like = one.shape == other.shape and one.device == other.device
        return is_like and torch.allclose(one.double(), other.double(), slack, 0.0, equal_nan=True)
    if isinstance(one, Transform) and one == other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, constraints.Constraint):
        return is_same(vars(one), vars(other), slack)
    if isinstance(one, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(is_same(*pair, slack) for pair in pairs)
    if isinstance(one, dict):
        return one.keys() <= other.keys() and all(is_same(one[k], other[k], slack) for k in one)
    if hasattr(one, "__array__"):
        return is_same(as_tensor(one), as_tensor(other), slack)
    if _is_part(one):
        names = [name for name in vars(one) if not _is_computed(one, name)]
        return all(is_same(vars(one)[n], vars(other).get(n), slack) for n in names)
    return bool(one == other)


def _is_computed(part: Any, name: str) -> bool:
    """Whether an attribute was computed when it was asked for, or only says how to compute."""
    is_lazy = isinstance(getattr(type(part), name, None), lazy_property)
    is_option = name in ("_validate_args", "_cache_size")
    return is_lazy or is_option or _is_remembered(part, name)


M = TypeVar("M", bound=nn.Module)


def copy_module(module: M) -> M:
    """A light copy of a module that keeps the tensors that it has now.

    `torch.func.functional_call` puts other tensors in place of parameters and takes them away
    again. What is built within such a call and used after it must keep them: a flow that has its
    network, or a site that reads from its module.
    """
    return map_tensors(module, lambda _, tensor: tensor)


def copy_if_exchanged(module: M) -> M:
    """The module, or a light copy where tensors that are no parameters stand in their place."""
    if all(isinstance(parameter, nn.Parameter) for parameter in module.parameters()):
        return module
    return copy_module(module)
