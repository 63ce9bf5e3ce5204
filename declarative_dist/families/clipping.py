"""Gradients that optimizers can take: numbers, whose squares do not overflow.

A density far from a tiny scale multiplies zero by infinity on its way back, and one such number
would turn every parameter that it reaches into NaN for good. A gradient so large that an
optimizer's mean of squares becomes infinite would leave its parameter where it is for good.

Nothing is clipped in float16, where loss scaling looks for overflow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling, is_exporting

from declarative_dist.plain.tracing import is_mapped, is_transforming

LARGEST = {torch.float64: 1e120, torch.float32: 1e15, torch.bfloat16: 1e15}
"""Where gradients are clipped."""


def clip_gradient(raw: Tensor) -> Tensor:
    """The same numbers, through which gradients go back as finite ones.

    NaN goes back as zero, and what is beyond the largest gradient as that. A parameter stays what
    it is and keeps a hook; other tensors should be made for this alone.
    """
    if raw.dtype not in LARGEST:
        return raw
    if is_transforming():  # at the price of a node in the graph
        if is_exporting():
            return raw
        if not is_dynamo_compiling():
            return _WithTangent.apply(raw)  # type: ignore[no-untyped-call]
        # Where dynamo traces a transform of torch.func it takes no function of its own.
        is_clipped = raw.requires_grad and not is_mapped()
        return _Clip.apply(raw) if is_clipped else raw  # type: ignore[no-untyped-call]
    if not raw.requires_grad:
        return raw
    node: Any = raw.grad_fn
    if node is None:
        hooks = raw._backward_hooks
        if hooks is None or _clip not in hooks.values():  # copies of a parameter have none
            raw.register_hook(_clip)
    elif torch.is_grad_enabled():
        node.register_prehook(_clip_all)
    return raw


def hooks_of_others(parameter: nn.Parameter) -> list[Any]:
    """The hooks of a parameter's gradient, but for ours: graphs clip by themselves."""
    before = [hook for hook in (parameter._backward_hooks or {}).values() if hook is not _clip]
    after: Any = parameter._post_accumulate_grad_hooks or {}
    return [*before, *after.values()]


def _clip(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:  # undefined: nothing that was computed depends on these numbers
        return None
    # Dynamo takes numbers that are read from a table for ones that change.
    if gradient.dtype is torch.float64:
        return gradient.nan_to_num(0.0).clamp(-1e120, 1e120)
    return gradient.nan_to_num(0.0).clamp(-1e15, 1e15)


def _clip_all(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(map(_clip, gradients))


class _Clip(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.view_as(raw)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor | None:
        return _clip(gradients[0])


class _WithTangent(_Clip):
    """With a rule for forward mode, which dynamo does not take."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].view_as(tangents[0])
