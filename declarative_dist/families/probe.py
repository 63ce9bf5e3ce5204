"""The one probe: whether methods keep copies, contexts and draws apart.

A method gets the values of many copies, contexts or draws at once. It is tried at random numbers,
on one, two and three together, and what each of them gets is compared with what it gets alone.
Modules are tried in the mode that they are in. Nothing of it stays: random numbers and buffers are
as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.families.comparison import (
    ALL,
    COUNT,
    REFUSALS,
    TOGETHER,
    Difference,
    Index,
    block,
    find_difference,
    is_about_values,
    takes_each,
)
from declarative_dist.fields.alignment import has_copies
from declarative_dist.fields.kinds import is_declarative, predicted_kind
from declarative_dist.fields.walk import walk
from declarative_dist.plain.tensors import copy_module
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

SCALES = (1.0, 0.1, 0.01)
"""How far around the start raw numbers are tried, until a method takes them."""

ROUNDS = (TOGETHER, [ALL], [ALL])
"""Who is tried together, each time at other random numbers, for a method may branch on them."""


def copy_apart(module: Any, *, is_evaluating: bool = False) -> Any:
    """A light copy for trials, whose running statistics are its own."""
    new: Any = copy_module(module)
    for part in new.modules():
        part.training = part.training and not is_evaluating
        if not is_declarative(part):
            buffers = vars(part)["_buffers"].items()
            vars(part)["_buffers"] = {n: None if b is None else b.clone() for n, b in buffers}
    return new


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Try a module without dropout, and without changes of running means."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class Trial:
    """Light copies of a declared module, at random raw numbers, as what is tried.

    Args:
        module: the module; its copies are tried, or for what predicts from contexts, those.
        scale: how far around the start the raw numbers lie.
    """

    def __init__(self, module: Any, scale: float) -> None:
        self.module, self.scale = module, scale
        self.copies: torch.Size = vars(module)["_copies"]
        self.rank = len(self.copies) or 1
        self.whole = torch.Size((COUNT,) * self.rank)
        self.raws: dict[int, Tensor] = {}
        self.draws: dict[str, Tensor] = {}

    def draw(self) -> bool:
        """Draw what will be scored; False if the methods refuse these numbers, also one alone."""
        try:
            two, whole = (self._look(block(p, self.rank), False)[1] for p in ([0, 1], ALL))
            for name, distribution in whole.items():
                self._draw_from(name, distribution, two[name])
        except REFUSALS as error:
            return not is_about_values(error) or takes_each(self.see, ALL, self.rank)
        return True

    def _draw_from(self, name: str, distribution: Any, of_two: Any) -> None:
        """A draw for each, or where the sizes of both are not in front, one for all."""
        if self._is_joint:
            self.draws = {name: value for name, _, value in distribution.legal_draw()}
            return
        distribution._validate_args = False
        with suppress(NotImplementedError, ValueError):  # no sampler, or not at these numbers
            draw = distribution.sample()
            leads = (d.batch_shape[: self.rank] for d in (distribution, of_two))
            has_lead = (*leads,) == (self.whole, torch.Size((2,) * self.rank))
            self.draws[name] = draw if has_lead else draw.expand(*self.whole, *draw.shape)

    @property
    def _is_joint(self) -> bool:
        return hasattr(self.module, "__joint__")

    def see(self, index: Index, is_evaluating: bool = False) -> dict[str, Tensor]:
        """The derived values, and densities of draws, of some of the copies or contexts."""
        try:
            return self._see(index, is_evaluating)
        except REFUSALS:
            if self.copies or not isinstance(index[0], int):
                raise
            # A method may be written for batches of contexts: one context is a batch of one.
            one = self._see(block([index[0]], 1), is_evaluating)
            return {name: value[0] if value.ndim else value for name, value in one.items()}

    def _see(self, index: Index, is_evaluating: bool) -> dict[str, Tensor]:
        seen, distributions = self._look(index, is_evaluating)
        draws = {name: draw[index] for name, draw in self.draws.items()}
        for name, distribution in distributions.items():
            if self._is_joint:
                seen |= distribution.scores(draws, {}) if draws else {}
            else:
                seen[name] = _score(distribution, draws.get(name), self._lead_of(index))
        return seen

    def _look(self, index: Index, is_evaluating: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The derived tensors, and the distributions, of some of the copies or contexts."""
        copy = self._copy(index, is_evaluating)
        whole: Any = copy
        declaration = copy.__declaration__
        values = declaration.run(copy, declaration.order)
        derived = {n: values[n] for n, field in declaration.fields.items() if field.is_computed}
        tensors = {name: value for name, value in derived.items() if isinstance(value, Tensor)}
        built = {n: value for n, value in derived.items() if isinstance(value, Distribution)}
        if predicted_kind(copy) is not None:
            built["base"] = copy.at_start()
        elif self._is_joint or isinstance(copy, Distribution):
            built["base"] = whole.forward()
        if self._is_joint:
            joint: Any = built["base"]
            built["base"] = joint.split()
        return tensors, built

    def _lead_of(self, index: Index) -> torch.Size:
        return torch.empty(self.whole)[index].shape

    def _copy(self, index: Index, is_evaluating: bool) -> Any:
        lead = self._lead_of(index)
        new = copy_apart(self.module, is_evaluating=is_evaluating)
        originals = dict(self.module.named_modules())
        for path, part in new.named_modules():
            original = originals[path]
            if not is_declarative(part):
                continue
            if predicted_kind(part) is not None and not self.copies:
                biases = vars(original)["_biases"]
                vars(part)["_biases"] = {n: self._raw(raw, 0)[index] for n, raw in biases.items()}
            elif self.copies and has_copies(original, self.copies):
                self._set_copies(part, original, lead, index)
        return new

    def _set_copies(self, part: Any, original: Any, lead: torch.Size, index: Index) -> None:
        count = len(self.copies)
        for name in ("_copies", "_live_shape"):
            shape = vars(original).get(name)
            if shape is not None and shape[:count] == self.copies:
                vars(part)[name] = torch.Size((*lead, *shape[count:]))
        for name, raw in original._parameters.items():
            if raw is not None:
                part._parameters[name] = self._raw(raw, count)[index]
        ndims = vars(original)["_ndims"]
        for name, buffer in original._buffers.items():
            if name in ndims and buffer is not None and buffer.ndim > ndims[name]:
                own = buffer[(0,) * (buffer.ndim - ndims[name])]  # constants do not differ here
                part._buffers[name] = own

    def _raw(self, raw: Tensor, count: int) -> Tensor:
        """Random numbers around a start in place of all copies of a tensor."""
        if id(raw) not in self.raws:
            start = raw.detach()[(0,) * count]
            shape = (*self.whole, *start.shape)
            self.raws[id(raw)] = start + self.scale * torch.randn(shape).to(start)
        return self.raws[id(raw)]


