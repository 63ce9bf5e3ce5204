"""How features, or what a network returned, become the raw numbers of heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from declarative_dist.constraints.band import FLOATING, clamp_result
from declarative_dist.errors import ConstraintError, shorten
from declarative_dist.families.clipping import clip_gradient

FINITE = {dtype: (torch.finfo(dtype).min, torch.finfo(dtype).max) for dtype in FLOATING}
"""All finite numbers of each dtype."""


def predict_raws(module: Any, features: Any) -> dict[str, Tensor]:
    """The unconstrained numbers of each head, under its raw name."""
    shapes: Mapping[str, torch.Size] = module.__dict__["_raw_shapes"]
    layer = module._modules.get("projection")
    if layer is None:
        given = zip(shapes, _as_returned(module, features), strict=True)
        return {name: clip_gradient(raw.clamp(*FINITE[raw.dtype])) for name, raw in given}
    try:
        fused: Any = layer(features)
    except (RuntimeError, TypeError, AttributeError, IndexError):
        _check_features(module, features, layer)
        raise
    if torch.is_grad_enabled():
        fused = clip_gradient(fused)
    if not module.__dict__["_takes_infinity"]:
        fused = clamp_result(fused, *FINITE[fused.dtype])
    sizes = [shape.numel() for shape in shapes.values()]
    parts = fused.split_with_sizes(sizes, -1) if len(sizes) > 1 else [fused]
    raws = {}
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        # Numbers of shape (*batch, size) in the shape that the constraint takes.
        raws[name] = part if len(shape) == 1 else part.reshape(part.shape[:-1] + shape)
    return raws


def _check_features(module: Any, features: Any, layer: Any) -> None:
    """Say what is wrong with features that the layer refuses, if it is shape or dtype."""
    width, wanted, network = layer.in_features, layer.weight.dtype, module._modules.get("network")
    is_tensor = isinstance(features, Tensor) and features.ndim > 0
    source = "context" if network is None else "network"
    if not is_tensor or features.shape[-1] != width:
        subject = f"{type(module).__name__}.{source}"
        expected = f"features of shape (*batch, {width}), as in_features says"
        fix = "Give one tensor."
        if is_tensor:
            fix = f"Write in_features={features.shape[-1]}, if this is the {source} and no value."
        fix = _way_of_several(module) if isinstance(features, (tuple, list)) else fix
        raise ConstraintError(subject, expected, shorten(features), fix, code="wrong-shape")
    if features.dtype != wanted:
        subject, expected = f"{type(module).__name__}.{source}", f"features of {wanted}"
        got = f"{features.dtype}"
        fix = f"Write context.to({wanted})." if network is None else "Give both one dtype."
        raise ConstraintError(subject, expected, got, fix, code="dtype-or-device")


def _way_of_several(module: Any) -> str:
    """What to do with a network that returns more than features, such as a state."""
    name = type(module).__name__.lower()
    return (
        "A recurrent network returns a state too. Build the class without network=, and write "
        f"features, state = network(x), then {name}.from_features(features)."
    )


def _as_returned(module: Any, output: Any) -> list[Tensor]:
    """What a network returned in place of a layer's output, refused if it does not fit."""
    heads = module.__declaration__.heads
    raws = {heads[0].name: output} if len(heads) == 1 and isinstance(output, Tensor) else output
    is_named = isinstance(raws, Mapping) and set(raws) == {head.name for head in heads}
    for head in heads:
        raw: Any = raws[head.name] if is_named else output
        shape = module.__dict__["_raw_shapes"][head.raw_name]
        is_floating = is_named and isinstance(raw, Tensor) and raw.is_floating_point()
        if not is_floating or raw.shape[max(raw.ndim - len(shape), 0) :] != shape:
            subject = f"{type(module).__name__}.{head.name if is_named else 'network'}"
            sizes = ", ".join(("*batch", *map(str, shape)))
            expected = f"unconstrained floating-point numbers of shape ({sizes}) for {head.name}"
            if len(heads) > 1:
                expected += f", in a dict of {', '.join(head.name for head in heads)}"
            got = shorten(raw)
            if isinstance(output, Mapping) and not is_named:
                got = f"a dict of {', '.join(map(str, output))}"
            fix = "Return such, change the head, or give in_features for a layer that makes them."
            fix = _way_of_several(module) if isinstance(output, (tuple, list)) else fix
            raise ConstraintError(subject, expected, got, fix, code="failed-method")
    return [raws[head.name] for head in heads]
