"""Families with parts, and what the tests of nested fields share."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributions as dd
from torch import nn

from declarative_dist import Declarative, LearnableTransform, Param, Positive, Variational


class Components(Variational):
    base = dd.Normal
    loc = Param(torch.randn, shape=("k",))
    scale = Param(1.0, Positive(), shape=("k",))


class Weights(Variational):
    base = dd.Categorical
    logits = Param(0.0, shape=("k",))


class Mixture(Variational):
    """Both parts as classes."""

    base = dd.MixtureSameFamily
    mixture_distribution = Weights
    component_distribution = Components


class Triple(Variational):
    """The example of the readme: an instance and a class."""

    base = dd.MixtureSameFamily
    mixture_distribution = Weights(logits=torch.zeros(3))
    component_distribution = Components


class Shift(LearnableTransform):
    base = dd.AffineTransform
    loc = Param(0.5)
    scale = Param(2.0)


class Deep(Variational):
    """Three levels."""

    base = dd.TransformedDistribution
    base_distribution = Mixture
    transforms = [Shift, dd.ExpTransform()]  # noqa: RUF012


class Encoder(Declarative):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    gain = Param(1.0, Positive())


class Pair(Declarative):
    """The same instance under two names."""

    left = shared = Weights(logits=[1.0, 2.0])
    right = shared
    other = Weights(logits=[1.0, 2.0])
    del shared


class Line(Variational):
    """Values of different lengths in one family."""

    base = dd.Normal
    loc = Param(torch.tensor([-1.0, 0.0, 1.0]))
    scale = Param(1.5)


class Grid(Variational):
    base = dd.Normal
    loc = Param(torch.linspace(-1, 1, 6).reshape(2, 3))
    scale = Param(1.5)


class Logits(Variational):
    base = dd.Categorical
    logits = Param(torch.tensor([0.0, 1.0, 2.0]))


class ByMethod(Variational):
    weights = Weights
    components = Components

    def base(self, weights, components):
        return dd.MixtureSameFamily(weights, components)


MIXED_NAMES = [
    "mixture_distribution.raw_logits",
    "component_distribution.raw_loc",
    "component_distribution.raw_scale",
]


def made(base, kind=Variational, **body):
    return type(kind)("Made", (kind,), {"base": base, **body})


def mixture_of(mixture_distribution, component_distribution, **body):
    parts = {
        "mixture_distribution": mixture_distribution,
        "component_distribution": component_distribution,
    }
    return made(dd.MixtureSameFamily, **parts, **body)


def plain_mixture(logits, loc, scale):
    return dd.MixtureSameFamily(dd.Categorical(logits=logits), dd.Normal(loc, scale))


def flags(q):
    return {name: parameter.requires_grad for name, parameter in q.named_parameters()}


def shapes(q):
    return {name: tuple(parameter.shape) for name, parameter in q.named_parameters()}


def refused(call, error, start):
    """The message of an error about the subject that it must begin with."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(start), text
    return text


def jitter(q, by=0.3):
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.add_(by * torch.randn_like(parameter))


def slice_of(single, batched, index):
    """Put one of the independent copies into a single instance."""
    many = dict(batched.state_dict())
    with torch.no_grad():
        for name, tensor in single.state_dict().items():
            whole = many[name]
            part = whole if whole.numel() == tensor.numel() else whole[index]
            tensor.copy_(part.reshape(tensor.shape))
    return single


def assert_is_a_loop(make, copies):
    """Independent copies are what a loop over single instances is."""
    q = make(batch_shape=copies)
    jitter(q)
    one = make()
    assert q.batch_shape == torch.Size((*copies, *one.batch_shape))
    assert q.event_shape == one.event_shape
    x = q.sample((4,))
    assert x.shape == torch.Size((4, *copies, *one.batch_shape, *one.event_shape))
    log_prob = q.log_prob(x)
    for index in itertools.product(*map(range, copies)):
        at = (slice(None), *index)
        single = slice_of(make(), q, index)
        torch.testing.assert_close(log_prob[at], single.log_prob(x[at]), rtol=1e-4, atol=1e-4)
    return q
