"""The arguments of `fit`, checked before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import LBFGS, Adam, Optimizer

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    check_positive,
    first_line,
    shorten,
)
from declarative_dist.families.conditional import Conditional
from declarative_dist.families.variational import Variational
from declarative_dist.fields.kinds import lacks_forward
from declarative_dist.fitting.finite import check_parameters
from declarative_dist.fitting.parameters import trainable_of
from declarative_dist.joints.joint import Joint
from declarative_dist.posteriors.guides import NormalGuide

Callback = Callable[[int, float, nn.Module], object]

RATE = 1e-2
"""The rate of the default optimizer."""

_LEAST = {"steps": 1, "every": 1, "restarts": 0}
"""The counts among the arguments, and how small each may be."""

_OTHERS = {"tolerance": "steps", "restarts": "steps", "overwrite": "resume"}
"""Arguments that make no sense beside another."""


def check_options(checkpoint: Any, given: Mapping[str, Any]) -> None:
    """Refuse bad numbers, and what would have no effect: beside others, or without a checkpoint.

    Args:
        checkpoint: the path, or None.
        given: other arguments by name; None or False for those that are left out.

    Raises:
        ConstraintError: naming the argument.
    """
    for name, value in given.items():
        if value is None or value is False:
            continue
        if name in ("every", "resume", "overwrite") and checkpoint is None:
            expected, fix = "a checkpoint too", 'Write checkpoint="fit.pt".'
            raise ConstraintError(f"fit({name}=)", expected, "none", fix, code="missing-value")
        other = _OTHERS.get(name, "")
        if given.get(other):
            expected, got = f"no {other}= beside it", f"{other}={given[other]} too"
            fix = "Leave one of them out."
            raise ConstraintError(f"fit({name}=)", expected, got, fix, code="unused-argument")
        if name in _LEAST:
            check_count(f"fit({name}=)", value, _LEAST[name])
    if given["tolerance"] is not None:
        check_positive("fit(tolerance=)", given["tolerance"])


def check_objective(objective: Any) -> None:
    """Refuse what cannot be trained.

    Raises:
        DeclarationError: if it is no module, or has no loss or nothing to train.
        NonFiniteError: if a parameter is infinite or NaN from the start.
    """
    check_forward(objective, "fit(objective)")
    if not trainable_of(objective):
        raise DeclarationError(
            f"fit({type(objective).__name__})",
            "an objective with parameters to train",
            "only frozen ones" if any(True for _ in objective.parameters()) else "none",
            "Are the family and the networks attributes of the objective?",
            code="nothing-to-learn",
        )
    check_parameters(objective, "at step 0")


def check_forward(objective: Any, subject: str) -> None:
    """Refuse what is no module, and a module whose forward is a distribution, or is not there.

    Raises:
        DeclarationError: in all these cases.
    """
    kinds = (Conditional, Joint, Variational, NormalGuide)
    forward = getattr(type(objective), "forward", None)
    is_distribution = isinstance(objective, kinds) and forward in [k.forward for k in kinds]
    if not isinstance(objective, nn.Module) or is_distribution or lacks_forward(objective):
        raise DeclarationError(
            subject,
            "an objective: a module whose forward is a loss",
            shorten(objective),
            "Use one of declarative_dist.objectives: NegativeLogLikelihood(q), "
            "NegativeELBO(log_joint, guide) or NegativeLogPosterior(module, total_size=...).",
            code="not-an-objective",
        )


def optimizer_of(objective: nn.Module, optimizer: Any, lr: Any) -> Optimizer:
    """The optimizer: the one given, one made of the trainable parameters, or Adam.

    Args:
        objective: what is trained.
        optimizer: an optimizer, a callable from parameters to one, or None for Adam.
        lr: the rate for the optimizer that is made, or None for its own.

    Raises:
        ConstraintError: if the rate is not a positive number, or nothing would take it.
        DeclarationError: if it is no optimizer, or one of other parameters.
    """
    options: dict[str, Any] = {} if lr is None else {"lr": check_positive("fit(lr=)", lr)}
    if optimizer is None:
        trainable = trainable_of(objective)
        # The fused kernel goes through memory from end to end, and would take gaps for numbers.
        fused = all(
            type(p) is nn.Parameter and p.is_contiguous() and p.is_floating_point()
            and p.device.type in ("cpu", "cuda")
            for p in trainable
        )  # fmt: skip
        return Adam(trainable, **{"lr": RATE, **options}, fused=fused or None)
    if optimizer is LBFGS:
        options["line_search_fn"] = "strong_wolfe"
    if lr is not None and isinstance(optimizer, Optimizer):
        expected, got = "no rate beside an optimizer that has one", f"lr={lr}"
        fix = "Give a class, such as torch.optim.SGD, or leave lr out."
        raise ConstraintError("fit(lr=)", expected, got, fix, code="unused-argument")
    made = make_optimizer(optimizer, objective, "fit(optimizer=)", **options)
    if not isinstance(made, Optimizer):
        raise optimizer_error("fit(optimizer=)", made)
    return made


def make_optimizer(optimizer: Any, objective: nn.Module, subject: str, **options: Any) -> Any:
    """The optimizer given, or what a callable makes of the trainable parameters.

    Args:
        optimizer: an optimizer, or the callable.
        objective: whose parameters it should have.
        subject: whom an error is about.
        **options: what else the callable takes.

    Raises:
        DeclarationError: if it is neither, or an optimizer of others or of frozen ones only.
    """
    made = optimizer
    if not isinstance(optimizer, Optimizer):
        if not callable(optimizer) or isinstance(optimizer, nn.Module):
            raise optimizer_error(subject, optimizer)
        try:
            made = optimizer(trainable_of(objective), **options)
        except TypeError as error:
            why = f", which failed: {first_line(error)}"
            raise optimizer_error(subject, optimizer, why) from error
    if isinstance(made, Optimizer):
        mine = {id(parameter) for parameter in objective.parameters()}
        members = [parameter for group in made.param_groups for parameter in group["params"]]
        stranger = next((p for p in members if id(p) not in mine), None)
        if stranger is not None or not any(p.requires_grad for p in members):
            got = "one of frozen parameters only"
            raise DeclarationError(
                subject,
                f"an optimizer of the parameters of {type(objective).__name__}",
                got if stranger is None else f"one that also has {shorten(stranger.detach())}",
                "Make it from objective.parameters(), or give a callable: sharding replaces them.",
                code="wrong-optimizer",
            )
    return made


def optimizer_error(subject: str, value: object, why: str = "") -> DeclarationError:
    """The error about something that is no optimizer, and makes none."""
    expected = "an optimizer, or a callable from parameters to one"
    fix = "Write lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
    got = f"{shorten(value)}{why}"
    return DeclarationError(subject, expected, got, fix, code="wrong-optimizer")


def as_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Callbacks as a tuple; one alone will do.

    Raises:
        DeclarationError: if one is not callable.
    """
    several = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    for callback in several:
        if not callable(callback):
            expected = "callables of (step, loss, module)"
            raise DeclarationError("fit(callbacks=)", expected, shorten(callback))
    return several


def stops(callbacks: tuple[Callback, ...], step: int, loss: float, module: nn.Module) -> bool:
    """Call all callbacks, and tell whether one returned True, also NumPy's or a tensor's."""
    answers = [a for call in callbacks if (a := call(step, loss, module)) is not None]
    return any(a is True or ("bool" in str(getattr(a, "dtype", "")) and bool(a)) for a in answers)
