"""The one probe: whether methods keep copies, contexts and draws apart.

A method gets the values of many copies, contexts or draws at once. It is tried at random numbers,
on one, two and three together, and what each of them gets is compared with what it gets alone.
Modules are tried in the mode that they are in, and in float64 where their methods allow it, so
that a little mixing shows above rounding. Nothing of it stays: random numbers and buffers are as
before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from declarative_dist.constraints.scalar import is_open
from declarative_dist.families.comparison import (
    ALL,
    COUNT,
    TOGETHER,
    Change,
    Index,
    See,
    attempt,
    block,
    keep,
    refuse_mixing,
)
from declarative_dist.families.copies import set_copies
from declarative_dist.fields.kinds import is_declarative, predicted_kind
from declarative_dist.fields.sharding import is_shard
from declarative_dist.fields.walk import walk
from declarative_dist.plain.refusals import REFUSALS, is_about_values
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.supports import bounds_of, entries_of, support_of
from declarative_dist.plain.tensors import copy_module, is_dense, map_tensors, with_checks
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers

SCALES = (1.0, 0.1, 0.01)
"""How far around the start raw numbers are tried, until a method takes them."""

ROUNDS = ((TOGETHER, (0.0,)), ([ALL], (70.0, 7.0)), ([ALL], (-70.0, -7.0)))
"""Who is tried together, and how far the first of them lies from the others, for a method may
branch on numbers or clamp them: nearer, where it takes none so far out. The random numbers are
others each time."""

MOST = 32
"""For how many flags and constants a class is tried at most: they may change in every step."""

MOST_TO_WIDEN = 10_000_000
"""How many numbers a module may hold to be tried in float64; a larger one is tried as it is."""


def widen(module: Any) -> Any:
    """A light copy of a module in float64."""
    return map_tensors(module, lambda _, t: t.double() if t.is_floating_point() else t)


def copy_apart(module: Any) -> Any:
    """A light copy for trials, whose running statistics are its own."""
    new: Any = copy_module(module)
    for part in new.modules():
        if not is_declarative(part):
            buffers = vars(part)["_buffers"].items()
            vars(part)["_buffers"] = {n: None if b is None else b.clone() for n, b in buffers}
    return new


class Probe:
    """Light copies of a declared module, at random raw numbers, as what is tried.

    Args:
        module: the module; its copies are tried, or for what predicts from contexts, those.
        scale: how far around the start the raw numbers lie.
        dtype: of the raw numbers; None for their own.
        shift: how many scales the first copy lies further.
    """

    def __init__(
        self, module: Any, scale: float, dtype: torch.dtype | None = None, shift: float = 0.0
    ) -> None:
        self.module, self.scale, self.dtype, self.shift = module, scale, dtype, shift
        self.copies: torch.Size = vars(module)["_copies"]
        self.rank = len(self.copies) or 1
        self.whole = torch.Size((COUNT,) * self.rank)
        self.change: Change = keep
        self.raws: dict[int, Tensor] = {}
        self.draws: dict[str, Tensor] = {}

    def draw(self) -> bool:
        """Draw what will be scored; False if the methods refuse these numbers."""
        try:
            two, whole = (self._look(block(p, self.rank))[1] for p in ([0, 1], ALL))
            for name, distribution in whole.items():
                self.draws |= self._draw_from(name, distribution, two[name])
        except REFUSALS as error:
            return not is_about_values(error)
        return True

    def _draw_from(self, name: str, distribution: Any, of_two: Any) -> dict[str, Tensor]:
        """A draw for each, or where the sizes of both are not in front, one for all."""
        if not isinstance(distribution, Distribution):  # a joint one
            return {site: value for site, (_, value) in distribution.legal_draw().items()}
        with suppress(NotImplementedError, ValueError):  # no sampler, or not at these numbers
            draw = distribution.sample()
            with_checks(distribution, False).log_prob(draw)  # which may lie on an edge
            leads = (d.batch_shape[: self.rank] for d in (distribution, of_two))
            has_lead = (*leads,) == (self.whole, torch.Size((2,) * self.rank))
            return {name: draw if has_lead else draw.expand(*self.whole, *draw.shape)}
        return {}

    def see(self, index: Index, change: Change = keep) -> dict[str, Tensor]:
        """The derived values, and densities of draws, of some of the copies or contexts."""
        self.change = change
        try:
            return self._see(index)
        except REFUSALS:
            if self.copies or not isinstance(index[0], int):
                raise
            # A method may be written for batches of contexts: one context is a batch of one.
            one = self._see(block([index[0]], 1))
            return {name: value[0] if value.ndim else value for name, value in one.items()}

    def _see(self, index: Index) -> dict[str, Tensor]:
        seen, distributions = self._look(index)
        draws = {name: draw[index] for name, draw in self.draws.items()}
        for name, distribution in distributions.items():
            if isinstance(distribution, Distribution):
                seen[name] = _score(distribution, draws.get(name), self._lead_of(index))
            else:
                sites = {site: draws[site] for site in distribution.sites if site in draws}
                seen |= distribution.scores(sites, {}) if sites else {}
        return seen

    def _look(self, index: Index) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The derived tensors, and the distributions, of some of the copies or contexts."""
        copy = self._copy(index)
        declaration = copy.__declaration__
        values = declaration.run(copy, declaration.order)
        derived = {n: values[n] for n, field in declaration.fields.items() if field.is_computed}
        built = {n: value for n, value in derived.items() if isinstance(value, Distribution)}
        base = copy._build_apart()
        if isinstance(base, Transform):
            derived["base"] = base
        elif base is not None:
            built["base"] = base
        return _numbers_in(derived), built

    def _lead_of(self, index: Index) -> torch.Size:
        return torch.empty(self.whole)[index].shape

    def _copy(self, index: Index) -> Any:
        new = copy_apart(self.module)
        if self.copies:
            lead = self._lead_of(index)
            set_copies(new, self.module, lead, lambda raw: self._raw(raw)[index], self._first)
            return new
        for part in filter(is_declarative, new.modules()):
            biases = vars(part)["_biases"].items()
            vars(part)["_biases"] = {name: self._raw(raw)[index] for name, raw in biases}
        return new

    def _first(self, constant: Tensor) -> Tensor:
        """A constant of one copy for all of them, for constants do not differ here."""
        return constant[(0,) * len(self.copies)]

    def _raw(self, raw: Tensor) -> Tensor:
        """Random numbers around a start in place of all copies of a tensor."""
        if id(raw) not in self.raws:
            start = self._first(raw.detach()).to(self.dtype or raw.dtype)
            noise = torch.randn((*self.whole, *start.shape))
            noise[0] += self.shift
            self.raws[id(raw)] = start + self.scale * noise.to(start)
        return self.change(self.raws[id(raw)])


