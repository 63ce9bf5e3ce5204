"""zuko's flows as parts of a declared family; `test_examples` trains one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributions as dd
import zuko
from torch import Tensor

from declarative_dist import Param, Positive, Variational
from declarative_dist.testing import check_distribution

# A flow asks its network when it scores, not when it is called: after a functional call is over.
LATE = ["functional_call"]
FLOWS = {
    "MAF": lambda: zuko.flows.MAF(2, transforms=1, hidden_features=(8,)),
    "NICE": lambda: zuko.flows.NICE(2, transforms=2, hidden_features=(8,)),
    "NSF": lambda: zuko.flows.NSF(2, transforms=1, hidden_features=(8,)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_in_a_family_keeps_every_promise(name: str) -> None:
    class Scaled(Variational):
        """A flow, and a scale of the library's own behind it."""

        flow = FLOWS[name]()
        scale = Param(2.0, Positive())

        def base(self, flow: Callable[[], dd.Distribution], scale: Tensor) -> dd.Distribution:
            return dd.TransformedDistribution(flow(), [dd.AffineTransform(0.0, scale)])

    check_distribution(Scaled, skip=["pickle", *LATE])  # the class is local


def test_a_flow_alone_is_a_family_too() -> None:
    flow = zuko.flows.MAF(2, transforms=1, hidden_features=(8,))
    check_distribution(flow, skip=["meta", *LATE])  # a flow has no reset_parameters


def test_a_conditional_flow_receives_a_context() -> None:
    flow = zuko.flows.MAF(2, context=3, transforms=1, hidden_features=(8,))
    check_distribution(flow, torch.randn(5, 3), skip=["meta", *LATE])
