"""What a family promises of its draws and densities, and of learning from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.testing.distribution_trial import FamilyTrial, by_site, is_plain, perturbed
from declarative_dist.testing.promise import is_close, show

BATCHES, BATCH_SIZE, DEVIATIONS = 64, 64, 6.0
"""How the mean gradient is estimated, and how many standard errors it may be from zero."""

KEEP_TO_TORCH = "Use it in the distribution without detach, item, data or numpy, or freeze it."


def copies(trial: FamilyTrial) -> None:
    """An independent copy with the same numbers from copy.deepcopy."""
    other = trial.copy()
    original = {id(parameter) for parameter in trial.family.parameters()}
    if any(id(parameter) in original for parameter in other.parameters()):
        fix = "Hold parameters as attributes of the module, and leave copying to torch."
        raise trial.broken("__deepcopy__", "parameters of its own in a copy", "shared ones", fix)
    found = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    for name, tensor in [*trial.family.named_parameters(), *trial.family.named_buffers()]:
        if name not in found or not is_close(found[name], tensor, 0.0):
            got = show(found[name]) if name in found else "nothing"
            raise trial.broken(name, f"{show(tensor)} in a copy too", got)


def call(trial: FamilyTrial) -> None:
    """A distribution from a call."""
    found = trial.snapshot(trial.copy())
    if not (hasattr(found, "sample") and hasattr(found, "log_prob")):
        fix = "Return a torch.distributions object from forward."
        raise trial.broken("forward", "a distribution", f"a {type(found).__name__}", fix)


def parameters(trial: FamilyTrial) -> None:
    """All parameters from the start."""
    family = trial.copy()
    before = {name: id(parameter) for name, parameter in family.named_parameters()}
    trial.draws(family)
    after = {name: id(parameter) for name, parameter in family.named_parameters()}
    if not before and not after:
        fix = "Declare a Param, or check with skip for what has none."
        raise trial.broken("parameters()", "parameters to learn", "none", fix)
    changed = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    if changed:
        fix = "Make it in __init__: an optimizer that was given parameters() would not know it."
        raise trial.broken(changed[0], "the same parameter from the start", "another later", fix)


def shapes(trial: FamilyTrial) -> None:
    """Draws of shape (*sample, *batch, *event), log densities of shape (*sample, *batch)."""
    snapshot = trial.snapshot(trial.copy())
    one = by_site(snapshot.sample())
    for sample_shape in ((), (5,), (5, 2)):
        values = snapshot.sample(sample_shape)
        for site, value in by_site(values).items():
            wanted = (*sample_shape, *one[site].shape)
            if is_plain(snapshot):
                wanted = (*sample_shape, *snapshot.batch_shape, *snapshot.event_shape)
            _expect_shape(trial, _member("sample", site), value, wanted, sample_shape)
            if value.requires_grad:
                fix = "Draw under torch.no_grad() in sample; rsample is for gradients."
                member = _member("sample", site)
                raise trial.broken(member, "a draw without a gradient", "one with", fix)
        wanted = (*sample_shape, *snapshot.batch_shape)
        _expect_shape(trial, "log_prob", snapshot.log_prob(values), wanted, sample_shape)


def _member(name: str, site: str) -> str:
    return f"{site}.{name}" if site else name


def _expect_shape(
    trial: FamilyTrial, member: str, got: Tensor, wanted: tuple[int, ...], of: tuple[int, ...]
) -> None:
    if got.shape != wanted:
        expected = f"the shape {wanted} for the sample shape {of}"
        fix = "batch_shape and event_shape must say what is drawn: see Independent and event_dim."
        raise trial.broken(member, expected, f"{tuple(got.shape)}", fix)


def support(trial: FamilyTrial) -> None:
    """Draws in the support, with finite log densities."""
    snapshot = trial.snapshot(trial.copy())
    values = snapshot.sample((100,))
    known = _support_of(snapshot)
    if known is not None and not isinstance(values, dict):
        inside = known.check(values)
        if not inside.all():
            first = tuple((~inside).nonzero()[0].tolist())
            fix = "Draw inside it, or name another support."
            raise trial.broken("sample", f"a draw in {known}", show(values[first]), fix)
    scored = snapshot.log_prob(values)
    if not scored.isfinite().all():
        first = tuple((~scored.isfinite()).nonzero()[0].tolist())
        drawn = {site: value[first[:1]] for site, value in by_site(values).items()}
        at = ", ".join(f"{_member('draw', site)} {show(value)}" for site, value in drawn.items())
        expected = "a finite log density of its own draw"
        raise trial.broken("log_prob", expected, f"{show(scored[first])} for the {at}")


def _support_of(snapshot: Any) -> Any:
    """The support of a plain distribution, where it tells it."""
    try:
        return snapshot.support if is_plain(snapshot) else None
    except NotImplementedError:
        return None


def score(trial: FamilyTrial) -> None:
    """Draws and densities that belong together: scores with a mean of zero."""
    family = trial.copy()
    learned = {name: p for name, p in family.named_parameters() if p.requires_grad}
    torch.manual_seed(2)
    gradients: dict[str, list[Tensor]] = {name: [] for name in learned}
    for _ in range(BATCHES if learned else 0):
        snapshot = trial.snapshot(family)
        mean = snapshot.log_prob(snapshot.sample((BATCH_SIZE,))).sum() / BATCH_SIZE
        found = torch.autograd.grad(mean, list(learned.values()), allow_unused=True)
        for name, gradient in zip(learned, found, strict=True):
            if gradient is not None:
                gradients[name].append(gradient.double())
    for name, each in gradients.items():
        if each:
            _expect_zero(trial, name, torch.stack(each))


def _expect_zero(trial: FamilyTrial, name: str, gradients: Tensor) -> None:
    mean, size = gradients.mean(0), gradients.abs().mean(0)
    allowed = DEVIATIONS * gradients.std(0) / BATCHES**0.5 + 1e-3 * size + 1e-6
    far = mean.abs() > allowed
    if far.any():
        first = tuple(far.nonzero()[0].tolist())
        fix = "Make sample and log_prob those of one distribution, normalised. Where the support "
        raise trial.broken(
            "log_prob",
            f"a mean gradient by {name} of 0.0 over its own draws, to {show(allowed[first])}",
            show(mean[first]),
            f"{fix}depends on parameters, as a uniform's does, check with skip=['score'].",
        )


def snapshot(trial: FamilyTrial) -> None:
    """Members that agree with the plain distribution of a call."""
    family: Any = trial.copy()
    if isinstance(trial.snapshot(family), nn.Module):
        got = type(trial.snapshot(family)).__name__
        fix = "Return a torch.distributions object from forward."
        raise trial.broken("forward", "a plain distribution", f"a module, {got}", fix)
    if not isinstance(trial.family, Distribution):
        return
    for _ in range(2):
        plain: Any = trial.snapshot(family)
        values: Any = trial.draws(family)
        _expect_agreement(trial, "log_prob", family.log_prob(values), plain.log_prob(values))
        torch.manual_seed(1)
        _expect_agreement(trial, "sample", family.sample((4,)), values)
        for name in ("batch_shape", "event_shape", "has_rsample"):
            own, wanted = getattr(family, name), getattr(plain, name)
            if own != wanted:
                raise trial.broken(name, f"{wanted}, as of a call", f"{own}")
        perturbed(family)


def _expect_agreement(trial: FamilyTrial, member: str, got: Tensor, wanted: Tensor) -> None:
    if not is_close(got, wanted, 1e-4):
        fix = "Leave it to Variational, which asks a fresh distribution, and keep none."
        raise trial.broken(member, f"{show(wanted)}, as of a call", show(got), fix)


def rsample(trial: FamilyTrial) -> None:
    """Gradients that flow through draws, where rsample is promised."""
    family = trial.copy()
    if not trial.is_pathwise(family):
        return
    learned = [p for p in family.parameters() if p.requires_grad]
    drawn = by_site(trial.snapshot(family).rsample((4,)))
    if learned and not any(value.requires_grad for value in drawn.values()):
        fix = "Draw with torch's operations on the parameters, or set has_rsample = False."
        raise trial.broken("rsample", "a draw with a gradient", "a detached one", fix)
    flowing = [value.square().sum() for value in drawn.values() if value.requires_grad]
    if flowing:
        torch.stack(flowing).sum().backward()


def gradient(trial: FamilyTrial) -> None:
    """A finite gradient that is not zero for every parameter."""
    family = trial.copy()
    learned = {name: p for name, p in family.named_parameters() if p.requires_grad}
    loss = trial.loss(family)
    if loss.requires_grad:
        loss.backward()
    for name, parameter in learned.items():
        found = parameter.grad
        expected = "a gradient from the log density"
        if found is None:
            raise trial.broken(name, expected, "none", KEEP_TO_TORCH)
        if not found.isfinite().all():
            raise trial.broken(name, f"a finite {expected[2:]}", show(found))
        if not found.any():
            raise trial.broken(name, expected, "zeros", KEEP_TO_TORCH)


def step(trial: FamilyTrial) -> None:
    """A second backward, and a log density that a step changes."""
    family = trial.copy()
    learned = [p for p in family.parameters() if p.requires_grad]
    if not learned:
        return
    values = trial.draws(family)
    before = trial.scores(family, values).detach()
    optimizer = torch.optim.SGD(learned, lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        try:
            (-trial.scores(family, values).mean()).backward()
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            fix = "Build the distribution in each call, and keep nothing that has a gradient."
            expected = "a graph of its own for every call"
            raise trial.broken("log_prob", expected, "one that is gone", fix) from error
        optimizer.step()
    if torch.equal(trial.scores(family, values), before):
        fix = "Build the distribution in each call, and keep nothing computed from parameters."
        raise trial.broken("log_prob", "other log densities after a step", show(before), fix)


DRAWS: Mapping[str, Callable[[FamilyTrial], None]] = {
    "copies": copies,
    "call": call,
    "parameters": parameters,
    "shapes": shapes,
    "support": support,
    "snapshot": snapshot,
    "rsample": rsample,
    "gradient": gradient,
    "step": step,
    "score": score,
}
"""The promises about draws and densities, in the order in which they build on each other."""
