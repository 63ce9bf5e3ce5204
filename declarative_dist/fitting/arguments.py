"""The arguments of `fit`, checked before anything happens."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, Adam, Optimizer

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    first_line,
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

RATE = 1e-2
"""The rate of the default optimizer."""

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
        fix = 'Write checkpoint="fit.pt".'
        raise ConstraintError(
            f"fit({name}=)", "a checkpoint too", "none", fix, code="missing-value"
        )
    if resume and overwrite:
        expected, got = "one way to treat a file that is there", "resume=True too"
        fix = "To begin anew, leave out resume."
        raise ConstraintError("fit(overwrite=)", expected, got, fix, code="wrong-argument")
    return None if every is None else check_count("fit(every=)", every)


def check_ends(
    steps: int | None, tolerance: Any, restarts: Any
) -> tuple[float | None, int | None]:
    """Refuse what says when a fit without `steps` ends, or begins, if it makes no sense.

    Returns:
        The tolerance, and how many more starts to try.

    Raises:
        ConstraintError: if they are no such numbers, or `steps` are given too.
    """
    for name, value in (("tolerance", tolerance), ("restarts", restarts)):
        if steps is not None and value is not None:
            expected, got = "no steps=, which end a fit by themselves", f"{name} and steps={steps}"
            fix = "Leave one of them out."
            raise ConstraintError(f"fit({name}=)", expected, got, fix, code="unused-argument")
    if restarts is not None:
        restarts = check_count("fit(restarts=)", restarts, least=0)
    return None if tolerance is None else _as_positive("fit(tolerance=)", tolerance), restarts


def check_objective(objective: Any) -> None:
    """Refuse what cannot be trained.

    Raises:
        DeclarationError: if it is no module, or has no loss or nothing to train.
        ConstraintError: if it is on the meta device.
        NonFiniteError: if a parameter is infinite or NaN from the start.
    """
    check_forward(objective, "fit(objective)")
    parameters = list(objective.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise DeclarationError(
            f"fit({type(objective).__name__})",
            "an objective with parameters to train",
            "only frozen ones" if parameters else "none",
            "Are the family and the networks attributes of the objective?",
            code="nothing-to-learn",
        )
    absent = next((parameter for parameter in parameters if parameter.is_meta), None)
    if absent is not None:
        subject, raw = field_of(objective, absent)
        got, fix = f"{raw} on the meta device", "Call to_empty and fill it."
        raise ConstraintError(subject, "numbers", got, fix, code="dtype-or-device")
    check_parameters(objective, "at step 0")


def check_forward(objective: Any, subject: str) -> None:
    """Refuse what is no module, and a module whose forward is a distribution, or is not there.

    Raises:
        DeclarationError: in all these cases.
    """
    name = type(objective).__name__
    kinds = (Conditional, Joint, Variational, NormalGuide)
    kind = next((kind for kind in kinds if isinstance(objective, kind)), None)
    if not isinstance(objective, nn.Module):
        got = shorten(objective)
        fix = "Write an nn.Module, or use one of declarative_dist.objectives."
    elif kind is not None and type(objective).forward is kind.forward:
        got = f"a {name}, whose forward is a distribution"
        is_guide = kind is NormalGuide
        call = "NegativeELBO(log_joint, guide)" if is_guide else "NegativeLogLikelihood(q)"
        fix = f"Write {call}, from declarative_dist.objectives."
    elif lacks_forward(objective):
        got = f"a {name}, which has no forward"
        fix = "Write NegativeLogPosterior(module, total_size=..., log_likelihood=...)."
    else:
        return
    expected = "an objective: a module whose forward is a loss"
    raise DeclarationError(subject, expected, got, fix, code="not-an-objective")


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
    options: dict[str, Any] = {} if lr is None else {"lr": _as_positive("fit(lr=)", lr)}
    if optimizer is LBFGS:
        options["line_search_fn"] = "strong_wolfe"
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if optimizer is None:
        fused = True if can_be_fused(trainable) else None
        return Adam(trainable, **{"lr": RATE, **options}, fused=fused)
    if lr is not None and not _takes_rate(optimizer):
        raise ConstraintError(
            "fit(lr=)",
            "an optimizer that takes it: none, or a class such as torch.optim.SGD",
            shorten(optimizer).partition("\n")[0],
            "Give the rate to the optimizer itself.",
            code="unused-argument",
        )
    made = make_optimizer(optimizer, trainable, "fit(optimizer=)", **options)
    if not isinstance(made, Optimizer):
        raise optimizer_error("fit(optimizer=)", made)
    check_members(made, objective, "fit(optimizer=)")
    return made


def _as_positive(subject: str, given: Any) -> float:
    number: Any = given
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    is_scalar = isinstance(given, Tensor) and given.numel() == 1 and not given.is_meta
    if not (is_number or is_scalar) or not (math.isfinite(number) and number > 0):
        expected = "a positive, finite number"
        raise ConstraintError(subject, expected, shorten(given), code="wrong-argument")
    return float(number)


def _takes_rate(optimizer: Any) -> bool:
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        return False
    parameters = inspect.signature(optimizer).parameters
    return "lr" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def make_optimizer(
    optimizer: Any, trainable: list[nn.Parameter], subject: str, **options: Any
) -> Any:
    """The optimizer given, or what a callable makes of the trainable parameters.

    Raises:
        DeclarationError: if it is neither, or does not take the parameters.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not callable(optimizer) or isinstance(optimizer, nn.Module):
        raise optimizer_error(subject, optimizer)
    try:
        return optimizer(trainable, **options)
    except TypeError as error:
        raise optimizer_error(
            subject, optimizer, f", which failed: {first_line(error)}"
        ) from error


