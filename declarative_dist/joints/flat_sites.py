"""The flat map of a conditioned joint distribution: the sites that are not observed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from declarative_dist.constraints.adapters import as_constraint
from declarative_dist.constraints.constraint import Constraint
from declarative_dist.constraints.half_line import Exp, Positive
from declarative_dist.constraints.scalar import Scalar, is_open
from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.latents.flat import FlatMap, Slot, check_volume
from declarative_dist.latents.named import Values
from declarative_dist.plain.refusals import LinAlgError
from declarative_dist.plain.supports import support_of
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.randomness import same_random_numbers
from declarative_dist.wrappers.cdfs import has_atoms

_MIXED = constraints.MixtureSameFamilyConstraint
_PRIOR_DRAWS = 64
_ENDS = {"low": "lower_bound", "high": "upper_bound"}
_UNITS = (1e-9, 1e9)
_SIZES, _WIDEST = 1e6, 1e15
_WIDE = 1e3
"""The upper over the lower quartile of a prior from where on positive numbers are logarithms."""


class InUnits(Positive):
    """Positive numbers through softplus, in a unit of their own: `unit * softplus(raw)`.

    Far below the unit raw numbers are logarithms, and far above it they are linear, so that a
    prior around it has thin tails on both sides.

    Args:
        unit: a positive number.
    """

    unit: Tensor

    def __init__(self, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("unit", unit.detach().clone())

    def link(self, raw: Tensor) -> Tensor:
        return super().link(raw) * self.unit.to(raw.dtype)

    def inverse(self, value: Tensor) -> Tensor:
        return super().inverse(value / self.unit.to(value.dtype))

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        return super().log_abs_det_jacobian(raw, value) + self.unit.to(raw.dtype).log()


class InLogs(Exp):
    """Positive numbers through their logarithm, with less and less mass beyond those of a dtype.

    There the value moves no more, so that a density of values alone would go on without end.
    """

    def log_abs_det_jacobian(self, raw: Tensor, value: Tensor) -> Tensor:
        inside = super().log_abs_det_jacobian(raw, value)
        return inside - (raw - inside).abs()


class FlatSites(FlatMap):
    """The map from vectors to values of the sites of a joint distribution held at data.

    Supports are read from one draw, and a constraint is inferred for each; positive numbers are
    counted in units of the middle of their prior, or learned through their logarithm where that
    prior spans several orders of magnitude. A support with bounds that depend on the values
    of other sites, or on parameters in training, is read again for every vector. The start is the
    middle of draws from the prior, and the spread theirs.

    Args:
        posterior: a conditioned joint.

    Raises:
        DeclarationError: if no site is left, or one is discrete or in a support that no
            constraint stands for.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Joint, site
        >>> from declarative_dist.joints.flat_sites import FlatSites
        >>> class Nested(Joint):
        ...     width = dd.Gamma(2.0, 1.0)
        ...     @site
        ...     def place(self, width):
        ...         return dd.Uniform(0.0 * width, width)
        >>> FlatSites(Nested().condition())(torch.tensor([4.0, 0.0]))
        {'width': tensor(7.1719), 'place': tensor(3.5859)}
    """

    def __init__(self, posterior: Any) -> None:
        joint, observed = posterior.current(), posterior.observed
        owner: str = joint.owner
        drawn: Mapping[str, tuple[Distribution, Tensor]] = posterior.one_draw()
        copies = len(joint.batch_shape)
        shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
        fixed: dict[str, Constraint] = {}
        dtypes: list[torch.dtype] = []
        moving: dict[str, Scalar] = {}
        for name, (distribution, value) in drawn.items():
            if name in observed:
                continue
            subject = f"{owner}.{name}"
            support = _support_of(distribution, value, subject)
            still = copy.copy(support)  # with ends that do not learn, to find shapes and kinds by
            vars(still).update({n: end.detach() for n, end in _ends_of(support).items()})
            constraint = as_constraint(still, subject)
            raw_shape = constraint.raw_shape(value.shape)
            check_volume(constraint, subject)
            shapes[name] = (raw_shape[copies:], value.shape[copies:])
            bounds = _ends_of(support).values()
            depends = not isinstance(joint.sites[name], Distribution)
            has_tensors = bounds or any(True for _ in constraint.buffers())
            if has_tensors and (depends or any(bound.requires_grad for bound in bounds)):
                moving[name] = _with_named_ends(constraint, support, subject)
            else:
                fixed[name] = copy.deepcopy(constraint).to(value)
            dtypes.append(value.dtype)
        if not shapes:
            expected, got = "a joint with sites that are not observed", "none"
            raise DeclarationError(owner, expected, got, "Observe fewer.", code="nothing-to-learn")
        super().__init__(owner, shapes, joint.batch_shape)
        self.dims = posterior.dims
        self.held = nn.ModuleList(fixed.values())
        self._held = tuple(fixed)
        self._moving = moving
        self._events = {name: d.event_shape for name, (d, _) in drawn.items()}
        # Not a submodule: a guide does not train the model.
        vars(self).update(_posterior=posterior if moving else None)
        dtype = functools.reduce(torch.promote_types, dtypes)
        zeros = torch.zeros((*joint.batch_shape, self.size), dtype=dtype)
        self.register_buffer("_start", zeros, persistent=False)
        self.register_buffer("_spread", torch.ones_like(zeros), persistent=False)
        self._begin(posterior)
        self._filled = {name: buffer.clone() for name, buffer in self.named_buffers()}

    def reset(self) -> None:
        for name, buffer in self.named_buffers():
            if not self._filled[name].is_meta:
                buffer.copy_(self._filled[name])

    def _begin(self, posterior: Any) -> None:
        """Find units, and the middle and the spread of draws from the prior as vectors."""
        vectors = torch.zeros(1, *self.batch_shape, self.size, dtype=torch.float64)
        for shape in (torch.Size((_PRIOR_DRAWS,)), torch.Size()):
            try:
                with torch.no_grad(), same_random_numbers(seed=0):
                    drawn = posterior.one_draw(shape)
                    values = {name: drawn[name][1] for name in self.names}
                    if shape:
                        self._count_in_units(values)
                    found = self.unconstrain(values, validate=False)[0].double()
            except (ConstraintError, ValueError, NotImplementedError, LinAlgError):
                continue  # no draw is legal, or to be had, or one is on the edge of its support
            vectors = found if shape else found[None]
            break
        ranks = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]).to(vectors)
        _, low, start, high, _ = vectors.quantile(ranks, 0)
        smallest, *_, largest = vectors.abs().quantile(ranks, 0)
        # The quartiles of a normal distribution are 1.349 standard deviations apart.
        spread = (high - low) / 1.349
        # Draws of all sizes, as with a variance from InverseGamma(1e-3, 1e-3), have no middle.
        is_known = (spread > 0) & (spread < _WIDEST) & (largest < _SIZES * smallest)
        spread = torch.where(is_known, spread, torch.ones_like(spread))
        is_still = start.isfinite() & (low == high)
        start = torch.where(is_known | is_still, start, torch.zeros_like(start))
        dtype = self.get_buffer("_start").dtype
        self._buffers.update(_start=start.to(dtype), _spread=spread.to(dtype))

    def _count_in_units(self, values: Values) -> None:
        for index, name in enumerate(self._held):
            own = self.held[index]
            if type(own) is Positive and not own.floor and values[name].numel():
                ordered, unit = values[name].sort(0).values, values[name].median()
                low, high = ordered[len(ordered) // 4], ordered[-len(ordered) // 4]
                if not 1 / _WIDEST < unit < _WIDEST:
                    # So vague a prior, as Gamma(1e-3, 1e-3), knows no size.
                    values[name] = torch.ones_like(values[name])
                elif (high > _WIDE * low).any():
                    self.held[index] = InLogs(guard=False)
                else:
                    self.held[index] = InUnits(unit.clamp(*_UNITS))

    def start(self) -> Tensor:
        """The middle of draws from the prior, of shape `(*batch, size)`."""
        return self.get_buffer("_start").clone()

    def spread(self) -> Tensor:
        return self.get_buffer("_spread").clone()

    def resolver(self, lead: torch.Size) -> Callable[[Slot, Values], Constraint]:
        fixed: dict[str, Any] = dict(zip(self._held, self.held, strict=True))
        posterior = vars(self)["_posterior"]
        if posterior is None:
            return lambda slot, values: fixed[slot.name]
        joint = posterior.current()
        observed = {
            name: value.expand((*lead, *self._events[name]))
            for name, value in posterior.observed.items()
        }

        def constraint_of(slot: Slot, values: Values) -> Constraint:
            if slot.name in fixed:
                return fixed[slot.name]
            distribution = joint.distribution_of(slot.name, {**observed, **values}, lead)
            support = _simplify(support_of(distribution))
            bounded = self._moving[slot.name]
            ends = {name: getattr(support, _ENDS[name]) for name in bounded.names}
            dtype = self.get_buffer("_start").dtype
            return bounded.with_bounds({n: as_tensor(end, dtype) for n, end in ends.items()})

        return constraint_of


def _support_of(distribution: Distribution, value: Tensor, subject: str) -> Any:
    """The set that values lie in, found to be one that a constraint may stand for."""
    name = type(distribution).__name__
    support: Any = constraints.dependent
    with suppress(NotImplementedError):
        support = support_of(distribution)
    if constraints.is_dependent(support):
        expected, fix = "a distribution that states its support", "Define support in its class."
        raise DeclarationError(subject, expected, name, fix, code="unknown-set")
    is_mixed = has_atoms(distribution)
    if is_mixed or support.is_discrete or not value.is_floating_point():
        expected = "a continuous site, as a latent variable"
        got = f"a discrete one, {name} with support {shorten(support)}"
        got = f"{name}, of which some values have a probability of their own" if is_mixed else got
        fix = "Sum it out in the model, as MixtureSameFamily does, or observe it."
        raise DeclarationError(subject, expected, got, fix, code="discrete-latent")
    plain = _simplify(support)
    if isinstance(support, _MIXED) and _ends_of(plain):
        expected = "components with one support"
        got = f"{shorten(support)}, whose bounds belong to its components"
        fix = "Use components on the whole real line, or one that ends nowhere."
        raise DeclarationError(subject, expected, got, fix, code="moving-support")
    return plain


def _simplify(support: Any) -> Any:
    """The set of each entry; a mixture has the set of its components."""
    independent = type(constraints.independent(constraints.real, 1))
    while isinstance(support, (independent, _MIXED)):
        support = support.base_constraint
    return support


def _ends_of(support: constraints.Constraint) -> dict[str, Tensor]:
    """The ends of a set that are tensors."""
    return {name: end for name, end in vars(support).items() if isinstance(end, Tensor)}


def _with_named_ends(constraint: Constraint, support: Any, subject: str) -> Scalar:
    """The constraint of an interval or half line whose ends will be known later."""
    if isinstance(constraint, Scalar):
        names = [name for name in _ENDS if not is_open(getattr(constraint, name))]
        if all(hasattr(support, _ENDS[name]) for name in names):
            kind: Any = type(constraint)
            return kind(*names)
    expected = "a support that does not depend on other sites, or an interval or half line"
    fix = "Declare the site in a fixed set, and compute the rest from it."
    raise DeclarationError(subject, expected, shorten(support), fix, code="moving-support")
