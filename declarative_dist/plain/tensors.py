"""A user's numbers as a tensor; the tensors inside a transform, and light copies with others.

Transforms are plain objects: whoever holds one in a module registers its tensors as buffers, and
asks for a copy with the current buffers when the transform is needed. Copies have empty caches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Complex, Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints
from torch.distributions.transforms import _InverseTransform
from torch.distributions.utils import lazy_property

from declarative_dist.plain.tracing import is_traced


def as_tensor(
    value: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Real numbers, however you write them, as a tensor of the dtype in which they are used.

    Numbers go straight to that dtype, so that a float64 field gets all the digits of a Python
    float, and an integer one all those of an int.

    Args:
        value: a number, an array (NumPy's, pandas'), a tensor, or a nested list of these. A tensor
            keeps its graph: write `.detach()` behind the call if you want numbers only. One that
            fits already comes back as it is: `.clone()` what you keep.
        dtype: the dtype of the result. None for one that loses nothing: int64 for Python's ints,
            float64 for its floats, and that of an array or a tensor.
        device: the device of the result; None for that of a tensor, and the CPU for the rest.

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
    elif isinstance(value, Real):
        number = value if isinstance(value, bool) else _as_python_number(value)
        tensor = torch.tensor(number, dtype=_dtype_of([number]), device="cpu")
    elif isinstance(value, Complex):
        raise ValueError("a complex number")
    elif hasattr(value, "__array__"):
        tensor = torch.as_tensor(_copy_array(value), device="cpu")
    else:
        raise TypeError(f"no number: {type(value).__name__}")
    if tensor.is_complex():
        raise ValueError("complex numbers")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor.is_quantized:
        raise ValueError("a sparse, nested or quantized tensor")
    return tensor


def is_array(value: object) -> bool:
    """Whether a value is a tensor, an array or a list, and no single Python or NumPy number."""
    is_number = isinstance(value, (Real, type))
    return not is_number and (isinstance(value, (list, tuple)) or hasattr(value, "__array__"))


def _copy_array(value: Any) -> Any:
    """An array that torch takes: none that runs backwards, is read-only, or of another machine."""
    array = value.__array__()
    return array.astype(array.dtype.newbyteorder("="), order="C")


def _as_python_number(value: Real) -> int | float:
    return int(value) if isinstance(value, Integral) else float(value)


def _dtype_of(numbers: Sequence[Any]) -> torch.dtype:
    """The dtype that holds Python numbers exactly; integers beyond 64 bits are rounded."""
    if all(isinstance(number, bool) for number in numbers) and numbers:
        return torch.bool
    is_whole = all(isinstance(n, int) and -(2**63) <= n < 2**63 for n in numbers) and numbers
    return torch.int64 if is_whole else torch.float64


def _stack(values: Sequence[Any]) -> Tensor:
    if set(map(type, values)) <= {int, float, bool}:
        return torch.tensor(values, dtype=_dtype_of(values), device="cpu")
    tensors = [_as_exact_tensor(item) for item in values]
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if dtype.is_floating_point and not all(t.is_floating_point() for t in tensors):
        dtype = torch.float64  # which holds the integers among them
    return torch.stack([tensor.to(dtype) for tensor in tensors])


def are_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are finite; quick for a single one.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tensors import are_finite
        >>> are_finite(torch.ones(3)), are_finite(torch.tensor(float("inf")))
        (True, False)
    """
    if tensor.ndim == 0:
        return math.isfinite(tensor.item())
    return bool(tensor.isfinite().all())


