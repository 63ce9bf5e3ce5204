"""Joint distributions declared as classes: named sites, samples as dicts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.distributions import Distribution, constraints

from declarative_dist.declaration.parts import is_site
from declarative_dist.errors import ConstraintError, DeclarationError, did_you_mean, shorten
from declarative_dist.families.building import detached
from declarative_dist.families.declarative import Declarative
from declarative_dist.fields.sharding import check_gathered
from declarative_dist.fields.site import Site
from declarative_dist.fields.standin import kept, stand_in
from declarative_dist.joints.distribution import (
    Draw,
    JointDistribution,
    Rule,
)
from declarative_dist.joints.flat_sites import FlatSites
from declarative_dist.joints.probing import check_sites_broadcast, evaluating
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.plain.tracing import is_traced
from declarative_dist.randomness import same_random_numbers


class Joint(Declarative):
    """Named distributions, some of which depend on the values of others.

    Sites are nested families and plain torch distributions, which are independent (plain ones are
    constants that move with the module), and methods under `@site`, from the values of sites above
    them to a distribution. Other fields are declared as in any declarative class.

    Draws are dicts of tensors of shape `(*sample, *batch, *event)` by site; log densities have
    shape `(*sample, *batch)`. A site whose distribution would add dimensions to that is refused
    when the joint is built, with the `event_dim` that it needs.

    Args:
        batch_shape: how many independent copies; prepended to the shape of every parameter.
        device: where to build it.
        dtype: the floating-point type of everything in it.
        **sizes_and_values: sizes by the names that shapes use, values by field, and for a site
            another distribution or a dict of its values.

    Raises:
        DeclarationError: if a keyword is neither, or the class has no site.
        ConstraintError: if a value is outside its constraint or shapes do not fit.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Joint, site
        >>> class Schools(Joint):
        ...     error = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
        ...     mu = dd.Normal(0.0, 5.0)
        ...     tau = dd.HalfCauchy(5.0)
        ...     @site(event_dim=1)
        ...     def theta(self, mu, tau):
        ...         return dd.Normal(mu[..., None].expand(*mu.shape, 8), tau[..., None])
        ...     @site(event_dim=1)
        ...     def y(self, theta, error):
        ...         return dd.Normal(theta, error)
        >>> schools = Schools()
        >>> draw = schools.sample((3,))
        >>> draw["theta"].shape, schools.log_prob(draw).shape
        (torch.Size([3, 8]), torch.Size([3]))
        >>> posterior = schools.condition(y=[28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
        >>> sorted(posterior.supports)
        ['mu', 'tau', 'theta']
    """

    __framework__ = True
    __joint__ = True
    __builds__: ClassVar[type | None] = JointDistribution

    if TYPE_CHECKING:

        def __call__(self) -> JointDistribution: ...

    def _check_class(self) -> None:
        if not any(map(is_site, self.__declaration__.fields.values())):
            raise DeclarationError(
                type(self).__name__,
                "a class with sites",
                "none",
                "Write theta = torch.distributions.Normal(0.0, 1.0) in the class body. A module "
                "that is no declared family is no site: call it in a method under @site.",
                code="no-base",
            )

    def forward(self) -> JointDistribution:
        """The sites and fields with their current values, for one step."""
        check_gathered(self)
        declaration = self.__declaration__
        # Sites are computed later, and from the module that they were frozen with.
        frozen = kept(self) if is_dynamo_compiling() else stand_in(self)
        values = declaration.run(frozen, declaration.order)
        sites = {
            name: Rule(values[name], field.names, field.event_dim)
            if isinstance(field, Site)
            else values[name]
            for name, field in declaration.fields.items()
            if is_site(field)
        }
        others = {name: value for name, value in values.items() if name not in sites}
        return JointDistribution(declaration.owner, sites, others, vars(self)["_copies"])

    def _check_whole(self) -> None:
        if not is_traced(*self.parameters(), *self.buffers()):
            with torch.no_grad(), same_random_numbers(), evaluating(self):
                check_sites_broadcast(self())

    def condition(self, **data: Any) -> Conditioned:
        """Hold sites at data: what is left is a log density of the other sites.

        Args:
            **data: by site a value of shape `(*batch, *event)`, or `(*event)` for all copies.

        Returns:
            A module that holds this joint and the data.

        Raises:
            ConstraintError: for a name that is no site, or data of another shape.
        """
        return Conditioned(self, data)

    def unconstrained_log_density(self, log_joint: object = None) -> UnconstrainedLogDensity:
        """Not of a joint that is not conditioned: which sites are latent is not said.

        Raises:
            DeclarationError: always.
        """
        raise not_conditioned(type(self).__name__)

    def detach(self) -> JointDistribution:
        """A snapshot with detached parameters: gradients flow to values, not to parameters."""
        snapshot: JointDistribution = detached(self)
        return snapshot

    def sample(self, sample_shape: Any = torch.Size()) -> dict[str, Tensor]:
        """Draw all sites, without gradients; of shape `(*sample, *batch, *event)` by site."""
        return self().sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> dict[str, Tensor]:
        """Draw all sites with gradients; of shape `(*sample, *batch, *event)` by site.

        Raises:
            NotImplementedError: if a site has no reparametrised sampler.
        """
        return self().rsample(sample_shape)

    def rsample_and_log_prob(
        self, sample_shape: Any = torch.Size()
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draws with gradients, and their joint log density, of shape `(*sample, *batch)`."""
        return self().rsample_and_log_prob(sample_shape)

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """The joint log density at a dict of values, of shape `(*sample, *batch)`.

        Args:
            values: for every site a tensor of shape `(*sample, *batch, *event)`, with the same
                sample shape for all.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        return self().log_prob(values)


class Conditioned(nn.Module):
    """A joint distribution with some sites held at data: a log density of the others.

    Calling it on a dict of values gives the log joint density, `log p(values, data)`. The joint's
    parameters are its own; the data moves with it and is not saved with its state.

    Args:
        joint: the joint distribution; it is held, not copied.
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

    def __init__(self, joint: Joint, data: Mapping[str, Any]) -> None:
        super().__init__()
        self.joint = joint
        self.data = nn.Module()
        for name in data:
            if not is_site(joint.__declaration__.fields.get(name)):
                is_method = inspect.isfunction(getattr(type(joint), name, None))
                raise ConstraintError(
                    _subject(joint, name),
                    "the name of a site",
                    f"{name!r}, a method without @site" if is_method else repr(name),
                    did_you_mean(name, joint().sites),
                    code="unknown-name",
                )
        for name, (distribution, value) in self._one_draw(data).items():
            if name in data:
                subject, event_shape = _subject(joint, name), distribution.event_shape
                tensor = _as_data(data[name], value, event_shape, subject)
                _check_support(joint().sites[name], tensor, subject)
                self.data.register_buffer(name, tensor, persistent=False)

    if TYPE_CHECKING:

        def __call__(self, values: Mapping[str, Tensor]) -> Tensor: ...

    @property
    def observed(self) -> dict[str, Tensor]:
        """The data by site."""
        return dict(self.data.named_buffers())

    @property
    def supports(self) -> dict[str, constraints.Constraint]:
        """The set that the values of each remaining site lie in, read from one draw."""
        drawn: dict[str, Any] = self._one_draw(self.observed)
        return {n: d.support for n, (d, _) in drawn.items() if n not in self.observed}

    def one_draw(self) -> dict[str, tuple[Distribution, Tensor]]:
        """Distribution and value of every site at one draw, with the data in its place."""
        return self._one_draw(self.observed)

    def prior_draw(self, sample_shape: Any = torch.Size()) -> dict[str, Tensor]:
        """A draw of all sites from their prior, with the data in its place.

        It is ancestral: what stands above a site shapes its draw, and data below it does not. Of
        shape `(*sample, *batch, *event)` by site.
        """
        with evaluating(self.joint), torch.no_grad():
            drawn = self.joint().legal_draw(sample_shape, self._drawing(self.observed))
        return {name: value for name, _, value in drawn}

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

    def _one_draw(self, data: Mapping[str, Any]) -> dict[str, tuple[Distribution, Tensor]]:
        """The sites at one draw, where what is observed is not drawn."""
        with evaluating(self.joint):
            return self.joint().one_draw(self._drawing(data))

    def _drawing(self, data: Mapping[str, Any]) -> Draw:
        """What draws a site, and returns its data where it is observed."""

        def draw(name: str, distribution: Distribution, shape: torch.Size) -> Tensor:
            if name not in data:
                return distribution.sample(shape)
            whole = torch.Size((*shape, *distribution.batch_shape, *distribution.event_shape))
            if name in self.observed:
                return self.observed[name].expand(whole)
            like = _like_a_draw(distribution, whole, self.joint)
            event_shape = distribution.event_shape
            return _as_data(data[name], like, event_shape, _subject(self.joint, name)).expand(
                whole
            )

        return draw

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """The log joint density of values and data, of shape `(*sample, *batch)`.

        Args:
            values: for every remaining site a tensor of shape `(*sample, *batch, *event)`, with
                the same sample shape for all.

        Raises:
            ConstraintError: for a missing or unknown site, or a shape that does not fit.
        """
        return self.joint().score(values, self.observed)

    def extra_repr(self) -> str:
        """The data, by site."""
        return ", ".join(f"{name}={shorten(value)}" for name, value in self.observed.items())


def not_conditioned(owner: str) -> DeclarationError:
    """What to say where a joint comes in the place of a posterior."""
    return DeclarationError(
        owner,
        "a conditioned joint, or a plain Declarative of latent variables",
        "a joint without data",
        f"Write {owner}().condition(y=data); without data, condition() is the prior itself.",
        code="not-conditioned",
    )


def _subject(joint: Joint, name: str) -> str:
    return f"{type(joint).__name__}.condition({name}=)"


def _like_a_draw(distribution: Distribution, shape: torch.Size, joint: Joint) -> Tensor:
    """A draw, or where a site has no sampler, zeros in the dtype of the joint."""
    try:
        return distribution.sample()
    except NotImplementedError:
        tensors = [*joint.parameters(), *joint.buffers()]
        like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
        return like.new_zeros(shape)


def _check_support(site: object, data: Tensor, subject: str) -> None:
    """Refuse data outside the support of a site that depends on no other."""
    is_known = isinstance(site, Distribution) and site._validate_args and not is_traced(data)
    support = site.support if is_known and isinstance(site, Distribution) else None
    if support is not None and not support.check(data).all():
        raise ConstraintError(
            subject, f"data in its support, {support}", shorten(data), code="outside-support"
        )


def _as_data(value: Any, drawn: Tensor, event_shape: torch.Size, subject: str) -> Tensor:
    """Data as a tensor like a draw of its site, of one copy or of all.

    Raises:
        ConstraintError: if it is no number, NaN, or of another shape.
    """
    try:
        tensor = torch.as_tensor(value).detach().to(drawn.device, drawn.dtype, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConstraintError(
            subject, "a number, a list or a tensor", shorten(value), code="wrong-argument"
        ) from error
    if not is_traced(tensor) and tensor.isnan().any():
        raise ConstraintError(
            subject, "numbers", shorten(value), "Leave out what is missing.", code="not-finite"
        )
    if tensor.shape not in (event_shape, drawn.shape):
        raise ConstraintError(
            subject,
            f"shape (*batch, *event) = {tuple(drawn.shape)}",
            shorten(value),
            "Declare what belongs to one event with event_dim.",
            code="wrong-shape",
        )
    return tensor
