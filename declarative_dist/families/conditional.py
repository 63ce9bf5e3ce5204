"""Distributions that depend on a context, declared as classes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import nn
from torch.distributions import Distribution

from declarative_dist.errors import (
    ConstraintError,
    FieldError,
    check_count,
    did_you_mean,
    shorten,
)
from declarative_dist.families.building import call_detached, distribution_of, refused_by_torch
from declarative_dist.families.clipping import clip_gradient
from declarative_dist.families.comparison import REFUSALS
from declarative_dist.families.copies import NOT_TOGETHER
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.features import predict_raws
from declarative_dist.families.probe import check_copies
from declarative_dist.fields.context import CONTEXT, CONTEXT_SHAPE, Call
from declarative_dist.fields.given import call_names, check_batches, take_call, try_kinds
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.sharding import check_gathered, spread_like

_HEADS = "heads (in order)"
"""What a state says of the layer that all heads share."""

WEIGHT_SCALE = 0.1
"""The starting weights are normal with this scale over the root of the number of features."""


class Conditional(Declarative):
    """A map from a context to a distribution, declared as a class.

    The class body has a `base`, as that of a `Variational`, and fields, any of which may be a
    `Head`: predicted from the context. The others stay what they are, so that a policy with a
    predicted mean and a free scale is one declaration.

    A nested `Conditional` receives the same context, or what this one's `network` makes of it: a
    trunk that several parts share is `network=` of the class around them, and runs once.

    Calling an instance gives a plain torch distribution. The arguments of the call go unchanged to
    `network`; one linear layer maps its output, or the context itself, to the unconstrained
    numbers of all heads, which are split, reshaped and constrained. Without a network there is one
    argument, under any name. Its bias starts at the heads'
    `init`, its weights small. Whatever the numbers are, infinities included, the parameters are
    valid; only NaN passes through.

    What goes back to the unconstrained numbers is finite too, so that no learning rate breaks
    them: NaN, which a density far from a tiny scale makes of zero times infinity, counts as zero,
    and gradients are clipped at 1e15 in float32 (1e120 in float64; not at all in float16, where
    loss scaling looks for overflow).

    Args:
        in_features: how many features the linear layer sees: the width of the network's output, or
            of the context without a network. None: the network itself returns the unconstrained
            numbers, a tensor of shape `(*batch, *raw)` for one head, a dict by name for several.
            A head without a shape takes `(*batch)`: of `(n, 1)` the 1 is one more batch dimension.
        network: any module, held and trained with the instance.
        device: where to build it; None for where the network is.
        dtype: the floating-point type of everything in it; None for that of the network.
        **sizes_and_values: sizes by the names that shapes use, and values by field.

    Raises:
        DeclarationError: if a keyword is neither, or the class has no base.
        ConstraintError: if a value is outside its constraint, shapes do not fit, or there is
            nothing to predict from.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Conditional, Head, LogInterval, Param
        >>> class Policy(Conditional):
        ...     base = dd.Normal
        ...     event_dim = 1
        ...     loc = Head(shape=("actions",))
        ...     scale = Param(1.0, LogInterval(1e-3, 10.0), shape=("actions",))
        >>> policy = Policy(in_features=64, actions=6, network=torch.nn.Linear(8, 64))
        >>> policy(torch.zeros(5, 8)).rsample().shape
        torch.Size([5, 6])
    """

    __framework__ = True
    __predicts__: ClassVar[type] = Distribution
    __keywords__: ClassVar[tuple[str, ...]] = ("in_features", "network")

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Distribution: ...

    def __init__(
        self,
        in_features: int | None = None,
        *,
        network: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes_and_values: Any,
    ) -> None:
        fields = self.__declaration__.fields
        subject = f"{type(self).__name__}(network=)"
        if network is not None and not isinstance(network, nn.Module):
            raise ConstraintError(subject, "an nn.Module", shorten(network), code="wrong-argument")
        if "network" in fields:
            sizes_and_values["network"] = network
        if network is not None:
            floating = [p for p in network.parameters() if p.is_floating_point()]
            if floating:
                tensor = floating[-1]  # the one nearest to the features
                dtype, device = dtype or tensor.dtype, device or tensor.device
        if sizes_and_values.pop("batch_shape", ()) != ():
            subject = f"{type(self).__name__}(batch_shape=)"
            expected = "no batch_shape: the batch is that of the context"
            fix = "Give the context a batch dimension, or stack several modules for an ensemble."
            raise ConstraintError(subject, expected, "one", fix, code="unused-argument")
        if in_features is not None and "in_features" in self.__declaration__.size_names:
            sizes_and_values["in_features"] = in_features  # nested parts see the same features
        super().__init__(device=device, dtype=dtype, **sizes_and_values)
        vars(self)["in_features"] = in_features
        if "network" not in fields:
            self.network = network
        self._check_source(in_features)
        splits = tuple(head.split(self) for head in self.__declaration__.heads)
        vars(self)["_splits"] = splits
        vars(self)["_split_sizes"] = [split.size for split in splits]
        vars(self)["_takes_infinity"] = all(split.takes_infinity for split in splits)
        self.projection: nn.Linear | None = None
        if in_features is not None and self.__declaration__.heads:
            biases, heads = vars(self)["_biases"], self.__declaration__.heads
            starts = torch.cat([biases[head.name].flatten() for head in heads])
            self.projection = nn.Linear(
                in_features, len(starts), device=starts.device, dtype=starts.dtype
            )
            self._start_projection()

    def _check_source(self, in_features: object) -> None:
        owner, network = type(self).__name__, self.network
        if in_features is not None:
            check_count(f"{owner}(in_features=)", in_features)
        names = [head.name for head in self.__declaration__.heads]
        needs_width = bool(names) or "in_features" in self.__declaration__.size_names
        has_parts = any(predicted_kind(self._modules.get(n)) for n in self.__declaration__.fields)
        vars(self)["_has_users"] = bool(names) or has_parts
        given: dict[str, Any] = {"network": None if names or has_parts else network}
        given["in_features"] = None if needs_width else in_features
        for name, value in given.items():
            if value is not None:
                raise ConstraintError(
                    f"{owner}({name}=)",
                    "none, for nothing of its own is predicted",
                    shorten(value),
                    "Declare a Head, or give it to the nested part that predicts.",
                    code="unused-argument",
                )
        if names and in_features is None and network is None:
            subject, got = f"{owner}(in_features=)", "neither that nor a network"
            expected = f"the width of the context, to predict {', '.join(names)}"
            fix = "Write in_features=64, or give a network that returns the unconstrained numbers."
            raise ConstraintError(subject, expected, got, fix, code="missing-value")

    def _start_projection(self) -> None:
        """Small weights, and a bias that predicts the starting values from zeros."""
        layer, heads = self.projection, self.__declaration__.heads
        if layer is None:
            return
        bias = torch.cat([head.bias(self).flatten() for head in heads])
        with torch.no_grad():
            layer.weight.normal_(0.0, WEIGHT_SCALE / layer.in_features**0.5)
            layer.bias.copy_(spread_like(layer.bias, bias))

    def forward(self, *args: Any, **kwargs: Any) -> Distribution:
        """Build the distribution for a context, and for what is given with it by keyword."""
        check_gathered(self)
        is_plain = not (kwargs or self.__declaration__.givens)
        call = Call(args, kwargs) if is_plain else take_call(self, args, kwargs)
        network = self._modules.get("network")
        if network is not None and self.__dict__["_has_users"]:
            return self._build_from(call, network(*call.args, **call.keywords))
        if self.__dict__["_splits"]:
            return self._build(call, predict_raws(self, self._context(call)))
        if call.keywords and not any(map(predicted_kind, [*self.modules()][1:])):
            self._refuse_keywords(call.keywords)
        return self._build(call, {})

    def from_features(self, features: Any, **given: Any) -> Distribution:
        """Build the distribution from features that you computed outside.

        For a recurrent network, which returns a state too, or one whose features serve several
        modules: what you give stands in place of what `network` returns, and no network runs.
        Nested parts receive the features as their context.

        Args:
            features: of shape `(*batch, in_features)`; without `in_features`, the unconstrained
                numbers, a tensor for one head and a dict by name for several.
            **given: the values of `Given` fields, those of parts too.

        Raises:
            ConstraintError: for features of another width or dtype, and for keywords that name no
                `Given`.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Conditional, Head
            >>> class Next(Conditional):
            ...     base = dd.Categorical
            ...     logits = Head(shape=("kinds",))
            >>> network = torch.nn.LSTM(3, 8, batch_first=True)
            >>> head = Next(in_features=8, kinds=4)
            >>> features, state = network(torch.zeros(2, 5, 3))
            >>> head.from_features(features).batch_shape
            torch.Size([2, 5])
        """
        check_gathered(self)
        call = take_call(self, (features,), given)
        self._refuse_keywords(call.keywords)
        return self._build_from(call, features)

    def _build_from(self, call: Call, features: Any) -> Distribution:
        """Build from what a network made of the context, which parts receive in its place."""
        known = predict_raws(self, features)
        if not known or "projection" in self._modules:  # else these are raw numbers
            call = Call((features,), {}, call.given, call.own)
        return self._build(call, known)

    def _build(self, call: Call, known: dict[str, Any]) -> Distribution:
        declaration = self.__declaration__
        if call.own:
            check_batches(self, call.own, known)
        if torch.is_grad_enabled():
            for name, raw in self._parameters.items():
                if raw is not None:
                    is_own = isinstance(raw, nn.Parameter)  # not what functional_call put there
                    known[name] = clip_gradient(raw if is_own else raw.view_as(raw))
        known[CONTEXT] = call
        return distribution_of(self, declaration.base_values(self, known))

    def _context(self, call: Call) -> Any:
        """The context as features, where no network makes them."""
        contexts = (*call.args, *call.keywords.values())
        if len(contexts) == 1:
            return contexts[0]
        if len(call.args) == 1:
            self._refuse_keywords(call.keywords)
        raise FieldError(
            type(self).__name__,
            "one tensor of features",
            f"{len(call.args)} arguments and {len(call.keywords)} keywords",
            "Give it a network that takes them: network=..." if contexts else "Give it a context.",
            code="no-context",
        )

    def _refuse_keywords(self, keywords: Mapping[str, Any]) -> None:
        """Say of keywords that nothing here takes which ones there are."""
        for name in keywords:
            known, subject = sorted(call_names(self)), f"{type(self).__name__}.{name}"
            expected = "the name of a Given, for no network takes another"
            fix = did_you_mean(name, known)
            raise ConstraintError(subject, expected, repr(name), fix, code="unknown-name")

    def at_start(self, shape: Any = torch.Size()) -> Distribution:
        """The distribution that features of zeros predict, before any training.

        Args:
            shape: the batch shape of such contexts.
        """
        known = {CONTEXT_SHAPE: torch.Size(shape)}
        return distribution_of(self, self.__declaration__.base_values(self, known))

    def _check_build(self, values: dict[str, Any]) -> None:
        declaration = self.__declaration__
        is_open = any(field.is_open for field in declaration.givens)
        attempt = partial(try_kinds, self, partial(self.at_start, (2,) if is_open else ()))
        if not isinstance(declaration.base, type):
            with torch.no_grad(), suppress(*REFUSALS):  # a method may need a batch
                _ = is_open and attempt()
            return
        try:
            with torch.no_grad():
                attempt()
        except ConstraintError:
            raise
        except NOT_TOGETHER as error:
            check_copies(self)  # what mixes contexts may fail on one
            raise refused_by_torch(self, values, error) from error

    def detach(self, *args: Any, **kwargs: Any) -> Distribution:
        """The distribution for a context, with detached parameters.

        The density of "Sticking the landing" (Roeder, Wu and Duvenaud, 2017,
        https://arxiv.org/abs/1703.09194) for amortised inference: gradients flow to values and to
        the context, not to parameters. The network runs once more, so with dropout it is another
        draw of the network.
        """
        snapshot: Distribution = call_detached(self, *args, **kwargs)
        return snapshot

    def reset_parameters(self) -> None:
        """Go back to what this instance was built with; the layer of the heads is drawn again.

        A network that the constructor was given starts anew by its own `reset_parameters`, but
        for what is frozen in it, such as a trained trunk.
        """
        super().reset_parameters()
        is_given = "network" not in self.__declaration__.fields
        network: Any = self.network if is_given and self.network is not None else nn.Identity()
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset) and any(p.requires_grad for p in module.parameters()):
                reset()
        self._start_projection()

    def _signatures(self) -> dict[str, str]:
        shapes = [f"{h.name}: {tuple(h.split(self).shape)}" for h in self.__declaration__.heads]
        if self.projection is None:  # then their names tell them apart
            return {**super()._signatures(), "heads": ", ".join(sorted(shapes))}
        return {**super()._signatures(), _HEADS: ", ".join(shapes)}

    def _way_over(self, name: str) -> str:
        if name == _HEADS:
            return "Declare the heads in that order, or take the saved projection apart by head."
        return super()._way_over(name)

    def _suggest(self, name: str) -> None:
        super()._suggest(name)
        if hasattr(Distribution, name):
            said = f" has no {name!r} before there is a context: read q(context).{name}."
            self._say_missing(name, said)

    def _before_context(self, *args: Any, **kwargs: Any) -> NoReturn:
        fix = "Call it with one, then the distribution: q(context).log_prob(value)."
        raise FieldError(type(self).__name__, "a context first", "none", fix, code="no-context")

    log_prob = rsample = sample = rsample_and_log_prob = entropy = cdf = icdf = _before_context