def tensors_of(part: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that a transform holds, and those of its parts, under names of their own.

    Example:
        >>> import torch
        >>> from torch.distributions import AffineTransform, ComposeTransform, ExpTransform
        >>> from declarative_dist.plain.tensors import tensors_of
        >>> shift = AffineTransform(torch.tensor(1.0), 2.0)
        >>> dict(tensors_of(ComposeTransform([ExpTransform(), shift])))
        {'part1_loc': tensor(1.)}
    """
    for name, value in _entries(part):
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif _is_part(value):
            yield from tensors_of(value, f"{prefix}{name}_")
        else:
            for index, inner in enumerate(value):
                within = _within(prefix, name, index)
                if isinstance(inner, Tensor):
                    yield within, inner
                elif _is_part(inner):
                    yield from tensors_of(inner, f"{within}_")


def parts_of(part: Any) -> Iterator[Any]:
    """The transforms, distributions and modules that a transform or distribution is made of.

    Example:
        >>> from torch.distributions import ExpTransform, Gumbel
        >>> from declarative_dist.plain.tensors import parts_of
        >>> len(list(parts_of(Gumbel(0.0, 1.0)))), list(parts_of(ExpTransform()))
        (5, [])
    """
    for _, value in _entries(part):
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if _is_part(inner):
                yield inner


def with_tensors(part: Any, tensors: Mapping[str, Tensor | None], prefix: str = "") -> Any:
    """A light copy of a transform that holds other tensors, by the names of `tensors_of`."""
    changed: dict[str, Any] = {}
    for name, value in _entries(part):
        if isinstance(value, Tensor):
            changed[name] = tensors[f"{prefix}{name}"]
        elif _is_part(value):
            changed[name] = with_tensors(value, tensors, f"{prefix}{name}_")
        else:
            changed[name] = [
                _with_tensors_inside(inner, tensors, _within(prefix, name, index))
                for index, inner in enumerate(value)
            ]
    return _copy_with(part, changed)


def _with_tensors_inside(inner: Any, tensors: Mapping[str, Tensor | None], name: str) -> Any:
    if isinstance(inner, Tensor):
        return tensors[name]
    return with_tensors(inner, tensors, f"{name}_") if _is_part(inner) else inner


def _within(prefix: str, name: str, index: int) -> str:
    return f"{prefix}{name.removesuffix('s')}{index}"


def _is_part(value: object) -> bool:
    return isinstance(value, (Transform, Distribution, nn.Module))


def _has_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or _is_part(value)


def _entries(part: Any) -> Iterator[tuple[str, Any]]:
    """What a part holds that has tensors: tensors, other parts, and lists of parts."""
    if isinstance(part, nn.Module):
        stored = {**part._parameters, **part._buffers, **part._modules}
        yield from ((name, value) for name, value in stored.items() if value is not None)
        return
    for name, value in vars(part).items():
        if _is_remembered(part, name):
            continue
        is_list = isinstance(value, (list, tuple)) and any(map(_has_tensors, value))
        if _has_tensors(value) or is_list:
            yield name, value


def _copy_with(part: Any, changed: Mapping[str, Any]) -> Any:
    if isinstance(part, nn.Module):
        module = object.__new__(type(part))
        vars(module).update(vars(part))
        for store in ("_parameters", "_buffers", "_modules"):
            vars(module)[store] = {name: changed.get(name) for name in vars(part)[store]}
        return module
    new = without_cache(part, Inverse if isinstance(part, _InverseTransform) else type(part))
    new.__dict__.update(changed)
    return new


def without_cache(part: Any, kind: type | None = None) -> Any:
    """A light copy of a transform that shares everything but remembers nothing.

    What was drawn without gradients would otherwise be scored without them.

    Args:
        part: the transform.
        kind: the class of the copy; None for that of the transform.
    """
    new: Any = object.__new__(kind or type(part))
    new.__dict__.update(part.__dict__)
    for name in [name for name in new.__dict__ if name.startswith("_cached")]:
        new.__dict__[name] = (None, None) if name == "_cached_x_y" else None
    if "_inv" in new.__dict__ and not isinstance(part, _InverseTransform):
        new.__dict__["_inv"] = None
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
        is_like = one.shape == other.shape and one.device == other.device
        return is_like and torch.allclose(one.double(), other.double(), slack, 0.0, equal_nan=True)
    if isinstance(one, Transform) and one == other:
        return True
    if type(one) is not type(other) or isinstance(one, constraints.Constraint):
        return type(one) is type(other)
    if isinstance(one, (list, tuple)):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(is_same(*pair, slack) for pair in pairs)
    if isinstance(one, dict):
        return one.keys() <= other.keys() and all(is_same(one[k], other[k], slack) for k in one)
    if hasattr(one, "__array__"):
        return is_same(as_tensor(one), as_tensor(other), slack)
    if _is_part(one):
        return all(
            is_same(value, vars(other).get(name), slack)
            for name, value in vars(one).items()
            if not _is_remembered(one, name)
        )
    return bool(one == other)


def _is_remembered(part: Any, name: str) -> bool:
    """Whether an attribute says nothing about an object, or was computed when it was asked for."""
    if name == "_inv":
        return not isinstance(part, _InverseTransform)
    is_lazy = isinstance(getattr(type(part), name, None), lazy_property)
    return is_lazy or name.startswith("_cache") or name == "_validate_args"


M = TypeVar("M", bound=nn.Module)


def copy_module(module: M) -> M:
    """A light copy of a module that keeps the tensors that it has now.

    `torch.func.functional_call` puts other tensors in place of parameters and takes them away
    again. What is built within such a call and used after it must keep them: a flow that has its
    network, or a site that reads from its module.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tensors import copy_module
        >>> linear = torch.nn.Linear(1, 1)
        >>> copy_module(linear) is linear, copy_module(linear).weight is linear.weight
        (False, True)
    """
    return _copy_module(module, {})


def copy_if_exchanged(module: M) -> M:
    """The module, or a light copy where tensors that are no parameters stand in their place.

    Example:
        >>> import torch
        >>> from declarative_dist.plain.tensors import copy_if_exchanged
        >>> linear = torch.nn.Linear(1, 1)
        >>> copy_if_exchanged(linear) is linear
        True
    """
    if all(isinstance(parameter, nn.Parameter) for parameter in module.parameters()):
        return module
    return copy_module(module)


def _copy_module(module: M, copies: dict[int, nn.Module]) -> M:
    known = copies.get(id(module))
    if known is not None:
        return known  # type: ignore[return-value]
    new: M = object.__new__(type(module))
    copies[id(module)] = new
    vars(new).update(vars(module))
    for store in ("_parameters", "_buffers"):
        vars(new)[store] = dict(vars(module)[store])
    vars(new)["_modules"] = {
        name: None if child is None else _copy_module(child, copies)
        for name, child in module._modules.items()
    }
    return new
