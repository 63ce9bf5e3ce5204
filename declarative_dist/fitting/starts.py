"""Starts of a fit: values as they are, and what the data suggest; the best by the loss goes on.

What `moments` suggests for the arguments of a plain distribution goes to the parameters that these
arguments are. Which those are is seen from the numbers, after a small random move of all of them:
so any way of declaring a family will do, by its base, by a method or by a nest of parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from declarative_dist.errors import ConstraintError
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.contextual import Contextual
from declarative_dist.fields.field import current_value, needed_values
from declarative_dist.fields.walk import join
from declarative_dist.fitting.clusters import cluster
from declarative_dist.fitting.losses import FamilyData, Losses, plain_of
from declarative_dist.fitting.moments import Sample, suggest
from declarative_dist.latents.flat_params import trainable
from declarative_dist.optimization.rows import Rows
from declarative_dist.plain.decompose import decompose
from declarative_dist.plain.nests import fold
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tensors import is_dense
from declarative_dist.wrappers.censored import Censored
from declarative_dist.wrappers.truncated import Truncated
from declarative_dist.wrappers.zero_inflated import ZeroInflated

SEEDINGS = 4
"""How many starts a mixture gets."""


class Source(NamedTuple):
    """A parameter or a head that an argument is.

    Attributes:
        name: its own, dotted.
        part: the module that has it.
        field: the field.
        value: its value.
        bias: of a head the part of the bias behind it.
        aligned: how its shape lies in that of the argument.
    """

    name: str
    part: Any
    field: Any
    value: Tensor
    bias: Tensor | None = None
    aligned: torch.Size = torch.Size()


Places = dict[tuple[str, str], Source]
"""The trainable parameters that arguments of a distribution are, by the argument."""

Part = tuple[FamilyData, Places]

Leaf = tuple[str, Any, Sample]
"""Where a distribution stands in a nest, itself, and its data."""

Leaves = Callable[[Sample], list[Leaf]]


def race(rows: Rows, losses: Losses, others: int) -> bool:
    """Set parameters to the best of their starts, for each independent problem alone.

    Args:
        rows: the parameters.
        losses: gives the losses of all problems.
        others: how many more starts to try, each twice as far from the others as the one before.

    Returns:
        Whether all numbers are what the data suggest, by one formula.
    """
    start = best = rows.read()
    with torch.no_grad():
        least = rows.attempt(losses, start, start)
        parts = [(data, _find_places(data)) for data in losses.data]
        several = any("shares" in level for _, places in parts for level, _ in places)
        seeds = range(SEEDINGS + others if several else losses.module is not None)
        candidates = [_move_to(rows, start, losses, parts, seed) for seed in seeds]
    is_one = len(candidates) == 1 and not others
    generator = torch.Generator().manual_seed(0)
    for number in range(others):
        noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        candidates.append(start + (0.5 * 2**number * noise).to(start))
    for candidate in candidates:
        usable = torch.where(candidate.isfinite().all(1, keepdim=True), candidate, best)
        with torch.set_grad_enabled(is_one):  # whoever goes on from here needs the gradient
            found = rows.attempt(losses, usable, best).detach()
        is_better = found < least
        best = torch.where(is_better[:, None], usable, best)
        least = torch.where(is_better, found, least)
    rows.write(best)
    # Of equal data there may be no maximum, and the formulas stop somewhere on the way.
    return is_one and bool((best != start).all()) and not losses.has_equal_data


def _move_to(rows: Rows, start: Tensor, losses: Losses, parts: list[Part], seed: int) -> Tensor:
    """From a start, set what parts suggest; what does not go together changes nothing."""
    rows.write(start)
    module: Any = losses.module
    values: dict[str, Tensor] = {}
    with suppress(ConstraintError), restoring(module):
        _shrink_weights(module, losses.batch)
        for name, source, value in _suggest_from(parts, seed):
            if source.bias is None:
                values[name] = value
            else:
                source.bias.copy_(_constraint_of(source).inverse(value))
        module.assign(**values)
    return rows.read()


def _shrink_weights(module: Any, batch: tuple[Any, ...]) -> None:
    """Give the weights of a context the units of its numbers, be they dollars or metres."""
    for part in module.modules():
        layer: Any = getattr(part, "projection", None)
        if isinstance(part, Contextual) and layer is not None and part.network is None:
            context = batch[0]
            is_seen = is_dense(context) and context.shape[-1:] == (layer.in_features,)
            if is_seen and layer.weight.requires_grad:
                sizes = context.reshape(-1, layer.in_features).double().square().mean(0).sqrt()
                layer.weight /= sizes.where(sizes > 0, 1.0).to(layer.weight)


def _sources_of(module: Any) -> list[Source]:
    """The trainable parameters, and the heads of a `Conditional` that one layer serves."""
    sources = [
        Source(join(path, field.name), part, field, current_value(part, field.name))
        for path, part, field, _ in trainable(module)
    ]
    layer: Any = getattr(module, "projection", None)
    if isinstance(module, Conditional) and layer.bias.requires_grad:
        shapes: dict[str, torch.Size] = vars(module)["_raw_shapes"]
        pieces = layer.bias.detach().split([shape.numel() for shape in shapes.values()])
        pairs = zip(shapes.items(), pieces, strict=True)
        known = {name: piece.view(shape) for (name, shape), piece in pairs}
        sources += [
            Source(head.name, module, head, head.value(module, known), known[head.raw_name])
            for head in type(module).__declaration__.heads
            if not head.constraint.names
        ]
    return sources


def _suggest_from(parts: list[Part], seed: int) -> Iterator[tuple[str, Source, Tensor]]:
    for data, places in parts:
        for level, part, sample in _leaves_of(data.plain, data.sample, seed):
            wanted = {n: source for (at, n), source in places.items() if at == level}
            found = suggest(sample, part) if wanted else {}
            for name in wanted.keys() & found.keys():
                value = _fit_into(wanted[name], found[name])
                if value is not None:
                    yield data.prefix + wanted[name].name, wanted[name], value


def _over_event(tensor: Tensor, event_dim: int) -> Tensor:
    return tensor.reshape(tensor.shape + (1,) * event_dim)


def _find_places(data: FamilyData) -> Places:
    """The trainable parameters that arguments of the plain distribution are, by the argument."""
    module, places = data.module, Places()
    sources = {source.name: source for source in _sources_of(module)}
    generator = torch.Generator().manual_seed(0)
    with restoring(module, always=True):
        for parameter in module.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator).to(parameter)
                parameter += (0.01 + 0.01 * parameter.abs()) * noise
        moved = _sources_of(module)
        for level, part, _ in _leaves_of(plain_of(module), data.sample.first(), 0):
            for name, argument in decompose(part)[1].items():
                for source in moved if isinstance(argument, Tensor) else ():
                    aligned = _align(name, argument, source)
                    if aligned is not None:
                        places[level, name] = sources[source.name]._replace(aligned=aligned)
                        moved.remove(source)
                        break
    return places


def _align(name: str, argument: Tensor, source: Source) -> torch.Size | None:
    """The shape of a value in front of an argument that it is; None if it is another."""
    value, copies = source.value, len(vars(source.part)["_copies"])
    missing = argument.ndim - value.ndim
    if missing < 0 or not value.is_floating_point():
        return None
    shape = torch.Size((*value.shape[:copies], *(1,) * missing, *value.shape[copies:]))
    if any(own not in (1, whole) for own, whole in zip(shape, argument.shape, strict=True)):
        return None
    pairs = [(value.reshape(shape).expand(argument.shape), argument)]
    if name == "logits" and shape[-1:] == argument.shape[-1:]:  # may be normalised
        pairs.append((pairs[0][0].log_softmax(-1), argument.log_softmax(-1)))
    return shape if any(torch.allclose(*pair, 1e-5, 1e-9) for pair in pairs) else None


def _leaves_of(plain: Any, sample: Sample, seed: int) -> list[Leaf]:
    """The distributions that one is made of, if not itself, each with what the data say of it."""

    def leaf(part: Any) -> Leaves:
        if not isinstance(part, (Censored, Truncated, ZeroInflated)):
            return lambda inner: [("leaf", part, inner)]
        base = part.base_distribution

        def apply(inner: Sample) -> list[Leaf]:
            inside = _leaves_of(base, _sample_of_base(inner, part), seed)
            wrapped = [(f"base {level}", inmost, own) for level, inmost, own in inside]
            return [("leaf", part, inner), *wrapped]

        return apply

    def independent(part: Any, inside: Leaves) -> Leaves:
        added = part.reinterpreted_batch_ndims
        return lambda inner: inside(
            inner.with_values(inner.values, _over_event(inner.weights, added), -added)
        )

    def transformed(part: Any, inside: Leaves) -> Leaves:
        def apply(inner: Sample) -> list[Leaf]:
            value = inner.values
            for transform in reversed(part.transforms):
                value = transform.inv(value)
            added = len(part.base_dist.event_shape) - inner.event_dim
            weights = _over_event(inner.weights, max(-added, 0))
            return inside(inner.with_values(value, weights, added))

        return apply

    def mixture(part: Any, inside: Leaves) -> Leaves:
        def apply(inner: Sample) -> list[Leaf]:
            count = part.mixture_distribution.probs.shape[-1]
            members, weights = cluster(inner, part.batch_shape, count, seed)
            value = inner.values.unsqueeze(inner.values.ndim - inner.event_dim)
            shares = inner.with_values(members, weights, 1 - inner.event_dim)
            of_each = inner.with_values(value, members * weights[..., None])
            return [("shares", part.mixture_distribution, shares), *inside(of_each)]

        return apply

    compute = fold(plain, leaf, independent=independent, transformed=transformed, mixture=mixture)
    return compute(sample)


def _sample_of_base(sample: Sample, part: Any) -> Sample:
    """What data of a wrapper say about its base: those beyond an end lie at it."""
    if isinstance(part, ZeroInflated):
        weights = sample.weights * (sample.values != 0)
        return sample.with_values(torch.where(sample.values == 0, 1.0, sample.values), weights)
    if not part.event_shape:
        return sample
    lower, upper = sample.values.unbind(-1)
    ends = torch.where(lower.isfinite(), lower, upper), torch.where(upper.isfinite(), upper, lower)
    return sample.with_values((ends[0] + ends[1]) / 2, sample.weights, -1)


def _fit_into(source: Source, value: Tensor) -> Tensor | None:
    """A suggestion in the shape of its parameter; where it may not be, the value that is there."""
    try:
        value = value.expand(torch.broadcast_shapes(value.shape, source.aligned))
    except RuntimeError:
        return None
    if value.ndim != len(source.aligned):
        return None
    for dim, (own, whole) in enumerate(zip(source.aligned, value.shape, strict=True)):
        if own == 1 and whole != 1:
            value = value.mean(dim, keepdim=True)
    value = value.reshape(source.value.shape).to(source.value)
    if source.field.constraint.names:
        return value
    inside = _constraint_of(source).contains(value)
    return torch.where(_over_event(inside, value.ndim - inside.ndim), value, source.value)


def _constraint_of(source: Source) -> Any:
    known = needed_values(source.part, source.field.name)
    return source.field.resolved_constraint(source.part, known)
