"""What a family promises: of its draws and densities, of learning, and of its life as a module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pickle import dumps, loads
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call as call_with

from declarative_dist.testing.mass import mass_of
from declarative_dist.testing.promise import Trial, call_compiled, show

BATCHES, BATCH_SIZE, DEVIATIONS = 64, 64, 6.0
"""How the mean gradient is estimated, and how many standard errors it may be from zero."""

KEEP_TO_TORCH = "Use it in the distribution without detach, item, data or numpy, or freeze it."

SCORES = "log densities of {}"

Values = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class FamilyTrial(Trial):
    """A family on trial, and what a call of it is given."""

    context: tuple[Any, ...]
    given: Mapping[str, Any]
    skip: frozenset[str]

    def build(self, family: Any) -> Any:
        """The plain distribution that the family is now."""
        return family(*self.context, **self.given)

    def draw(self, family: Any, count: int = 4) -> Values:
        """Draws, always from the same random numbers."""
        torch.manual_seed(1)
        return self.build(family).sample((count,))

    def score(self, family: Any, values: Values) -> Tensor:
        """The log densities of values."""
        return self.build(family).log_prob(values)

    def differentiate(self, family: Any) -> None:
        """Leave a gradient on every parameter that log densities, or draws, depend on."""
        loss = self.loss(family, self.draw(family))
        if self.is_pathwise(family):
            draws = by_site(self.build(family).rsample((4,))).values()
            loss = loss + torch.stack([draw.square().mean() for draw in draws]).sum()
        if loss.requires_grad:
            loss.backward()

    def loss(self, family: Any, values: Values) -> Tensor:
        """A negative log density in which each draw has another weight, so that none cancel."""
        scores = self.score(family, values)
        generator = torch.Generator().manual_seed(3)
        weights = torch.rand(scores.shape, generator=generator, dtype=torch.float64)
        return -(scores * (1.0 + weights).to(scores)).mean()

    def in_float64(self) -> tuple[FamilyTrial, Any]:
        """The trial and a copy of the family in float64."""
        context = tuple(
            part.double() if isinstance(part, Tensor) and part.is_floating_point() else part
            for part in self.context
        )
        return replace(self, context=context), self.copy().double()

    def is_pathwise(self, family: Any) -> bool:
        """Whether gradients are promised to flow through draws."""
        return "rsample" not in self.skip and bool(self.build(family).has_rsample)


def by_site(values: Values) -> Mapping[str, Tensor]:
    """Draws as a dict, also of a single distribution."""
    return values if isinstance(values, dict) else {"": values}


def perturb(family: nn.Module) -> nn.Module:
    """Move every parameter of a family, each entry by an amount of its own, from 0.05 to 0.15."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in family.parameters():
            step = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.sub_((0.05 + 0.1 * step).to(parameter))
    return family


