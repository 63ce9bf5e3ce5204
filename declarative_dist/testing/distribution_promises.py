"""What a family promises: of its draws and densities, of learning, and of its life as a module."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.func import functional_call as call_with

from declarative_dist.testing.promise import Trial, call_compiled, show

BATCHES, BATCH_SIZE, DEVIATIONS = 64, 64, 6.0
"""How the mean gradient is estimated, and how many standard errors it may be from zero."""

KEEP_TO_TORCH = "Use it in the distribution without detach, item, data or numpy, or freeze it."
RETURN_PLAIN = "Return a torch.distributions object from forward."

Values = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class FamilyTrial(Trial):
    """A family on trial, and what a call of it is given."""

    context: tuple[Any, ...]
    given: Mapping[str, Any]
    skip: frozenset[str]

    fitting = "batch_shape and event_shape must say what is drawn: see Independent and event_dim."

    def build(self, family: Any) -> Any:
        """The plain distribution that the family is now."""
        return family(*self.context, **self.given)

    def draw(self, family: Any, count: int = 4) -> Values:
        """Draws, always from the same random numbers."""
        torch.manual_seed(1)
        values: Values = self.build(family).sample((count,))
        return values

    def score(self, family: Any, values: Values) -> Tensor:
        """The log densities of values."""
        scores: Tensor = self.build(family).log_prob(values)
        return scores

    def differentiate(self, family: Any) -> None:
        """Leave a gradient on every parameter that log densities, or draws, depend on."""
        loss = -self.score(family, self.draw(family)).mean()
        if self.is_pathwise(family):
            draws = by_site(self.build(family).rsample((4,))).values()
            loss = loss + torch.stack([draw.square().mean() for draw in draws]).sum()
        if loss.requires_grad:
            loss.backward()

    def is_pathwise(self, family: Any) -> bool:
        """Whether gradients are promised to flow through draws."""
        return "rsample" not in self.skip and bool(self.build(family).has_rsample)

    def expect_scores(self, member: str, got: Tensor, wanted: Tensor, tolerance: float) -> None:
        """Refuse a member that gives other log densities."""
        self.expect_close(member, "log densities of {}", got, wanted, tolerance)


def by_site(values: Values) -> Mapping[str, Tensor]:
    """Draws as a dict, also of a single distribution."""
    return values if isinstance(values, dict) else {"": values}


def perturb(family: nn.Module) -> nn.Module:
    """Move every parameter of a family, each entry by its own amount."""
    with torch.no_grad():
        for parameter in family.parameters():
            step = torch.linspace(0.05, 0.15, parameter.numel(), dtype=parameter.dtype)
            parameter.sub_(step.to(parameter.device).reshape(parameter.shape))
    return family


def is_plain(distribution: object) -> bool:
    """Whether this is one of torch's own objects, not a module."""
    return isinstance(distribution, Distribution) and not isinstance(distribution, nn.Module)