def _score(distribution: Distribution, draw: Tensor | None, lead: torch.Size) -> Tensor:
    """The log density at draws that are the same for all, or zeros where there is none."""
    shape = distribution.batch_shape
    distribution._validate_args = False
    score = None
    with suppress(NotImplementedError, ValueError):  # a draw on an edge
        score = None if draw is None else distribution.log_prob(draw)
    is_whole = score is not None and score.shape in (shape, torch.Size((*lead, *shape)))
    return score if is_whole and score is not None else torch.zeros(shape)


_FOUND: WeakKeyDictionary[type, set[Any]] = WeakKeyDictionary()
"""By class what was tried already and found to keep all apart."""


def check_copies(module: Any) -> None:
    """Refuse a module whose methods mix its copies, or the contexts that it predicts from."""
    copies: torch.Size = vars(module)["_copies"]
    if not copies and predicted_kind(module) is None:
        return
    tensors = (*module.parameters(), *module.buffers())
    if not copies.numel() or not _has_methods(module) or is_traced(*tensors):
        return
    key = _key_of(module, copies)
    known = _FOUND.setdefault(type(module), set())
    if key in known:
        return
    with torch.no_grad(), same_random_numbers():
        for groups in ROUNDS:
            trial = _start_trial(module)
            found = find_difference(trial.see, trial.rank, groups)
            _refuse(found, module, "copies" if copies else "contexts")
    known.add(key)


