"""Joint distributions with some sites held at data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from typing_extensions import Self

from declarative_dist.errors import ConstraintError, did_you_mean, shorten
from declarative_dist.families.state import AtomicState
from declarative_dist.fields.storage import check_finite
from declarative_dist.joints.draws import draw_like
from declarative_dist.joints.flat_sites import FlatSites
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.latents.named import as_value
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.restoring import evaluating
from declarative_dist.plain.supports import support_of
from declarative_dist.plain.tensors import as_tensor, typical_tensor
from declarative_dist.plain.tracing import is_traced

if TYPE_CHECKING:
    from declarative_dist.joints.distribution import JointDistribution
    from declarative_dist.joints.joint import Joint


class Conditioned(AtomicState):
    """A joint distribution with some sites held at data: a log density of the others.

    Calling it on a dict of values gives the log joint density, `log p(values, data)`. The joint's
    parameters are its own; the data moves with it and is not saved with its state.

    Args:
        joint: the joint distribution, held and not copied; or a snapshot, such as the one of a
            context, with its values of that moment.
        data: by site a value of shape `(*batch, *event)`, or `(*event)` for all copies.

    Raises:
        ConstraintError: for a name that is no site, or data of another shape.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Joint, site
        >>> class Coin(Joint):
        ...     bias = dd.Beta(2.0, 2.0)
        ...     @site
        ...     def heads(self, bias):
        ...         return dd.Binomial(10, bias)
        >>> posterior = Coin().condition(heads=7)
        >>> posterior({"bias": torch.tensor([0.2, 0.7])}).exp()
        tensor([0.0008, 0.3362])
    """

    def __init__(self, joint: Joint | JointDistribution, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.joint = joint
        self._given: dict[str, Tensor] = {}  # the data with all digits
        self._apart: set[str] = set()  # the sites in another dtype than it, as of labels
        current = self.current()
        self._owner = current.owner
        subjects = {name: f"{current.owner}.condition({name}=)" for name in data}
        for name, subject in subjects.items():
            if name not in current.sites:
                is_method = inspect.isfunction(getattr(type(joint), name, None))
                got = f"{name!r}, a method without @site" if is_method else repr(name)
                expected, fix = "the name of a site", did_you_mean(name, current.sites)
                raise ConstraintError(subject, expected, got, fix, code="unknown-name")

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            if name in data:
                # The support of a site that depends on no other is known for good.
                is_known = isinstance(current.sites[name], Distribution)
                like = draw_like(distribution)
                _check_data(data[name], distribution, like, subjects[name], is_known)
                self._given[name] = as_tensor(data[name]).detach().clone()
                self._hold(name, self._given[name].to(like))
                if dtype != like.dtype:
                    self._apart.add(name)
            return self._draw(name, distribution, shape)

        dtype = typical_tensor(joint).dtype
        with evaluating(self):
            current.one_draw(draw=draw)

    if TYPE_CHECKING:

        def __call__(self, values: Mapping[str, Any]) -> Tensor: ...

    def current(self) -> JointDistribution:
        """The joint distribution with the values that it has at this moment."""
        return self.joint() if isinstance(self.joint, nn.Module) else self.joint

    @property
    def observed(self) -> dict[str, Tensor]:
        """The data by site, where the joint is now and in its dtype."""
        data = {name: getattr(self, f"data_{name}") for name in self._given}
        if isinstance(self.joint, nn.Module):  # it may have moved alone, or been loaded by assign
            place = typical_tensor(self.joint)
            for name, now in data.items():
                dtype = now.dtype if name in self._apart else place.dtype
                if (now.dtype, now.device) != (dtype, place.device):
                    data[name] = self._like(name, place.new_empty(0, dtype=dtype))
                    self._hold(name, data[name])
        return data

    def _hold(self, name: str, data: Tensor) -> None:
        """Have the data of a site as a buffer, which torch stacks, and which is not saved."""
        self.register_buffer(f"data_{name}", data, persistent=False)

    def _like(self, name: str, other: Tensor) -> Tensor:
        """The data of a site in the dtype and on the device of another tensor."""
        given = self._given[name]
        moved = given.to(other)
        if not is_traced(given, moved):
            check_finite(given, moved, given, f"{self._owner}.condition({name}=)")
        return moved

    @property
    def dims(self) -> dict[str, tuple[str | None, ...]]:
        """By site the names of its last dimensions that shapes say, None for those without."""
        fields = getattr(self.joint, "__declaration__", None)
        if fields is None:
            return {}
        drawn: dict[str, Any] = self.one_draw()
        named = {name: fields.fields[name].dims(self.joint) for name in drawn}
        # Behind the copies of a site, which have names, are the dimensions of its own events.
        behind = {n: len(drawn[n][0].event_shape) - len(dims) for n, dims in named.items()}
        return {n: (*dims, *([None] * behind[n] if dims else ())) for n, dims in named.items()}

    @property
    def supports(self) -> dict[str, constraints.Constraint]:
        """The set that the values of each remaining site lie in, read from one draw."""
        sites: dict[str, Any] = self.one_draw()
        return {n: support_of(d) for n, (d, _) in sites.items() if n not in self.observed}

    def one_draw(self, sample_shape: Any = torch.Size()) -> dict[str, tuple[Distribution, Tensor]]:
        """Distribution and value of every site in a draw from the prior, data in its place.

        It is ancestral: what stands above a site shapes its draw, and data below it does not.
        """
        with evaluating(self):
            return self.current().one_draw(sample_shape, self._draw)

    def _draw(self, name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
        """Draw a site, or return its data where it is observed."""
        if name not in self.observed:
            return distribution.sample(shape)
        return self.observed[name].expand(
            shape + distribution.batch_shape + distribution.event_shape
        )

    def log_lik(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """The log likelihood of each datum, for leave-one-out cross-validation and the like.

        The entries of an event are one datum each where they are independent, as those that
        `event_dim` or `torch.distributions.Independent` put together; others are one datum in all.

        Args:
            values: for every remaining site numbers of shape `(*sample, *batch, *event)`.

        Returns:
            By observed site a tensor of shape `(*sample, *batch, *data)`, in nats.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Joint, site
            >>> class Coins(Joint):
            ...     bias = dd.Beta(2.0, 2.0)
            ...     @site(event_dim=1)
            ...     def heads(self, bias):
            ...         return dd.Bernoulli(bias[..., None].expand(*bias.shape, 3))
            >>> posterior = Coins().condition(heads=[1.0, 0.0, 1.0])
            >>> posterior.log_lik({"bias": torch.tensor([0.2, 0.5])})["heads"].exp()
            tensor([[0.2000, 0.8000, 0.2000],
                    [0.5000, 0.5000, 0.5000]])
        """
        observed = self.observed
        scores = self.current().scores(values, observed, is_by_datum=True)
        return {name: scores[name] for name in observed}

    def predict(self, draws: Mapping[str, Any] | WeightedDraws) -> dict[str, Tensor]:
        """Draw the data anew, given draws of the other sites: the posterior predictive.

        Data that a given site depends on stays as it is.

        Args:
            draws: by remaining site numbers of shape `(*sample, *batch, *event)`;
                `WeightedDraws` are resampled, to as many. A site that no data depends on may be
                left out, and is drawn.

        Returns:
            By site draws of shape `(*sample, *batch, *event)`.

        Raises:
            ConstraintError: without draws, for an unknown, observed or missing site, for a shape
                that does not fit, and for values outside their support.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Joint, site
            >>> class Coin(Joint):
            ...     bias = dd.Beta(2.0, 2.0)
            ...     @site
            ...     def heads(self, bias):
            ...         return dd.Binomial(10, bias)
            >>> Coin().condition(heads=7).predict({"bias": torch.rand(1000)})["heads"].shape
            torch.Size([1000])
        """
        with evaluating(self):
            return self.current().predict(draws, self.observed)

    def unconstrained_log_density(self) -> UnconstrainedLogDensity:
        """The log joint density of unconstrained vectors, for outside samplers and optimisers.

        Returns:
            A callable from vectors `(*sample, *batch, size)` to log densities `(*sample, *batch)`,
            log of the volume change included; with `start()`, and with `constrain(vector)`, which
            makes dicts of values by site of a sampler's draws.

        Raises:
            DeclarationError: if a remaining site is discrete, or its support unknown.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Joint, site
            >>> class Coin(Joint):
            ...     bias = dd.Beta(2.0, 2.0)
            ...     @site
            ...     def heads(self, bias):
            ...         return dd.Binomial(10, bias)
            >>> density = Coin().condition(heads=7).unconstrained_log_density()
            >>> density(torch.zeros(3, 1)).shape
            torch.Size([3])
        """
        return UnconstrainedLogDensity(FlatSites(self), self)

    def forward(self, values: Mapping[str, Any]) -> Tensor:
        """The log joint density of values and data, of shape `(*sample, *batch)`.

        Args:
            values: for every remaining site numbers of shape `(*sample, *batch, *event)`, with
                the same sample shape for all.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        return self.current().log_prob(values, self.observed)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        # Refused before anything has moved; what a move loses, such as `to_empty`, is read again.
        data = {n: self._like(n, fn(now.new_empty(0))) for n, now in self.observed.items()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, moved in data.items():
            self._hold(name, moved)
        return self

    def extra_repr(self) -> str:
        """The data, by site."""
        return ", ".join(f"{name}={shorten(value)}" for name, value in self.observed.items())


def _check_data(
    value: Any, distribution: Distribution, like: Tensor, subject: str, is_known: bool
) -> None:
    """Refuse data that are not like a draw of their site, of one copy or of all."""
    device = None if like.is_meta else like.device
    tensor = as_value(value, like.dtype, device, subject)
    if not is_traced(tensor) and tensor.isnan().any():
        raise ConstraintError(
            subject, "numbers", shorten(value), "Leave out what is missing.", code="not-finite"
        )
    whole = distribution.batch_shape + distribution.event_shape
    if tensor.shape not in (distribution.event_shape, whole):
        expected = f"shape (*batch, *event) = {tuple(whole)}"
        fix = "Declare what belongs to one event with event_dim."
        raise ConstraintError(subject, expected, shorten(tensor), fix, code="wrong-shape")
    if is_known and distribution._validate_args and not is_traced(tensor, like):
        support: Any = distribution.support
        if not support.check(tensor).all():
            expected = f"data in its support, {shorten(support)}"
            raise ConstraintError(subject, expected, shorten(tensor), code="outside-support")
