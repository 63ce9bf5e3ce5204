"""Gradients that optimizers can take: numbers, whose squares do not overflow.

A density far from a tiny scale multiplies zero by infinity on its way back, and one such number
would turn every parameter that it reaches into NaN for good. A gradient so large that an
optimizer's mean of squares becomes infinite would leave its parameter where it is for good.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling, is_exporting

from declarative_dist.constraints.tracing import is_transforming

LARGEST = {torch.float64: 1e120, torch.float32: 1e12, torch.bfloat16: 1e12}
"""Where gradients are clipped. Not in float16, where loss scaling looks for overflow."""


def with_clipped_gradient(raw: Tensor) -> Tensor:
    """The same numbers, through which gradients go back as finite ones.

    NaN goes back as zero, and what is beyond the largest gradient as that.

    Example:
        >>> import torch
        >>> from declarative_dist.constraints.gradient import with_clipped_gradient
        >>> x = torch.zeros(3, requires_grad=True)
        >>> weights = torch.tensor([2.0, torch.inf, torch.nan])
        >>> torch.autograd.grad((with_clipped_gradient(x) * weights).sum(), x)
        (tensor([2.0000e+00, 1.0000e+12, 0.0000e+00]),)
    """
    if not raw.requires_grad or raw.dtype not in LARGEST or not torch.is_grad_enabled():
        return raw
    if is_transforming():
        return raw if is_exporting() else _node().apply(raw)
    if raw.is_leaf:
        raw = raw.view_as(raw)
    source: Any = raw.grad_fn
    source.register_prehook(_clipped_all)
    return raw


def _node() -> Any:
    """The function that does it in a graph; dynamo takes none with a rule for forward mode."""
    return _ClippedGradient if is_dynamo_compiling() else _WithTangent


def _clipped(gradient: Tensor) -> Tensor:
    largest = LARGEST[gradient.dtype]
    return gradient.nan_to_num(0.0).clamp(-largest, largest)


def _clipped_all(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if gradient is None else _clipped(gradient) for gradient in gradients)


class _ClippedGradient(torch.autograd.Function):
    """The same for `torch.compile` and `torch.func`, at the price of a node in the graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(raw: Tensor) -> Tensor:
        return raw.view_as(raw)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _clipped(gradient)


class _WithTangent(_ClippedGradient):
    """With a rule for forward mode."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.view_as(tangent)