def _numbers_in(values: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors and real numbers in values, or in dicts, lists and transforms of them.

    Integers outside of tensors are sizes, and may follow from how many copies there are.
    """
    return {
        path: leaf if isinstance(leaf, Tensor) else torch.tensor(leaf, dtype=torch.float64)
        for name, value in values.items()
        for path, leaf in _leaves(name, value)
        if is_dense(leaf) or isinstance(leaf, float)
    }


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each under the path that you would write."""
    if isinstance(value, Transform):
        held = [(f"{path}.{n}", v) for n, v in vars(value).items() if "_cached" not in n]
    elif isinstance(value, nn.Module):
        tensors = (*value.named_parameters(), *value.named_buffers())
        held = [(f"{path}.{name}", tensor) for name, tensor in tensors]
    elif isinstance(value, dict):
        held = [(f"{path}[{key!r}]", v) for key, v in value.items()]
    elif isinstance(value, (list, tuple)):
        held = [(f"{path}[{index}]", v) for index, v in enumerate(value)]
    else:
        yield path, value
        return
    for name, inner in held:
        yield from _leaves(name, inner)


def _score(distribution: Distribution, draw: Tensor | None, lead: torch.Size) -> Tensor:
    """The log density at draws that are the same for all, or zeros where there is none."""
    shape = distribution.batch_shape
    with suppress(NotImplementedError, ValueError):  # a draw on an edge
        unchecked = with_checks(distribution, False)
        score = torch.zeros(shape) if draw is None else unchecked.log_prob(draw)
        if score.shape in (shape, torch.Size((*lead, *shape))):
            return score
    return torch.zeros(shape)


_FOUND: WeakKeyDictionary[type, dict[Any, set[Any]]] = WeakKeyDictionary()
"""By class and sizes, for which flags and constants it was found to keep all apart."""


def check_copies(module: Any) -> None:
    """Refuse a module whose methods mix its copies, or the contexts that it predicts from."""
    copies: torch.Size = vars(module)["_copies"]
    declaration = module.__declaration__
    has_methods = declaration.has_methods or declaration.has_parts
    if not has_methods or not copies.numel() or not (copies or predicted_kind(module)):
        return
    if "_is_view" in vars(module):  # its copies are those of the instance that it looks at
        return

    def start(module: Any, dtype: torch.dtype | None, shift: float = 0.0) -> See:
        """A trial at the largest scale at which the methods take their values."""
        probes = [Probe(module, scale, dtype, shift) for scale in SCALES]
        return next(filter(Probe.draw, probes), probes[-1]).see

    _try_methods(module, "copies" if copies else "contexts", start, len(copies) or 1)


def check_sites(joint: Any) -> None:
    """Refuse sites of a joint distribution whose densities mix the draws."""

    def start(joint: Any, dtype: torch.dtype | None, shift: float = 0.0) -> See | None:
        draws = _draw_some(copy_apart(joint).at_start((2,)), shift)
        if draws is None:
            return None  # a site without a sampler may be observed, and no draw need be legal

        def see(index: Index, change: Change = keep) -> dict[str, Tensor]:
            picked = {name: change(draw[index]) for name, draw in draws.items()}
            return copy_apart(joint).at_start((2,)).scores(picked, {})

        whole = attempt(see, block(ALL, 1))
        if isinstance(whole, Exception) and not is_about_values(whole):
            raise whole
        return see

    _try_methods(joint, "draws", start, 1)


def _draw_some(joint: Any, shift: float) -> dict[str, Tensor] | None:
    """Three draws of a joint distribution, together or else one by one, or None.

    The first of them is moved by a shift where a site has room for it.
    """

    def draw_far(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
        value = distribution.sample(shape).clone()
        if shape and shift:
            with suppress(NotImplementedError):  # one without a support stays where it is
                low, high = bounds_of(entries_of(support_of(distribution))) or (0.0, 0.0)
                if is_open(high):
                    value[0] += value.new_tensor(shift if is_open(low) else abs(shift))
        return value

    for shape, count in (((COUNT,), 1), ((), COUNT)):
        try:
            drawn = [joint.legal_draw(shape, draw_far) for _ in range(count)]
        except NotImplementedError:
            return None
        except REFUSALS as error:
            if not is_about_values(error):
                raise
        else:
            stacked = {n: torch.stack([draw[n][1] for draw in drawn]) for n in drawn[0]}
            return {name: values.flatten(0, len(shape)) for name, values in stacked.items()}
    return None


def check_target(
    begin: Callable[[], Callable[[Any], Tensor]],
    module: nn.Module,
    subject: str,
    *,
    may_hide: bool = False,
) -> None:
    """Refuse a target whose density of a draw follows the draws beside it.

    Args:
        begin: makes `COUNT` draws, and returns what gives the log densities at some of them.
        module: what is tried.
        subject: whom an error is about.
        may_hide: whether a loss of as many draws as there are contexts hides an error of shapes.
    """
    with torch.no_grad(), same_random_numbers(), restoring(module, always=True):
        log_joint = begin()

        def see(index: Index, change: Change = keep) -> dict[str, Tensor]:
            at = index[0]
            log_p = log_joint([at] if isinstance(at, int) else at)
            return {"log_joint": log_p[0] if isinstance(at, int) else log_p}

        whole = attempt(see, block(ALL, 1))
        if may_hide and getattr(whole, "code", "") == "wrong-shape":
            raise whole
        if not isinstance(whole, ValueError):  # the loss itself says so
            refuse_mixing(see, 1, module, "draws", subject)


Start = Callable[..., See | None]
"""From a module, the dtype to try it in and a shift to what is seen at new random numbers."""


def _try_methods(module: Any, what: str, start: Start, rank: int) -> None:
    """Try the methods of a module, once per class, sizes, modes, flags and constants.

    Args:
        module: the module.
        what: what must stay apart, in a word.
        start: begins a round.
        rank: how many dimensions an index of what is seen has.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if is_traced(*tensors) or any(map(is_shard, tensors)):
        return
    lead = len(vars(module)["_copies"])
    shapes = [(name, tuple(p.shape)[lead:]) for name, p in module.named_parameters()]
    shapes += [(name, tuple(buffer.shape)) for name, buffer in module.named_buffers()]
    sizes, branches = (what, lead, tuple(shapes)), tuple(_branches(module))
    known = _FOUND.setdefault(type(module), {}).setdefault(sizes, set())
    if branches in known or len(known) >= MOST:
        return
    with torch.no_grad(), same_random_numbers():
        tried: tuple[Any, torch.dtype | None] = (module, None)
        if sum(tensor.numel() for tensor in tensors) <= MOST_TO_WIDEN and _runs_wide(
            module, start, rank
        ):
            tried = (widen(module), torch.float64)
        for groups, shifts in ROUNDS:
            found = (_begin(start, tried, shift, rank) for shift in shifts)
            see = next(filter(None, found), None)
            if see is not None:
                refuse_mixing(see, rank, module, what, type(module).__name__, groups)
            elif not shifts[0]:
                return
    known.add(branches)


def _begin(start: Start, tried: tuple[Any, Any], shift: float, rank: int) -> See | None:
    """What is seen at new random numbers; None where methods do not take what lies far out."""
    try:
        see = start(*tried, shift)
        if see is not None and shift:
            see(block(ALL, rank))
    except REFUSALS:
        if not shift:
            raise
        return None
    return see


def _branches(module: Any) -> Iterator[Any]:
    """What methods may branch on: the kinds of all parts, their modes, flags and constants."""
    for part in module.modules():
        flags = (item for item in vars(part).items() if isinstance(item[1], (int, float, str)))
        yield type(part), *flags, repr(vars(part).get("_constants"))
    for _, part in walk(module):
        for field in part.__declaration__.stored:
            value = None if field.is_learned else field.value(part, {})
            if isinstance(value, Tensor) and value.layout is torch.strided:
                yield hash(tuple(value.flatten().tolist()))


def _runs_wide(module: Any, start: Start, rank: int) -> bool:
    """Whether the methods of a module take float64 too."""
    try:
        see = start(widen(module), torch.float64) or dict
    except REFUSALS:
        return False
    seen = (attempt(see, index) for index in (block(ALL, rank), (0,) * rank))
    return not any(isinstance(s, Exception) and not is_about_values(s) for s in seen)
