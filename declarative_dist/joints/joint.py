"""Joint distributions declared as classes: named sites, samples as dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling

from declarative_dist.errors import ConstraintError, DeclarationError, FieldError
from declarative_dist.families.contextual import Contextual
from declarative_dist.families.probe import check_sites
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.fields.context import CONTEXT_SHAPE
from declarative_dist.fields.given import call_names, try_kinds
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.walk import copy_frozen
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.distribution import JointDistribution
from declarative_dist.joints.rule import Rule
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.latents.named import NamedModule, Values
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.plain.tensors import copy_if_exchanged


class Joint(Contextual, NamedModule):
    """Named distributions, some of which depend on the values of others.

    Sites are nested families and plain torch distributions, which are independent (plain ones are
    constants that move with the module), and methods under `@site`, from the values of sites above
    them to a distribution. Other fields are declared as in any declarative class.

    Draws are dicts of tensors of shape `(*sample, *batch, *event)` by site; log densities have
    shape `(*sample, *batch)`. A site whose distribution would add dimensions to that is refused
    when the joint is built, with the `event_dim` that it needs.

    A joint with a `Head`, a `Given` or a `Conditional` for a site is a function of a context, as a
    `Conditional` is: call it with one, and what you get has `sample`, `log_prob` and `condition`.
    Sites that depend on the context, through what their methods take by name, have a draw for each
    context, `(*sample, *contexts, *event)`; methods see earlier sites in that shape too. If all
    sites do, contexts are a batch, and log densities have shape `(*sample, *contexts)`. The others
    are drawn once, `(*sample, *event)`, and contexts that share them are one event: a log density
    adds up all of them, and has shape `(*sample)`.

    Args:
        in_features: with a context, how many features heads and sites see: the width of what
            `network` returns, or of the context without a network.
        network: with a context, what makes features of it; it runs once for all sites.
        batch_shape: how many independent copies; prepended to the shape of every parameter. With
            a context there are none.
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
        >>> from declarative_dist import Conditional, Exp, Head
        >>> class Speed(Conditional):
        ...     base = dd.LogNormal
        ...     loc = Head()
        ...     scale = Head(Exp())
        >>> class Robot(Joint):
        ...     speed = Speed
        ...     turn = Head()
        ...     @site
        ...     def angle(self, speed, turn):
        ...         return dd.Normal(turn, 0.1 / speed)
        >>> robot = Robot(in_features=16, network=torch.nn.Linear(3, 16))
        >>> draw = robot(torch.zeros(5, 3)).sample()
        >>> draw["angle"].shape, robot(torch.zeros(5, 3)).log_prob(draw).shape
        (torch.Size([5]), torch.Size([5]))
    """

    __framework__ = True
    __joint__ = True
    __builds__: ClassVar[type | None] = JointDistribution

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> JointDistribution: ...
        def from_features(self, features: Any, /, **given: Any) -> JointDistribution: ...
        def detach(self, *args: Any, **kwargs: Any) -> JointDistribution: ...

    def __init__(
        self,
        *,
        in_features: int | None = None,
        network: nn.Module | None = None,
        batch_shape: int | Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes_and_values: Any,
    ) -> None:
        super().__init__(
            in_features,
            network=network,
            batch_shape=batch_shape,
            device=device,
            dtype=dtype,
            **sizes_and_values,
        )

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

    def forward(self, *args: Any, **kwargs: Any) -> JointDistribution:
        """The sites and fields with their current values, for one step; for a context, if any."""
        is_called = bool(args or kwargs)
        if is_called is (predicted_kind(self) is None):
            self._refuse_call(is_called)
        if is_called:
            return super().forward(*args, **kwargs)
        return self._predict({})

    def _refuse_call(self, is_called: bool) -> NoReturn:
        """Say that a context is missing, or has no use here."""
        subject = type(self).__name__
        if is_called:
            fix = "Declare a Head, a Given or a Conditional in its body."
            expected = "no context, for no site depends on one"
            raise ConstraintError(subject, expected, "one", fix, code="unused-argument")
        takes = ["context"] if vars(self)["_raw_shapes"] or vars(self)["_has_parts"] else []
        takes += [f"{name}=..." for name in sorted(call_names(self))]
        call = f"{subject.lower()}({', '.join(takes)})"
        fix = f"Write {call}.sample(), {call}.condition(...) and the like."
        raise FieldError(subject, "a context first", "none", fix, code="no-context")

    __iter__ = None  # Python would index without end

    def __getitem__(self, index: Any) -> JointDistribution:
        """The joint distribution of the copies that an index chooses, as a plain one."""
        return self()[index]

    def at_start(self, shape: Any = torch.Size()) -> JointDistribution:
        """The distribution that features of zeros predict; without a context, the current one.

        Args:
            shape: the batch shape of such contexts.
        """
        return super().at_start(shape) if predicted_kind(self) is not None else self()

    def _build_apart(self) -> JointDistribution:
        return self.at_start().split()

    def _predict(self, known: dict[str, Any]) -> JointDistribution:
        declaration = self.__declaration__
        # Sites are computed later, from the module as it is now.
        frozen = copy_if_exchanged(self) if is_dynamo_compiling() else copy_frozen(self)
        predicting = [f for f in declaration.order if f.is_part and f.needs_context]
        values = declaration.run(self, predicting, known)  # here, where networks may keep a state
        rest = [field for field in declaration.order if field not in predicting]
        values = declaration.run(frozen, rest, values)
        fields: Mapping[str, Any] = declaration.fields
        starts, ndims = vars(self)["_starts"], ndims_of(self)
        sites: dict[str, Any] = {n: values[n] for n, field in fields.items() if field.is_site}
        for name, field in fields.items():
            if field.is_drawn:
                sites[name] = Rule(field, values[name], starts[name], ndims)
        others = {n: values[n] for n in fields if n not in sites}
        if predicted_kind(self) is None:
            return JointDistribution(declaration.owner, sites, others, vars(self)["_copies"])
        contexts = known.get(CONTEXT_SHAPE) or self._contexts_of(values)
        local = declaration.local_names & sites.keys()
        return JointDistribution(declaration.owner, sites, others, contexts, local)

    def _contexts_of(self, values: Mapping[str, Any]) -> torch.Size:
        """The batch shape of a context, from what comes with it.

        Raises:
            ConstraintError: if sites and fields disagree about it.
        """
        shapes: dict[str, torch.Size] = {}
        for name, field in self.__declaration__.fields.items():
            value = values[name]
            if field.is_part and field.needs_context:
                shapes[name] = value.batch_shape
            elif field.needs_context:
                own: tuple[int, ...] = vars(self)["_starts"][name].shape
                shapes[name] = value.shape[: value.ndim - len(own)]
        try:
            return torch.broadcast_shapes(*shapes.values())
        except RuntimeError as error:
            raise ConstraintError(
                type(self).__name__,
                "one batch of contexts for all sites",
                ", ".join(f"{tuple(shape)} for {name}" for name, shape in shapes.items()),
                "Let every part see the whole batch, or give from_features features of one batch.",
                code="mixed-contexts",
            ) from error

    def _check_whole(self) -> None:
        if predicted_kind(self) is not None:
            with suppress(NotImplementedError), torch.no_grad():  # a site may have no sampler
                try_kinds(self, lambda: self.at_start((2,)).one_draw())
        super()._check_whole()

    def _check_mixing(self) -> None:
        super()._check_mixing()
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
        if predicted_kind(self) is not None:
            self._refuse_call(is_called=False)
        owner = type(self).__name__
        raise DeclarationError(
            owner,
            "a conditioned joint, or a plain Declarative of latent variables",
            "a joint without data",
            f"Write {owner}().condition(y=data); without data, condition() is the prior itself.",
            code="not-conditioned",
        )
