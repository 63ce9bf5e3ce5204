"""What all building of distributions shares: methods of a class body, event dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily

from declarative_dist.errors import ConstraintError, FieldError, shorten
from declarative_dist.fields.alignment import line_up_all
from declarative_dist.fields.derived import call_method
from declarative_dist.fields.kinds import built_kind, describe_kind
from declarative_dist.plain.draws import is_reparametrised
from declarative_dist.plain.indexing import Independent
from declarative_dist.plain.tensors import with_checks
from declarative_dist.plain.tracing import is_traced

T = TypeVar("T")


def build_by_method(
    method: Callable[..., Any],
    arguments: Mapping[str, Any],
    wanted: type[T],
    subject: str,
    decorator: str = "",
) -> T:
    """Build what a method of a class body returns: a plain object, a live one resolved.

    Raises:
        FieldError: in place of an AttributeError, which `nn.Module` would take for a missing
            attribute, and for any other result.
        ConstraintError: in place of torch's error about sizes.
    """
    try:
        result = call_method(method, arguments, subject, decorator)
    except AttributeError as error:
        raise FieldError(subject, describe_kind(wanted), f"AttributeError: {error}") from error
    if isinstance(result, nn.Module) and built_kind(result) is not None:
        result = result()
    if not isinstance(result, wanted):
        expected = f"a torch {wanted.__name__.lower()} from the method"
        raise FieldError(subject, expected, shorten(result), "Return one.")
    return result


def distribution_of(module: nn.Module, values: dict[str, Any]) -> Distribution:
    """The distribution that a declared family's base makes of the values that it takes."""
    owner: Any = module
    declaration = owner.__declaration__
    if owner.__dict__["_alignment"]:
        line_up_all(values, owner.__dict__["_alignment"])
    # What the instance says about checks, or else its class body; None to follow torch.
    switch: bool | None = owner.__dict__.get("_validate_args")
    switch = declaration.validates if switch is None else switch
    checks: Any = Distribution._validate_args if switch is None else switch
    if checks:
        checks = not is_traced(*values.values())
        if declaration.has_parts:
            parts = (value for value in values.values() if isinstance(value, Distribution))
            checks = checks and all(part._validate_args for part in parts)
    if declaration.make is None:
        method, subject = partial(declaration.base, module), f"{declaration.owner}.base"
        distribution = build_by_method(method, values, Distribution, subject)
        if switch is not None:  # the method may return an object of yours
            distribution = with_checks(distribution, checks)
    else:
        if checks and declaration.has_free_input:
            distribution = declaration.base(**values)
        else:
            distribution = declaration.make(**values, validate_args=False)
        distribution._validate_args = checks
    if declaration.event_dim is None:
        return distribution
    return with_event_dim(distribution, declaration.event_dim, f"{declaration.owner}.event_dim")


def refused_by_torch(module: Any, values: Mapping[str, Any], error: Exception) -> ConstraintError:
    """Our error about arguments, among the values of fields, that a class base refuses."""
    declaration = module.__declaration__
    fix = f"It says: {error}."
    if issubclass(declaration.base, MixtureSameFamily):  # torch does not say what to do
        fix += " Components lie along the last batch dimension, behind which event_dim = 1 puts "
        fix += "the dimensions of one event."
    taken = {name: values[name] for name in declaration.inputs}
    shapes = {n: tuple(v.shape) if isinstance(v, Tensor) else v for n, v in taken.items()}
    return ConstraintError(
        type(module).__name__,
        f"arguments that {declaration.base.__name__} takes together",
        ", ".join(f"{name} {shape!r}" for name, shape in shapes.items()),
        fix,
        code="refused-by-torch",
    )


def with_event_dim(distribution: Distribution, event_dim: int, subject: str) -> Distribution:
    """The distribution with this total number of event dimensions."""
    batch, event = distribution.batch_shape, distribution.event_shape
    added = event_dim - len(event)
    if not 0 <= added <= len(batch):
        own, most = len(event), len(batch) + len(event)
        expected = f"event_dim between {own} (the base's own) and {most} (with its batch shape)"
        fix = "Give the parameters more dimensions." if added > 0 else "Raise event_dim."
        raise ConstraintError(subject, expected, str(event_dim), fix, code="wrong-shape")
    if not added:
        return distribution
    # Pyro's distributions have a wrapper of their own, which pyro.sample asks for.
    to_event: Callable[[int], Distribution] | None = getattr(distribution, "to_event", None)
    if to_event is not None:
        return to_event(added)
    wrapped: Any = object.__new__(Independent)  # what its constructor does, in fewer calls
    wrapped.base_dist, wrapped.reinterpreted_batch_ndims = distribution, added
    shape, at = batch + event, len(batch) - added
    Distribution.__init__(wrapped, shape[:at], shape[at:], validate_args=False)
    return wrapped


def require_rsample(distribution: Distribution, subject: str) -> Distribution:
    """The distribution, if its samples carry gradients; else an error that says what to use."""
    if not is_reparametrised(distribution):
        raise NotImplementedError(
            f"{subject}.rsample: {type(distribution).__name__} has no reparametrised sampler. "
            "Use sample() and the score function, log_prob(value) * weight.detach(), or another "
            "base."
        )
    return distribution


def call_detached(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What calling a module gives when its parameters are detached, and later steps do not reach.

    Copies, because an unconstrained parameter is a value itself, and changes in place.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    constants = {name: tensor.detach().clone() for name, tensor in tensors}
    return torch.func.functional_call(module, constants, args, kwargs)
