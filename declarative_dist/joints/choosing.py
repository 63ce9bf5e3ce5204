"""Choosing among the copies, or the contexts, of a joint distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.families.copies import set_copies
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.joints.rule import Rule
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.indexing import indexer
from declarative_dist.plain.tensors import copy_module

if TYPE_CHECKING:
    from declarative_dist.joints.distribution import JointDistribution


def choose_joint(joint: JointDistribution, index: Any) -> JointDistribution:
    """The joint distribution of the copies, or contexts, that an index chooses.

    Args:
        joint: the joint distribution.
        index: what a tensor of shape `batch_shape` takes in square brackets.

    Raises:
        ConstraintError: if the index does not go with the batch shape, or contexts share a site,
            which is drawn once for all of them.
    """
    if joint.contexts:
        shared = ", ".join(name for name in joint.sites if name not in joint.local)
        expected = "sites of which each context has its own, to choose among contexts"
        got = f"{shared or 'all of them'}, drawn once for all contexts"
        fix = "Choose rows of the context, and call it with these."
        subject = f"{joint.owner}[...]"
        raise ConstraintError(subject, expected, got, fix, code="mixed-contexts")
    sites, everything = joint.sites, [*joint.sites.values(), *joint.values.values()]
    pick, shape = indexer(joint.batch_shape, index, joint.owner, everything)
    module: Any = next((s.method.args[0] for s in sites.values() if isinstance(s, Rule)), None)
    if module is not None and not joint.local:  # the copies that a method reads from self, too
        count, new = len(vars(module)["_copies"]), copy_module(module)

        def choose_some(tensor: Tensor) -> Tensor:
            return pick(tensor, tensor.ndim - count)

        set_copies(new, module, shape, choose_some, choose_some)
        return new._predict({})

    def choose_one(value: Any, own: int = 0) -> Any:
        if isinstance(value, Distribution):
            return rebuild(value, pick, own)
        return pick(value, own) if isinstance(value, Tensor) else value

    chosen = {name: choose_one(site) for name, site in sites.items()}
    ndims = {} if module is None else ndims_of(module)
    values = {name: choose_one(v, ndims.get(name, 0)) for name, v in joint.values.items()}
    return type(joint)(joint.owner, chosen, values, shape, joint.local or None)