def tensors_in(family: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a family, by name."""
    yield from family.named_parameters()
    yield from family.named_buffers()


def trainable_parameters(family: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in family.named_parameters() if p.requires_grad}


def copies(trial: FamilyTrial) -> None:
    """An independent copy with the same numbers from copy.deepcopy."""
    own, found = (dict(tensors_in(family)) for family in (trial.subject, trial.copy()))
    shared = set(map(id, own.values())) & set(map(id, found.values()))
    is_apart = not shared and own.keys() == found.keys()
    fix = "Hold parameters as attributes of the module, and leave copying to torch."
    trial.expect(is_apart, "__deepcopy__", "parameters of its own in a copy", "others", fix)
    for name, tensor in own.items():
        trial.expect_close(name, "{} in a copy too", found[name], tensor)


def parameters(trial: FamilyTrial) -> None:
    """All parameters from the start."""
    family = trial.copy()
    before = {name: id(parameter) for name, parameter in family.named_parameters()}
    trial.draw(family)
    after = {name: id(parameter) for name, parameter in family.named_parameters()}
    trial.expect(after, "parameters()", "parameters to learn", "none", "Declare a Param.")
    fix = "Make it in __init__: an optimizer that was given parameters() would not know it."
    changed = [name for name, parameter in after.items() if before.get(name) != parameter]
    trial.expect(not changed, "".join(changed[:1]), "the same from the start", "another", fix)


def shapes(trial: FamilyTrial) -> None:
    """Draws of shape (*sample, *batch, *event), log densities of shape (*sample, *batch)."""
    built = trial.build(trial.copy())
    got, fix = f"a module, {type(built).__name__}", "Return a torch.distributions object."
    trial.expect(not isinstance(built, nn.Module), "forward", "a plain distribution", got, fix)
    one = by_site(built.sample())
    for shape in ((), (5,), (5, 2)):
        values, of = built.sample(shape), f"the sample shape {shape}"
        for site, value in by_site(values).items():
            member, wanted = f"{site}.sample".lstrip("."), (*shape, *one[site].shape)
            if isinstance(built, Distribution):
                wanted = (*shape, *built.batch_shape, *built.event_shape)
            trial.expect_shape(member, value.shape, wanted, of)
            fix = "Draw under torch.no_grad() in sample; rsample is for gradients."
            no_grad = "a draw without a gradient"
            trial.expect(not value.requires_grad, member, no_grad, "one with", fix)
        scores, wanted = built.log_prob(values), (*shape, *built.batch_shape)
        trial.expect_shape("log_prob", scores.shape, wanted, of)


def support(trial: FamilyTrial) -> None:
    """Draws in the support, with finite log densities."""
    built = trial.build(trial.copy())
    values = built.sample((100,))
    known: Any = None
    with suppress(NotImplementedError):
        known = built.support if isinstance(built, Distribution) else None
    if known is not None:
        outside = values[~known.check(values)]
        expected, fix = f"draws in {known}", "Draw inside it, or name another support."
        trial.expect(not len(outside), "sample", expected, show(outside[:1]), fix)
    scores = built.log_prob(values)
    bad, expected = scores[~scores.isfinite()], "finite log densities of its own draws"
    trial.expect(not len(bad), "log_prob", expected, show(bad[:1]))


def rsample(trial: FamilyTrial) -> None:
    """Gradients that flow through draws, where rsample is promised."""
    family = trial.copy()
    if trial.is_pathwise(family) and trainable_parameters(family):
        draws = by_site(trial.build(family).rsample((4,))).values()
        flowing = [draw.square().sum() for draw in draws if draw.requires_grad]
        fix = "Draw with torch's operations on the parameters, or set has_rsample = False."
        trial.expect(flowing, "rsample", "a draw with a gradient", "a detached one", fix)
        torch.stack(flowing).sum().backward()


def gradient(trial: FamilyTrial) -> None:
    """A finite gradient that is not zero for every parameter."""
    expected, moved = "a gradient from the log density", set()
    # Two equal parts of a mixture have a gradient of zero in its weights, until they differ.
    for family in (trial.copy(), perturb(trial.copy())):
        trial.differentiate(family)
        for name, parameter in trainable_parameters(family).items():
            if parameter.grad is None:
                raise trial.broken(name, expected, "none", KEEP_TO_TORCH)
            is_finite = parameter.grad.isfinite().all()
            trial.expect(is_finite, name, f"a finite {expected[2:]}", show(parameter.grad))
            moved |= {name} if parameter.grad.any() else set()
    for name in trainable_parameters(trial.subject):
        trial.expect(name in moved, name, expected, "zeros", KEEP_TO_TORCH)


def step(trial: FamilyTrial) -> None:
    """A second backward, and a log density that a step changes."""
    family = trial.copy()
    learned = trainable_parameters(family).values()
    if not learned:
        return
    values = trial.draw(family)
    before = trial.score(family, values).detach()
    optimizer = torch.optim.SGD(learned, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        trial.loss(family, values).backward()
        optimizer.step()
    moves = not torch.equal(trial.score(family, values), before)
    fix = "Build the distribution in each call, and keep nothing computed from parameters."
    trial.expect(moves, "log_prob", "other log densities after a step", show(before), fix)


def score(trial: FamilyTrial) -> None:
    """Draws and densities that belong together: scores with a mean of zero."""
    family = trial.copy()
    learned = trainable_parameters(family)
    torch.manual_seed(2)
    found: dict[str, list[Tensor]] = {}
    for _ in range(BATCHES if learned else 0):
        built = trial.build(family)
        mean = built.log_prob(built.sample((BATCH_SIZE,))).sum() / BATCH_SIZE
        each = torch.autograd.grad(mean, list(learned.values()), allow_unused=True)
        for name, gradient in zip(learned, each, strict=True):
            if gradient is not None:
                found.setdefault(name, []).append(gradient.double())
    for name, batches in found.items():
        gradients = torch.stack(batches)
        mean, size = gradients.mean(0), gradients.abs().mean(0)
        allowed = DEVIATIONS * gradients.std(0) / BATCHES**0.5 + 1e-3 * size + 1e-6
        expected = f"a mean gradient by {name} of 0.0 over its own draws, to {show(allowed)}"
        fix = (
            "Let sample and log_prob belong to one distribution, normalised. Where the "
            "support depends on parameters, as a uniform's does, check with skip=['score']."
        )
        trial.expect(bool((mean.abs() <= allowed).all()), "log_prob", expected, show(mean), fix)


def state(trial: FamilyTrial) -> None:
    """A saved state that holds all there is, and loads."""
    trial.expect_registered("module", "Declare it in the class body, or register_buffer it.")
    trained = perturb(trial.copy())
    values = trial.draw(trained)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    for device, assign in (("cpu", False), ("cpu", True), ("meta", True)):
        file.seek(0)
        other = trial.copy().to("meta") if device == "meta" else trial.copy()
        other.load_state_dict(torch.load(file, weights_only=True), assign=assign)
        found, wanted = trial.score(other, values), trial.score(trained, values)
        trial.expect_close("load_state_dict", SCORES, found, wanted, 0.0)


def pickle(trial: FamilyTrial) -> None:
    """A family that pickles after a backward."""
    family = trial.copy()
    trial.differentiate(family)
    other = loads(dumps(family))  # noqa: S301 - what was just dumped
    values = trial.draw(family)
    found, wanted = trial.score(other, values), trial.score(family, values)
    trial.expect_close("__reduce__", SCORES, found, wanted, 0.0)


def dtype(trial: FamilyTrial) -> None:
    """Everything in float64 after .double()."""
    moved, family = trial.in_float64()
    values = moved.draw(family)
    scores = {"log_prob": moved.score(family, values)}
    fix = "Make constants buffers, and new tensors in the dtype of the parameters."
    for name, tensor in {**dict(tensors_in(family)), **by_site(values), **scores}.items():
        trial.expect_dtype(name or "sample", tensor, torch.float64, fix)


def mass(trial: FamilyTrial) -> None:
    """A density of single numbers that adds up to one."""
    if "dtype" in trial.skip:  # rounding in float32 would count for too much
        return
    moved, family = trial.in_float64()
    built = moved.build(family)
    checked = mass_of(built) if isinstance(built, Distribution) else None
    if checked is not None:
        low, high, found, share, tolerance = checked
        expected = f"{share:.4g} between {low:.4g} and {high:.4g}, where this share of draws is"
        is_close = abs(found - share) <= tolerance
        fix = "Normalise it: the integral, or the sum, of exp(log_prob) over the support is 1."
        trial.expect(is_close, "log_prob", expected, f"a probability of {found:.4g}", fix)


def meta(trial: FamilyTrial) -> None:
    """Everything back from the meta device by to_empty and reset_parameters."""
    family = trial.copy().to("meta").to_empty(device="cpu")
    states = []
    for fill in (0, 1):
        for _, tensor in tensors_in(family):
            tensor.data.fill_(fill)
        torch.manual_seed(0)
        family.reset_parameters()
        states.append(copy.deepcopy(family.state_dict()))
    expected = "its starting value again from reset_parameters"
    fix = "Its module must restore it in a reset_parameters of its own."
    for name, tensor in states[0].items():
        is_restored = torch.equal(tensor, states[1][name])
        trial.expect(is_restored, name, expected, "what was in memory", fix)
    scores, expected = trial.score(family, trial.draw(family)), "finite log densities"
    trial.expect(scores.isfinite().all(), "reset_parameters", expected, show(scores))


def functional_call(trial: FamilyTrial) -> None:
    """The densities of other parameters from torch.func.functional_call."""
    family, other = trial.copy(), perturb(trial.copy())
    values = trial.draw(other)
    own: dict[str, Tensor] = dict(other.named_parameters())
    built: Any = call_with(family, own, trial.context, dict(trial.given))
    trial.expect_close("forward", SCORES, built.log_prob(values), trial.score(other, values), 1e-5)


def vmap(trial: FamilyTrial) -> None:
    """The same densities under torch.func.vmap."""
    family = trial.copy()
    values = trial.draw(family)
    mapped = torch.func.vmap(lambda row: trial.score(family, row))(values)
    trial.expect_close("log_prob", SCORES, mapped, trial.score(family, values), 1e-4)


def compiled(trial: FamilyTrial) -> None:
    """The same densities from torch.compile(fullgraph=True)."""
    family = trial.copy()
    values = trial.draw(family)
    found = call_compiled(lambda values: trial.score(family, values), values)
    trial.expect_close("log_prob", SCORES, found, trial.score(family, values), 1e-4)


PROMISES: Mapping[str, Callable[[FamilyTrial], None]] = {
    promise.__name__.replace("compiled", "compile"): promise
    for promise in (
        copies, parameters, shapes, support, rsample, gradient, step, score, state, pickle, dtype,
        mass, meta, functional_call, vmap, compiled,
    )
}  # fmt: skip
"""The promises by name, in the order in which they build on each other."""