def optimizer_error(subject: str, value: object, what: str = "") -> DeclarationError:
    """The error about something that is no optimizer."""
    return DeclarationError(
        subject,
        "an optimizer, or a callable from parameters to one",
        f"{shorten(value)}{what}",
        "Write lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
        code="wrong-optimizer",
    )


def check_members(
    optimizer: Optimizer, objective: nn.Module, subject: str, name: str = ""
) -> None:
    """Refuse an optimizer of other parameters, or of frozen ones only.

    Args:
        optimizer: the optimizer.
        objective: whose parameters it should have.
        subject: whom an error is about.
        name: what to call the objective, if not by its class.

    Raises:
        DeclarationError: in both cases.
    """
    mine = {id(parameter) for parameter in objective.parameters()}
    members = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    strangers = [parameter for parameter in members if id(parameter) not in mine]
    if strangers or not any(parameter.requires_grad for parameter in members):
        raise DeclarationError(
            subject,
            f"an optimizer of the parameters of {name or type(objective).__name__}",
            f"one that also has {shorten(strangers[0].detach())}"
            if strangers
            else "one of frozen parameters only",
            "Make it from objective.parameters(), or give a callable: sharding replaces them.",
            code="wrong-optimizer",
        )


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
        DeclarationError: if one is not callable, or takes other arguments.
    """
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        callbacks = (callbacks,)
    several: tuple[Any, ...] = tuple(callbacks)
    for callback in several:
        if not callable(callback) or not _takes_step(callback):
            expected = "callables of (step, loss, module)"
            raise DeclarationError("fit(callbacks=)", expected, shorten(callback))
    return several


def _takes_step(callback: Callback) -> bool:
    try:
        inspect.signature(callback).bind(1, 0.0, None)
    except TypeError:
        return False
    except ValueError:  # one of Python's own, which does not say
        return True
    return True


def stops(callbacks: tuple[Callback, ...], step: int, loss: float, module: nn.Module) -> bool:
    """Call all callbacks, and tell whether one returned True."""
    answers = [callback(step, loss, module) for callback in callbacks]
    return any(answer is not None and _is_true(answer) for answer in answers)


def _is_true(answer: object) -> bool:
    """Whether this is True, also NumPy's or a tensor's; other values are not meant so."""
    is_array_of_truth = "bool" in str(getattr(answer, "dtype", ""))
    return answer is True or (is_array_of_truth and bool(answer))
