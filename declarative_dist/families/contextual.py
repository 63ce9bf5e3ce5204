"""What modules share that depend on a context: their network, the layer of heads, the call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from declarative_dist.errors import ConstraintError, FieldError, check_count, did_you_mean, shorten
from declarative_dist.families.building import call_detached
from declarative_dist.families.clipping import clip_gradient
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.features import predict_raws
from declarative_dist.fields.context import CONTEXT, CONTEXT_SHAPE, Call
from declarative_dist.fields.given import call_names, check_batches, take_call
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.fields.sharding import spread_like

WEIGHT_SCALE = 0.1
"""The starting weights are normal with this scale over the root of the number of features."""


class Contextual(Declarative):
    """A module some of whose fields come with a context: heads, given values, predicted parts.

    Args:
        in_features: how many features the linear layers of the heads and of the parts see.
        network: what makes features of the context, for the heads and for all parts that predict.
        device: where to build it; None for where the network is.
        dtype: the floating-point type of everything in it; None for the network's own.
        **sizes_and_values: sizes by the names that shapes use, and values by field.
    """

    __framework__ = True
    __keywords__: ClassVar[tuple[str, ...]] = ("in_features", "network")

    in_features: int | None
    projection: nn.Linear | None
    _has_parts: bool
    _sharers: frozenset[str]
    _raw_shapes: dict[str, torch.Size]
    _takes_infinity: bool

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
        if predicted_kind(self) is None:  # then these are sizes and values like others
            named = {"in_features": in_features, "network": network}
            sizes_and_values |= {n: value for n, value in named.items() if value is not None}
            super().__init__(device=device, dtype=dtype, **sizes_and_values)
            return
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
            expected = "no batch_shape: the batch is the context's"
            fix = "Give the context a batch dimension, or stack several modules for an ensemble."
            raise ConstraintError(subject, expected, "one", fix, code="unused-argument")
        if in_features is not None and "in_features" in self.__declaration__.size_names:
            sizes_and_values["in_features"] = in_features  # nested parts see the same features
        super().__init__(device=device, dtype=dtype, **sizes_and_values)
        vars(self)["in_features"] = in_features
        if "network" not in fields:
            self.network = network
        self._check_source(in_features)
        biases, heads = vars(self)["_biases"], self.__declaration__.heads
        vars(self)["_raw_shapes"] = {head.raw_name: biases[head.name].shape for head in heads}
        # Single numbers that are held in a band need no clamp before that.
        maps = (head.constraint for head in heads)
        vars(self)["_takes_infinity"] = all(c.limits and not c.event_dim for c in maps)
        self.projection = None
        if in_features is not None and heads:
            starts = torch.cat([biases[head.name].flatten() for head in heads])
            self.projection = nn.Linear(
                in_features, len(starts), device=starts.device, dtype=starts.dtype
            )
            self._start_projection()

    def _check_source(self, in_features: int | None) -> None:
        """Find out who uses the context, and refuse a width or a network that nobody does."""
        declaration, network = self.__declaration__, self.network
        modules = {name: self._modules.get(name) for name in declaration.fields}
        parts: dict[str, Any] = {n: part for n, part in modules.items() if predicted_kind(part)}
        trunks = [part.network for part in parts.values() if part.network is not None]
        shared = [n for n, part in parts.items() if trunks.count(part.network) > 1]
        vars(self).update(_has_parts=bool(parts), _sharers=frozenset(shared))
        names = ", ".join(head.name for head in declaration.heads)
        subject = f"{type(self).__name__}(in_features=)"
        if in_features is not None:
            check_count(subject, in_features)
        unused: Any = None
        if not names and "in_features" not in declaration.size_names:
            unused = in_features
        if network is not None and not (names or parts):
            subject, unused = f"{type(self).__name__}(network=)", network
        if unused is not None:
            expected, got = "none, for nothing of its own is predicted", shorten(unused)
            fix = "Declare a Head, or give it to the nested part that predicts."
            raise ConstraintError(subject, expected, got, fix, code="unused-argument")
        if names and in_features is None and network is None:
            expected = f"the width of the context, to predict {names}"
            fix = "Write in_features=64, or give a network that returns the unconstrained numbers."
            got = "neither that nor a network"
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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Build the distribution for a context, and for what is given with it by keyword."""
        is_plain = not (kwargs or self.__declaration__.givens)
        call = Call(args, kwargs) if is_plain else take_call(self, args, kwargs)
        network, own = self._modules.get("network"), self.__dict__
        if network is not None and (own["_raw_shapes"] or own["_has_parts"]):
            return self._build(call, network(*call.args, **call.keywords), is_made=True)
        if own["_raw_shapes"]:
            return self._build(call, self._context(call))
        if call.keywords and not any(map(predicted_kind, [*self.modules()][1:])):
            self._refuse_keywords(call.keywords)
        return self._build(call, None)

    def from_features(self, features: Any, /, **given: Any) -> Any:
        """Build the distribution from features that you computed outside.

        For a recurrent network, which returns a state too, or one whose features serve several
        modules: what you give stands in place of what `network` returns, and no network runs.
        Nested parts receive the features as their context.

        Args:
            features: of shape `(*batch, in_features)`; without `in_features`, the unconstrained
                numbers, a tensor for one head and a dict by name for several.
            **given: the values of `Given` fields, also of nested parts.

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
        call = take_call(self, (features,), given)
        self._refuse_keywords(call.keywords)
        return self._build(call, features, is_made=True)

    def _build(self, call: Call, features: Any, *, is_made: bool = False) -> Any:
        """Build for a call, from its context, or features that a network made of it for all."""
        own = self.__dict__
        known: dict[str, Any] = predict_raws(self, features) if own["_raw_shapes"] else {}
        # What a network returns without a layer behind it are raw numbers, and no features.
        if is_made and own["_has_parts"] and (not known or "projection" in self._modules):
            call = Call((features,), {}, call.given, call.own)
        if call.own:
            check_batches(self, call.own, known)
        if torch.is_grad_enabled():
            for name, raw in self._parameters.items():
                if raw is not None:
                    is_own = isinstance(raw, nn.Parameter)  # not what functional_call put there
                    known[name] = clip_gradient(raw if is_own else raw.view_as(raw))
        if own["_sharers"]:
            call = call._replace(outputs={})
        known[CONTEXT] = call
        return self._predict(known)

    @abstractmethod
    def _predict(self, known: dict[str, Any]) -> Any:
        """What the instance predicts, from the values of an evaluation that are known already."""

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

    def at_start(self, shape: Any = torch.Size()) -> Any:
        """The distribution that features of zeros predict, before any training.

        Args:
            shape: the batch shape of such contexts.
        """
        return self._predict({CONTEXT_SHAPE: torch.Size(shape)})

    def _build_apart(self) -> Any:
        return self.at_start()

    def detach(self, *args: Any, **kwargs: Any) -> Any:
        """The distribution for a context, with detached parameters.

        The density of "Sticking the landing" (Roeder, Wu and Duvenaud, 2017,
        https://arxiv.org/abs/1703.09194) for amortised inference: gradients flow to values and to
        the context, not to parameters. The network runs once more, so with dropout it is another
        draw of the network.
        """
        return call_detached(self, *args, **kwargs)

    def reset_parameters(self) -> None:
        """Go back to what this instance was built with; the layer of the heads is drawn again.

        A network that the constructor was given starts anew by its own `reset_parameters`, but
        for what is frozen in it, such as a trained trunk.
        """
        super().reset_parameters()
        if predicted_kind(self) is None:
            return
        is_given = "network" not in self.__declaration__.fields
        network: Any = self.network if is_given and self.network is not None else nn.Identity()
        for module in network.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if callable(reset) and any(p.requires_grad for p in module.parameters()):
                reset()
        self._start_projection()

    def _signatures(self) -> dict[str, str]:
        if predicted_kind(self) is None:
            return super()._signatures()
        sizes = vars(self)["_raw_shapes"]
        shapes = [f"{h.name}: {tuple(sizes[h.raw_name])}" for h in self.__declaration__.heads]
        if self.projection is None:  # then their names tell them apart
            return {**super()._signatures(), "heads": ", ".join(sorted(shapes))}
        return {**super()._signatures(), "heads (in order)": ", ".join(shapes)}
