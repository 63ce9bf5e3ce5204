"""Joint distributions declared as classes: named sites, samples as dicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch.compiler import is_dynamo_compiling

from declarative_dist.errors import DeclarationError
from declarative_dist.families.building import call_detached
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.probe import check_sites
from declarative_dist.fields.sharding import check_gathered
from declarative_dist.fields.site import Site
from declarative_dist.joints.conditioned import Conditioned, missing_data_error
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.rule import Rule
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.latents.named import NamedModule, Values
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.tensors import copy_if_exchanged, copy_module


class Joint(Declarative, NamedModule):
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
        if not any(field.is_site for field in self.__declaration__.fields.values()):
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
        frozen = copy_if_exchanged(self) if is_dynamo_compiling() else copy_module(self)
        values = declaration.run(frozen, declaration.order)
        sites = {
            name: Rule(values[name], field.names, field.event_dim)
            if isinstance(field, Site)
            else values[name]
            for name, field in declaration.fields.items()
            if field.is_site
        }
        others = {name: value for name, value in values.items() if name not in sites}
        return JointDistribution(declaration.owner, sites, others, vars(self)["_copies"])

    def _check_whole(self) -> None:
        super()._check_whole()
        check_sites(self)

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

    def predict(self, draws: Mapping[str, Any] | WeightedDraws) -> Values:
        """Draw what is not given, from its distribution at draws of the sites above it.

        Give draws of a posterior to predict data, or of its upper levels only to predict new
        groups. `sample` draws everything: the prior predictive.

        Args:
            draws: by site numbers of shape `(*sample, *batch, *event)`, with every site that a
                given one depends on; `WeightedDraws` are resampled, to as many.

        Returns:
            By site that is not given draws of shape `(*sample, *batch, *event)`, without
            gradients.

        Raises:
            ConstraintError: without draws, for an unknown site or a missing one, for a shape that
                does not fit, and for values outside their support.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Joint, site
            >>> class Levels(Joint):
            ...     mu = dd.Normal(0.0, 5.0)
            ...     @site
            ...     def group(self, mu):
            ...         return dd.Normal(mu, 1.0)
            ...     @site
            ...     def y(self, group):
            ...         return dd.Normal(group, 0.1)
            >>> {name: tuple(x.shape) for name, x in Levels().predict({"mu": [0.1, 0.3]}).items()}
            {'group': (2,), 'y': (2,)}
        """
        return self().predict(draws)

    def unconstrained_log_density(self, log_joint: object = None) -> UnconstrainedLogDensity:
        """Not of a joint that is not conditioned: which sites are latent is not said.

        Raises:
            DeclarationError: always.
        """
        raise missing_data_error(type(self).__name__)

    def detach(self) -> JointDistribution:
        """A snapshot with detached parameters: gradients flow to values, not to parameters."""
        snapshot: JointDistribution = call_detached(self)
        return snapshot
