"""What a family promises as a module: its state, its moves, and torch's transforms of it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from declarative_dist.testing.distribution_trial import FamilyTrial, by_site, perturbed
from declarative_dist.testing.promise import (
    compiling,
    describe_error,
    find_unregistered,
    is_close,
    show,
)


def state(trial: FamilyTrial) -> None:
    """A saved state that holds all there is, and loads."""
    name = find_unregistered(trial.family)
    if name is not None:
        raise trial.broken(
            name,
            "a buffer, which moves, saves and loads with the module",
            "a tensor as a plain attribute",
            "Declare it in the class body, or register_buffer it.",
        )
    trained = perturbed(trial.copy())
    values = trial.draws(trained)
    wanted = trial.scores(trained, values)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    for assign in (False, True):
        file.seek(0)
        other = trial.copy()
        other.load_state_dict(torch.load(file, weights_only=True), assign=assign)
        _expect(trial, "load_state_dict", trial.scores(other, values), wanted, 0.0)


def _expect(
    trial: FamilyTrial, member: str, got: Tensor, wanted: Tensor, tolerance: float
) -> None:
    if not is_close(got, wanted, tolerance):
        raise trial.broken(member, f"log densities of {show(wanted)}", show(got))


def pickles(trial: FamilyTrial) -> None:
    """A family that pickles after a backward."""
    family = trial.copy()
    loss = trial.loss(family)
    if loss.requires_grad:
        loss.backward()
    try:
        other = pickle.loads(pickle.dumps(family))  # noqa: S301, what was just dumped
    except Exception as error:
        fix = "Define its class at the top of a module, and hold no lambda in it."
        raise trial.broken(
            "__reduce__", "a family that pickles", describe_error(error), fix
        ) from error
    values = trial.draws(family)
    _expect(trial, "__reduce__", trial.scores(other, values), trial.scores(family, values), 0.0)


def dtype(trial: FamilyTrial) -> None:
    """Everything in float64 after .double()."""
    family = trial.copy().double()
    for name, tensor in [*family.named_parameters(), *family.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            raise trial.broken(name, "torch.float64 after .double()", f"{tensor.dtype}")
    moved = FamilyTrial(family, tuple(_doubled(part) for part in trial.context), trial.skip)
    values = moved.draws(family)
    for name, tensor in {**by_site(values), "log_prob": moved.scores(family, values)}.items():
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            fix = "Make constants buffers, and new tensors in the dtype of the parameters."
            expected = "torch.float64 after .double()"
            raise trial.broken(name or "sample", expected, f"{tensor.dtype}", fix)


def _doubled(part: object) -> object:
    return part.double() if isinstance(part, Tensor) and part.is_floating_point() else part


def meta(trial: FamilyTrial) -> None:
    """Everything back from the meta device by to_empty and reset_parameters."""
    family = trial.copy().to("meta")
    if not hasattr(family, "reset_parameters"):
        fix = "Write one that sets every parameter and buffer, or check with skip=['meta']."
        raise trial.broken("reset_parameters", "a method of that name", "none", fix)
    for name, tensor in [*family.named_parameters(), *family.named_buffers()]:
        if not tensor.is_meta:
            raise trial.broken(name, 'a meta tensor after .to("meta")', f"one on {tensor.device}")
    family.to_empty(device="cpu")
    found = [_restored(family, fill) for fill in (0, 1)]
    for name, tensor in found[0].items():
        if not torch.equal(tensor, found[1][name]):
            fix = "Its module must restore it in a reset_parameters of its own."
            expected = "its starting value again from reset_parameters"
            raise trial.broken(name, expected, "what was in memory", fix)
    scored = trial.scores(family, trial.draws(family))
    if not scored.isfinite().all():
        expected = "finite log densities after reset_parameters"
        raise trial.broken("reset_parameters", expected, show(scored))


def _restored(family: Any, fill: int) -> dict[str, Tensor]:
    """The state that reset_parameters makes of other numbers."""
    for tensor in [*family.parameters(), *family.buffers()]:
        tensor.data.fill_(fill)
    torch.manual_seed(0)
    family.reset_parameters()
    state: dict[str, Tensor] = copy.deepcopy(family.state_dict())
    return state


def functional(trial: FamilyTrial) -> None:
    """The densities of other parameters from torch.func.functional_call."""
    family, other = trial.copy(), perturbed(trial.copy())
    values = trial.draws(other)
    parameters: dict[str, Tensor] = dict(other.named_parameters())
    distribution: Any = functional_call(family, parameters, trial.context)
    _expect(trial, "forward", distribution.log_prob(values), trial.scores(other, values), 1e-5)


def vmap(trial: FamilyTrial) -> None:
    """The same densities under torch.func.vmap."""
    family = trial.copy()
    values = trial.draws(family)
    mapped = torch.func.vmap(lambda row: trial.scores(family, row))(values)
    _expect(trial, "log_prob", mapped, trial.scores(family, values), 1e-4)


def compiled(trial: FamilyTrial) -> None:
    """The same densities from torch.compile(fullgraph=True)."""
    family: nn.Module = trial.copy()
    values = trial.draws(family)
    with compiling():
        function = torch.compile(lambda x: trial.scores(family, x), fullgraph=True)
        found = function(values)
    _expect(trial, "log_prob", found, trial.scores(family, values), 1e-4)


MODULE: Mapping[str, Callable[[FamilyTrial], None]] = {
    "state": state,
    "pickle": pickles,
    "dtype": dtype,
    "meta": meta,
    "functional_call": functional,
    "vmap": vmap,
}
"""The promises of a module."""

COMPILED: Mapping[str, Callable[[FamilyTrial], None]] = {"compile": compiled}
"""Those that take seconds."""
