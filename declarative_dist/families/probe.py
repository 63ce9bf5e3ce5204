"""The one probe: whether methods keep copies, contexts and draws apart.

A method gets the values of many copies, contexts or draws at once. It is tried at random numbers,
on one, two and three together, and what each of them gets is compared with what it gets alone.
Modules are tried in the mode that they are in. Nothing of it stays: random numbers and buffers are
as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    See,
    attempt,
    block,
    find_difference,
    is_about_values,
    takes_each,
)
from declarative_dist.fields.alignment import has_copies
from declarative_dist.fields.kinds import is_declarative
from declarative_dist.fields.walk import walk
from declarative_dist.plain.tensors import copy_module
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

SCALES = (1.0, 0.1, 0.01)
"""How far around the start raw numbers are tried, until a method takes them."""

ROUNDS = (TOGETHER, [ALL], [ALL])
"""Who is tried together, each time at other random numbers, for a method may branch on them."""


def copy_apart(module: Any, *, is_evaluating: bool = False) -> Any:
    """A light copy for trials, whose running statistics are its own.

    Args:
        module: the module.
        is_evaluating: whether to put the copy into evaluation mode, where dropout is off.
    """
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

    def __init__(self, module: Any, scale: float = 1.0) -> None:
        self.module, self.scale = module, scale
        self.copies: torch.Size = vars(module)["_copies"]
        self.rank = len(self.copies) or 1
        self.whole = torch.Size((COUNT,) * self.rank)
        self.raws: dict[int, Tensor] = {}
        self.shapes: dict[str, dict[torch.Size, torch.Size]] = {}
        self.draws: dict[str, Any] = {}
        self.is_evaluating = False

    def see(self, index: Index) -> dict[str, Tensor]:
        """The derived values, and densities of draws, of some of the copies or contexts."""
        try:
            return self._see(index)
        except REFUSALS:
            if self.copies or not isinstance(index[0], int):
                raise
            # A method may be written for batches of contexts: one context is a batch of one.
            one = self._see(block([index[0]], 1))
            return {name: value[0] if value.ndim else value for name, value in one.items()}

    def _see(self, index: Index) -> dict[str, Tensor]:
        copy = self._copy(index)
        declaration = copy.__declaration__
        values = declaration.run(copy, declaration.order)
        seen: dict[str, Tensor] = {}
        for name, field in declaration.fields.items():
            value = values[name]
            if field.is_computed and isinstance(value, Tensor):
                seen[name] = value
            elif field.is_computed and isinstance(value, Distribution):
                seen[name] = self._score(name, value, index)
        if hasattr(type(copy), "__predicts__"):
            seen["base"] = self._score("base", copy.at_start(), index)
        elif isinstance(copy, Distribution):
            current: Any = copy
            seen["base"] = self._score("base", current(), index)
        elif getattr(copy, "__joint__", False):
            seen.update(self._score_sites(copy.forward(), index))
        return seen

    def _score(self, name: str, distribution: Distribution, index: Index) -> Tensor:
        """The log density at draws that are the same for all, or zeros where there is none."""
        shape = distribution.batch_shape
        lead = self._lead_of(index)
        shapes = self.shapes.setdefault(name, {})
        shapes[lead] = shape
        whole, two = self.whole, torch.Size((2,) * self.rank)
        distribution._validate_args = False
        try:
            if name not in self.draws:
                if lead != whole or two not in shapes:
                    return torch.zeros(shape)
                # What has the sizes of both in front has a draw for each; else one is for all.
                has_lead = shape[: self.rank] == whole and shapes[two][: self.rank] == two
                draw = distribution.sample()
                self.draws[name] = draw if has_lead else draw.expand(*whole, *draw.shape)
            score = distribution.log_prob(self.draws[name][index])
        except (NotImplementedError, ValueError):  # no sampler, or a draw on an edge
            return torch.zeros(shape)
        is_whole = score.shape in (shape, torch.Size((*lead, *shape)))
        return score if is_whole else torch.zeros(shape)

    def _score_sites(self, joint: Any, index: Index) -> dict[str, Tensor]:
        if not self.draws:
            draws = {name: value for name, _, value in joint.legal_draw()}
            if self._lead_of(index) != self.whole:
                return {}
            self.draws = draws
        scores: dict[str, Tensor] = joint.scores(
            {name: draw[index] for name, draw in self.draws.items()}, {}
        )
        return scores

    def _lead_of(self, index: Index) -> torch.Size:
        return torch.empty(self.whole)[index].shape

    def _copy(self, index: Index) -> Any:
        lead = self._lead_of(index)
        new = copy_apart(self.module, is_evaluating=self.is_evaluating)
        originals = dict(self.module.named_modules())
        for path, part in new.named_modules():
            original = originals[path]
            if not is_declarative(part):
                continue
            if hasattr(type(part), "__predicts__") and not self.copies:
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

    def set_mode(self, is_evaluating: bool) -> None:
        """Try the module without dropout, or as it is."""
        self.is_evaluating = is_evaluating


_FOUND: WeakKeyDictionary[type, set[Any]] = WeakKeyDictionary()
"""By class what was tried already and found to keep all apart."""


def find_mixed(module: Any) -> Difference | None:
    """The first value of a module that mixes its copies, or the contexts that it predicts from."""
    copies: torch.Size = vars(module)["_copies"]
    tensors = [*module.parameters(), *module.buffers()]
    if not copies.numel() or is_traced(*tensors) or not _has_methods(module):
        return None
    if not copies and not hasattr(type(module), "__predicts__"):
        return None
    key = _key_of(module, copies)
    known = _FOUND.setdefault(type(module), set())
    if key in known:
        return None
    with torch.no_grad(), same_random_numbers():
        found = _first_of_rounds(module)
    if found is None:
        known.add(key)
    return found


def _first_of_rounds(module: Any) -> Difference | None:
    """What several trials find, each at other random numbers."""
    for groups in ROUNDS:
        trial = _start_trial(module)
        found = find_difference(trial.see, trial.rank, trial.set_mode, groups)
        if found is not None:
            return found
    return None


def _start_trial(module: Any) -> Trial:
    """A trial at the largest scale at which the methods take their values, or at the smallest."""
    trial = Trial(module, SCALES[0])
    for smaller in SCALES[1:]:
        if _takes_values(trial):
            return trial
        trial = Trial(module, smaller)
    _takes_values(trial)  # which lets it draw
    return trial


def _takes_values(trial: Trial) -> bool:
    """Whether the methods take the values of all together, or else of each alone."""
    attempt(trial.see, block([0, 1], trial.rank))
    seen = attempt(trial.see, block(ALL, trial.rank))
    return not is_about_values(seen) or takes_each(trial.see, range(COUNT), trial.rank)


def _has_methods(module: Any) -> bool:
    """Whether more than tensors and a class base go into the values of a module."""
    declaration = module.__declaration__
    is_method = declaration.make is None and bool(declaration.base or hasattr(module, "__joint__"))
    has_derived = any(field.is_computed for field in declaration.order)
    return is_method or has_derived or declaration.has_parts


def _key_of(module: Any, copies: torch.Size) -> Any:
    """What the verdict depends on, beside the class: parts, sizes and modes."""
    parts = [(path, type(part), vars(part)["_lines_methods"]) for path, part in walk(module)]
    shapes = [(name, tuple(p.shape)[len(copies) :]) for name, p in module.named_parameters()]
    modes = [part.training for part in module.modules()]
    shapes += [(name, tuple(buffer.shape)) for name, buffer in module.named_buffers()]
    return len(copies), tuple(parts), tuple(shapes), tuple(modes)


FIX = (
    "Index from the right, as in mu[..., None], and sum, sort and index over the dimensions of "
    "one event only, as in .sum(-1) and not .sum()."
)


def mixing_error(subject: str, what: str, found: Difference) -> ConstraintError:
    """The error about a method that mixes what it gets.

    Args:
        subject: the class.
        what: what is mixed: copies, contexts or draws.
        found: where.
    """
    return ConstraintError(
        f"{subject}.{found.name}" if found.name else subject,
        f"for each of the {what} a value that does not depend on the {what} beside it",
        f"{found.alone} alone, and {found.together} beside others",
        FIX,
        code="mixed-draws",
    )


def check_sites(joint: Any) -> None:
    """Refuse sites of a joint distribution whose densities mix the draws.

    Args:
        joint: an instance of a declared joint.

    Raises:
        ConstraintError: naming the site; nothing is said where nothing can be drawn.
    """
    key = ("draws", *_key_of(joint, vars(joint)["_copies"]))
    known = _FOUND.setdefault(type(joint), set())
    if key in known or is_traced(*joint.parameters(), *joint.buffers()):
        return
    with torch.no_grad(), same_random_numbers():
        current = {mode: copy_apart(joint, is_evaluating=mode)() for mode in (False, True)}
        found = None
        for groups in ROUNDS:
            draws = _draw_some(current[False])
            if draws is None:
                return  # a site without a sampler may be observed, and no draw need be legal
            found = found or _find_mixed_draws(current, draws, groups)
    if found is not None:
        raise mixing_error(type(joint).__name__, "draws", found)
    known.add(key)


def _draw_some(joint: Any) -> dict[str, Tensor] | None:
    """Three draws of a joint distribution, one by one where each is legal, or None."""

    def legal_draw(sample_shape: tuple[int, ...] = ()) -> dict[str, Tensor] | None:
        try:
            return {name: value for name, _, value in joint.legal_draw(sample_shape)}
        except ValueError as error:
            if not is_about_values(error):
                raise
            return None

    try:
        singles, together = [legal_draw() for _ in range(COUNT)], legal_draw((COUNT,))
    except NotImplementedError:
        return None
    legal = [single for single in singles if single is not None]
    if len(legal) < COUNT:
        return together
    return {name: torch.stack([single[name] for single in legal]) for name in legal[0]}


def _find_mixed_draws(
    current: Mapping[bool, Any], draws: dict[str, Tensor], groups: Iterable[list[int]]
) -> Difference | None:
    """The first site whose density of a draw follows the draws beside it.

    Args:
        current: snapshots of a joint distribution, as it is and in evaluation mode.
        draws: three draws of it.
        groups: which of them are tried together.

    Raises:
        ConstraintError: about shapes, where its density can't be computed.
    """
    mode = [False]

    def see(index: Index) -> Mapping[str, Tensor]:
        scores: dict[str, Tensor] = current[mode[0]].scores(
            {name: draw[index] for name, draw in draws.items()}, {}
        )
        return scores

    def set_mode(is_evaluating: bool) -> None:
        mode[0] = is_evaluating

    try:
        see(block(ALL, 1))
    except ValueError as error:
        if not is_about_values(error):
            raise
    return find_difference(see, 1, set_mode, groups)


def check_target(density: See, target: nn.Module) -> None:
    """Refuse a target whose density of a draw follows the draws beside it.

    Args:
        density: gives the densities of some of three draws.
        target: the objective that holds it.

    Raises:
        ConstraintError: with the densities of the same draw.
    """
    modes = {part: part.training for part in target.modules()}

    def set_mode(is_evaluating: bool) -> None:
        for part, is_training in modes.items():
            part.training = is_training and not is_evaluating

    try:
        density(block(ALL, 1))
    except ValueError:  # a draw without a density; the loss itself will say so
        return
    found = find_difference(density, 1, set_mode)
    if found is not None:
        raise mixing_error(type(target).__name__, "draws", found)