def _start_trial(module: Any) -> Trial:
    """A trial at the largest scale at which the methods take their values, or at the smallest."""
    *larger, smallest = SCALES
    for scale in larger:
        trial = Trial(module, scale)
        if trial.draw():
            return trial
    trial = Trial(module, smallest)
    trial.draw()
    return trial


def _has_methods(module: Any) -> bool:
    """Whether more than tensors and a class base go into the values of a module."""
    declaration = module.__declaration__
    is_method = declaration.make is None and bool(declaration.base or hasattr(module, "__joint__"))
    has_derived = any(field.is_computed for field in declaration.order)
    return is_method or has_derived or declaration.has_parts


def _key_of(module: Any, copies: torch.Size) -> Any:
    """What the verdict depends on, beside the class: parts, sizes and modes."""
    parts = [(path, type(part)) for path, part in walk(module)]
    shapes = [(name, tuple(p.shape)[len(copies) :]) for name, p in module.named_parameters()]
    modes = [part.training for part in module.modules()]
    shapes += [(name, tuple(buffer.shape)) for name, buffer in module.named_buffers()]
    return len(copies), tuple(parts), tuple(shapes), tuple(modes)


def _refuse(found: Difference | None, owner: nn.Module, what: str) -> None:
    """Raise the error about a method that mixes copies, contexts or draws, if it was found."""
    if found is None:
        return
    subject = type(owner).__name__
    raise ConstraintError(
        f"{subject}.{found.name}" if found.name else subject,
        f"for each of the {what} a value that does not depend on the {what} beside it",
        f"{found.alone} alone, and {found.together} beside others",
        "Index from the right, as in mu[..., None], and sum, sort and index over the dimensions "
        "of one event only, as in .sum(-1) and not .sum().",
        code="mixed-draws",
    )


def check_sites(joint: Any) -> None:
    """Refuse sites of a joint distribution whose densities mix the draws."""
    key = ("draws", *_key_of(joint, vars(joint)["_copies"]))
    known = _FOUND.setdefault(type(joint), set())
    if key in known or is_traced(*joint.parameters(), *joint.buffers()):
        return
    with torch.no_grad(), same_random_numbers():
        current = [copy_apart(joint, is_evaluating=mode).at_start((2,)) for mode in (False, True)]
        for groups in ROUNDS:
            draws = _draw_some(current[False])
            if draws is None:
                return  # a site without a sampler may be observed, and no draw need be legal
            see = partial(_score_sites, current, draws)
            try:
                see(block(ALL, 1))
            except ValueError as error:
                if not is_about_values(error):
                    raise
            _refuse(find_difference(see, 1, groups), joint, "draws")
    known.add(key)


def _score_sites(
    current: Sequence[Any], draws: dict[str, Tensor], index: Index, is_evaluating: bool = False
) -> dict[str, Tensor]:
    scores: dict[str, Tensor] = current[is_evaluating].scores(
        {name: draw[index] for name, draw in draws.items()}, {}
    )
    return scores


def _draw_some(joint: Any) -> dict[str, Tensor] | None:
    """Three draws of a joint distribution, one by one where each is legal, or None."""
    drawn: dict[int, dict[str, Tensor]] = {}
    for index, shape in enumerate([(COUNT,), *[()] * COUNT]):
        try:
            drawn[index] = {name: value for name, _, value in joint.legal_draw(shape)}
        except NotImplementedError:
            return None
        except ValueError as error:
            if not is_about_values(error):
                raise
    together = drawn.pop(0, None)
    if len(drawn) < COUNT:
        return together
    return {name: torch.stack([draw[name] for draw in drawn.values()]) for name in drawn[1]}


def check_target(density: Callable[[Index], Mapping[str, Tensor]], target: nn.Module) -> None:
    """Refuse a target whose density of a draw follows the draws beside it."""

    def see(index: Index, is_evaluating: bool = False) -> Mapping[str, Tensor]:
        with evaluating(target) if is_evaluating else nullcontext():
            return density(index)

    try:
        see(block(ALL, 1))
    except ValueError:  # a draw without a density; the loss itself will say so
        return
    _refuse(find_difference(see, 1), target, "draws")