def tensors_in(family: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a family, by name."""
    yield from family.named_parameters()
    yield from family.named_buffers()


def trainable_parameters(family: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in family.named_parameters() if p.requires_grad}


def _first(entries: Tensor) -> tuple[int, ...]:
    """The index of the first entry that is true."""
    return tuple(entries.nonzero()[0].tolist())


def copies(trial: FamilyTrial) -> None:
    """An independent copy with the same numbers from copy.deepcopy."""
    other = trial.copy()
    own = set(map(id, trial.subject.parameters()))
    is_apart = own.isdisjoint(map(id, other.parameters()))
    fix = "Hold parameters as attributes of the module, and leave copying to torch."
    trial.expect(is_apart, "__deepcopy__", "parameters of its own in a copy", "shared ones", fix)
    found = dict(tensors_in(other))
    for name, tensor in tensors_in(trial.subject):
        trial.expect(name in found, name, f"{show(tensor)} in a copy too", "nothing")
        trial.expect_close(name, "{} in a copy too", found[name], tensor)


def call(trial: FamilyTrial) -> None:
    """A distribution from a call."""
    built = trial.build(trial.copy())
    is_one = hasattr(built, "sample") and hasattr(built, "log_prob")
    trial.expect(is_one, "forward", "a distribution", f"a {type(built).__name__}", RETURN_PLAIN)


def parameters(trial: FamilyTrial) -> None:
    """All parameters from the start."""
    family = trial.copy()
    before = {name: id(parameter) for name, parameter in family.named_parameters()}
    trial.draw(family)
    after = {name: id(parameter) for name, parameter in family.named_parameters()}
    fix = "Declare a Param, or check with skip for what has none."
    trial.expect(before or after, "parameters()", "parameters to learn", "none", fix)
    fix = "Make it in __init__: an optimizer that was given parameters() would not know it."
    for name in sorted({*before, *after}):
        is_same = before.get(name) == after.get(name)
        trial.expect(is_same, name, "the same parameter from the start", "another later", fix)


def shapes(trial: FamilyTrial) -> None:
    """Draws of shape (*sample, *batch, *event), log densities of shape (*sample, *batch)."""
    built = trial.build(trial.copy())
    one = by_site(built.sample())
    for shape in ((), (5,), (5, 2)):
        values, of = built.sample(shape), f"the sample shape {shape}"
        for site, value in by_site(values).items():
            member, wanted = f"{site}.sample".lstrip("."), (*shape, *one[site].shape)
            if is_plain(built):
                wanted = (*shape, *built.batch_shape, *built.event_shape)
            trial.expect_shape(member, value.shape, wanted, of)
            fix = "Draw under torch.no_grad() in sample; rsample is for gradients."
            is_detached = not value.requires_grad
            trial.expect(is_detached, member, "a draw without a gradient", "one with", fix)
        scores, wanted = built.log_prob(values), (*shape, *built.batch_shape)
        trial.expect_shape("log_prob", scores.shape, wanted, of)


def support(trial: FamilyTrial) -> None:
    """Draws in the support, with finite log densities."""
    built = trial.build(trial.copy())
    values = built.sample((100,))
    try:
        known = built.support if is_plain(built) else None
    except NotImplementedError:
        known = None
    if known is not None and not (is_in := known.check(values)).all():
        fix = "Draw inside it, or name another support."
        raise trial.broken("sample", f"a draw in {known}", show(values[_first(~is_in)]), fix)
    scores = built.log_prob(values)
    if not scores.isfinite().all():
        first = _first(~scores.isfinite())
        shown = {site: show(value[first[:1]]) for site, value in by_site(values).items()}
        draws = ", ".join(f"{site}.draw {text}".lstrip(".") for site, text in shown.items())
        got = f"{show(scores[first])} for the {draws}"
        raise trial.broken("log_prob", "a finite log density of its own draw", got)


def snapshot(trial: FamilyTrial) -> None:
    """Members that agree with the plain distribution of a call."""
    family = trial.copy()
    built = trial.build(family)
    is_module, got = isinstance(built, nn.Module), f"a module, {type(built).__name__}"
    trial.expect(not is_module, "forward", "a plain distribution", got, RETURN_PLAIN)
    fix = "Leave it to Variational, which asks a fresh distribution, and keep none."
    for _ in range(2 if isinstance(trial.subject, Distribution) else 0):
        plain: Any = trial.build(family)
        values: Any = trial.draw(family)
        torch.manual_seed(1)
        drawn, scores = family.sample((4,)), family.log_prob(values)
        expected = "{}, as of a call"
        trial.expect_close("log_prob", expected, scores, plain.log_prob(values), 1e-4, fix)
        trial.expect_close("sample", expected, drawn, values, 1e-4, fix)
        for name in ("batch_shape", "event_shape", "has_rsample"):
            own, wanted = getattr(family, name), getattr(plain, name)
            trial.expect(own == wanted, name, f"{wanted}, as of a call", f"{own}")
        perturb(family)


def rsample(trial: FamilyTrial) -> None:
    """Gradients that flow through draws, where rsample is promised."""
    family = trial.copy()
    if not trial.is_pathwise(family):
        return
    draws = by_site(trial.build(family).rsample((4,))).values()
    flowing = [draw.square().sum() for draw in draws if draw.requires_grad]
    fix = "Draw with torch's operations on the parameters, or set has_rsample = False."
    is_alive = flowing or not trainable_parameters(family)
    trial.expect(is_alive, "rsample", "a draw with a gradient", "a detached one", fix)
    if flowing:
        torch.stack(flowing).sum().backward()


def gradient(trial: FamilyTrial) -> None:
    """A finite gradient that is not zero for every parameter."""
    family = trial.copy()
    trial.differentiate(family)
    for name, parameter in trainable_parameters(family).items():
        expected = "a gradient from the log density"
        if parameter.grad is None:
            raise trial.broken(name, expected, "none", KEEP_TO_TORCH)
        is_finite = parameter.grad.isfinite().all()
        trial.expect(is_finite, name, f"a finite {expected[2:]}", show(parameter.grad))
        trial.expect(parameter.grad.any(), name, expected, "zeros", KEEP_TO_TORCH)


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
        try:
            (-trial.score(family, values).mean()).backward()
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            fix = "Build the distribution in each call, and keep nothing that has a gradient."
            expected = "a graph of its own for every call"
            raise trial.broken("log_prob", expected, "one that is gone", fix) from error
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
        if (far := mean.abs() > allowed).any():
            most, got = show(allowed[_first(far)]), show(mean[_first(far)])
            expected = f"a mean gradient by {name} of 0.0 over its own draws, to {most}"
            fix = (
                "Let sample and log_prob belong to one distribution, normalised. Where the "
                "support depends on parameters, as a uniform's does, check with skip=['score']."
            )
            raise trial.broken("log_prob", expected, got, fix)


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
        trial.expect_scores("load_state_dict", found, wanted, 0.0)


def pickle(trial: FamilyTrial) -> None:
    """A family that pickles after a backward."""
    family = trial.copy()
    trial.differentiate(family)
    other, values = trial.unpickle(family, "family"), trial.draw(family)
    found, wanted = trial.score(other, values), trial.score(family, values)
    trial.expect_scores("__reduce__", found, wanted, 0.0)


def dtype(trial: FamilyTrial) -> None:
    """Everything in float64 after .double()."""
    family = trial.copy().double()
    _expect_double(trial, dict(tensors_in(family)))
    context = tuple(
        part.double() if isinstance(part, Tensor) and part.is_floating_point() else part
        for part in trial.context
    )
    moved = replace(trial, context=context)
    values = moved.draw(family)
    found = {**by_site(values), "log_prob": moved.score(family, values)}
    fix = "Make constants buffers, and new tensors in the dtype of the parameters."
    _expect_double(trial, found, fix)


def _expect_double(trial: FamilyTrial, tensors: Mapping[str, Tensor], fix: str = "") -> None:
    for name, tensor in tensors.items():
        is_double = not tensor.is_floating_point() or tensor.dtype == torch.float64
        expected = "torch.float64 after .double()"
        trial.expect(is_double, name or "sample", expected, f"{tensor.dtype}", fix)


def meta(trial: FamilyTrial) -> None:
    """Everything back from the meta device by to_empty and reset_parameters."""
    family = trial.copy().to("meta")
    fix = "Write one that sets every parameter and buffer, or check with skip=['meta']."
    has_reset = hasattr(family, "reset_parameters")
    trial.expect(has_reset, "reset_parameters", "a method of that name", "none", fix)
    expected = 'a meta tensor after .to("meta")'
    for name, tensor in tensors_in(family):
        trial.expect(tensor.is_meta, name, expected, f"one on {tensor.device}")
    family.to_empty(device="cpu")
    first, second = (_reset_from(family, fill) for fill in (0, 1))
    expected = "its starting value again from reset_parameters"
    fix = "Its module must restore it in a reset_parameters of its own."
    for name, tensor in first.items():
        is_restored = torch.equal(tensor, second[name])
        trial.expect(is_restored, name, expected, "what was in memory", fix)
    scores = trial.score(family, trial.draw(family))
    expected = "finite log densities after reset_parameters"
    trial.expect(scores.isfinite().all(), "reset_parameters", expected, show(scores))


def _reset_from(family: Any, fill: int) -> dict[str, Tensor]:
    """The state that reset_parameters makes of a family full of one number."""
    for _, tensor in tensors_in(family):
        tensor.data.fill_(fill)
    torch.manual_seed(0)
    family.reset_parameters()
    state: dict[str, Tensor] = copy.deepcopy(family.state_dict())
    return state


def functional_call(trial: FamilyTrial) -> None:
    """The densities of other parameters from torch.func.functional_call."""
    family, other = trial.copy(), perturb(trial.copy())
    values = trial.draw(other)
    built: Any = call_with(
        family, dict(other.named_parameters()), trial.context, dict(trial.given)
    )
    trial.expect_scores("forward", built.log_prob(values), trial.score(other, values), 1e-5)


def vmap(trial: FamilyTrial) -> None:
    """The same densities under torch.func.vmap."""
    family = trial.copy()
    values = trial.draw(family)
    mapped = torch.func.vmap(lambda row: trial.score(family, row))(values)
    trial.expect_scores("log_prob", mapped, trial.score(family, values), 1e-4)


def compiled(trial: FamilyTrial) -> None:
    """The same densities from torch.compile(fullgraph=True)."""
    family = trial.copy()
    values = trial.draw(family)
    found = call_compiled(lambda values: trial.score(family, values), values)
    trial.expect_scores("log_prob", found, trial.score(family, values), 1e-4)


PROMISES: Mapping[str, Callable[[FamilyTrial], None]] = {
    promise.__name__: promise
    for promise in (
        copies, call, parameters, shapes, support, snapshot, rsample, gradient, step, score,
        state, pickle, dtype, meta, functional_call, vmap,
    )
}  # fmt: skip
"""The promises by name, in the order in which they build on each other."""

SLOW: Mapping[str, Callable[[FamilyTrial], None]] = {"compile": compiled}
"""The promises that take seconds to check."""
