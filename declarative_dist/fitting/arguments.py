"""The arguments of `fit`, checked before anything happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    shorten,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.variational import Variational
from declarative_dist.fields.kinds import lacks_forward
from declarative_dist.fitting.finite import check_parameters
from declarative_dist.fitting.parameters import field_of
from declarative_dist.joints.joint import Joint
from declarative_dist.posteriors.guides import NormalGuide

Callback = Callable[[int, float, nn.Module], object]

_FUSED = ("cpu", "cuda")
"""Devices for which torch has a kernel of the whole update."""


def check_files(checkpoint: Any, every: Any, *, resume: bool, overwrite: bool) -> int | None:
    """Refuse what makes no sense without a checkpoint, or together.

    Returns:
        After how many steps to write, as Python's int.

    Raises:
        ConstraintError: for `every`, `resume` or `overwrite` without a checkpoint, for the latter
            two together, or a bad `every`.
    """
    given = {"every": every is not None, "resume": resume, "overwrite": overwrite}
    name = next((name for name, is_given in given.items() if is_given), None)
    if checkpoint is None and name is not None:
        raise ConstraintError(
            f"fit({name}=)",
            "a checkpoint too",
            "none",
            'Write checkpoint="fit.pt".',
            code="missing-value",
        )
    if resume and overwrite:
        raise ConstraintError(
            "fit(overwrite=)",
            "one way to treat a file that is there",
            "resume=True too",
            "To begin anew, leave out resume.",
            code="wrong-argument",
        )
    return None if every is None else check_count("fit(every=)", every)


def check_objective(objective: Any) -> None:
    """Refuse what cannot be trained.

    Raises:
        DeclarationError: if it is no module, or has nothing to train.
        ConstraintError: if it is on the meta device.
        NonFiniteError: if a parameter is infinite or NaN from the start.
    """
    name = type(objective).__name__
    if not isinstance(objective, nn.Module):
        raise DeclarationError(
            "fit(objective)",
            "an objective: a module whose forward is a loss",
            shorten(objective),
            "Write an nn.Module, or use one of declarative_dist.objectives.",
            code="not-an-objective",
        )
    _check_forward(objective, name)
    if not any(parameter.requires_grad for parameter in objective.parameters()):
        raise DeclarationError(
            f"fit({name})",
            "an objective with parameters to train",
            "none" if next(objective.parameters(), None) is None else "only frozen ones",
            "Are the family and the networks attributes of the objective?",
            code="nothing-to-learn",
        )
    for parameter in objective.parameters():
        if parameter.is_meta:
            subject, raw = field_of(objective, parameter)
            raise ConstraintError(
                subject,
                "numbers",
                f"{raw} on the meta device",
                "Call to_empty and fill it.",
                code="dtype-or-device",
            )
    check_parameters(objective, "at step 0")


def _check_forward(objective: nn.Module, name: str) -> None:
    """Refuse a module whose forward is a distribution, or that has none."""
    kinds = (Conditional, Joint, Variational, NormalGuide)
    kind = next((kind for kind in kinds if isinstance(objective, kind)), None)
    if kind is not None and type(objective).forward is kind.forward:
        is_guide = isinstance(objective, NormalGuide)
        raise DeclarationError(
            "fit(objective)",
            "an objective: a module whose forward is a loss",
            f"a {name}, whose forward is a distribution",
            f"Write {'NegativeELBO(log_joint, guide)' if is_guide else 'NegativeLogLikelihood(q)'}"
            ", from declarative_dist.objectives.",
            code="not-an-objective",
        )
    if lacks_forward(objective):
        raise DeclarationError(
            "fit(objective)",
            "an objective: a module whose forward is a loss",
            f"a {name}, which has no forward",
            "Write NegativeLogPosterior(module, total_size=..., log_likelihood=...).",
            code="not-an-objective",
        )


def optimizer_of(objective: nn.Module, optimizer: Any, lr: Any) -> Optimizer:
    """The optimizer: the one given, one made of the trainable parameters, or Adam.

    Args:
        objective: what is trained.
        optimizer: an optimizer, a callable from parameters to one, or None for Adam.
        lr: the rate of Adam.

    Raises:
        ConstraintError: if the rate is not a positive number.
        DeclarationError: if it is no optimizer, or one of other parameters.
    """
    is_number = isinstance(lr, (int, float)) and not isinstance(lr, bool)
    if isinstance(lr, Tensor) and lr.numel() == 1:
        is_number = True
    if not is_number or not (math.isfinite(lr) and lr > 0):
        raise ConstraintError(
            "fit(lr=)", "a positive, finite number", shorten(lr), code="wrong-argument"
        )
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if optimizer is None:
        return Adam(trainable, lr=float(lr), fused=True if can_be_fused(trainable) else None)
    made = optimizer
    if not isinstance(optimizer, Optimizer) and callable(optimizer):
        made = optimizer(trainable)
    if not isinstance(made, Optimizer):
        raise DeclarationError(
            "fit(optimizer=)",
            "an optimizer, or a callable from parameters to one",
            shorten(made),
            "Write optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
            code="wrong-optimizer",
        )
    mine = {id(parameter) for parameter in objective.parameters()}
    held = [parameter for group in made.param_groups for parameter in group["params"]]
    strangers = [parameter for parameter in held if id(parameter) not in mine]
    if strangers or not any(parameter.requires_grad for parameter in held):
        raise DeclarationError(
            "fit(optimizer=)",
            f"an optimizer of the parameters of {type(objective).__name__}",
            f"one that also has {shorten(strangers[0].detach())}"
            if strangers
            else "one of frozen parameters only",
            "Make it from objective.parameters().",
            code="wrong-optimizer",
        )
    return made


def can_be_fused(parameters: list[nn.Parameter]) -> bool:
    """Whether Adam may update all parameters in one kernel.

    The kernel goes through memory from end to end: gaps in a strided view would be taken for
    numbers.
    """
    return all(
        type(p) is nn.Parameter
        and p.device.type in _FUSED
        and p.is_floating_point()
        and p.is_contiguous()
        for p in parameters
    )


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks as a tuple; one alone will do.

    Raises:
        DeclarationError: if one is not callable.
    """
    listed = [callbacks] if callable(callbacks) else callbacks
    if not isinstance(listed, Iterable):
        listed = [listed]
    checked = tuple(listed)
    for callback in checked:
        if not callable(callback):
            raise DeclarationError(
                "fit(callbacks=)", "callables of (step, loss, module)", shorten(callback)
            )
    return checked


def stops(callbacks: tuple[Callback, ...], step: int, loss: float, module: nn.Module) -> bool:
    """Call all callbacks, and tell whether one returned True."""
    answers = [callback(step, loss, module) for callback in callbacks]
    return any(answer is not None and _is_true(answer) for answer in answers)


def _is_true(answer: object) -> bool:
    """Whether this is True, also NumPy's or a tensor's; other values are not meant so."""
    is_array_of_truth = "bool" in str(getattr(answer, "dtype", ""))
    return answer is True or (is_array_of_truth and bool(answer))
