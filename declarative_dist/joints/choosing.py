"""Choosing among the copies, or the contexts, of a joint distribution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributions import Distribution

from declarative_dist.errors import ConstraintError
from declarative_dist.families.copies import set_copies
from declarative_dist.fields.alignment import ndims_of
from declarative_dist.fields.field import current_value
from declarative_dist.joints.rule import Rule
from declarative_dist.plain.decompose import rebuild
from declarative_dist.plain.indexing import Pick, indexer
from declarative_dist.plain.tensors import copy_module

if TYPE_CHECKING:
    from declarative_dist.joints.distribution import JointDistribution


def choose_sites(joint: JointDistribution, index: Any) -> dict[str, Any]:
    """What makes the joint distribution of the copies, or contexts, that an index chooses.

    Args:
        joint: the joint distribution.
        index: what a tensor of shape `batch_shape` takes in square brackets.

    Returns:
        Its sites, values and batch shape, by name.

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
    rules = {name: site for name, site in sites.items() if isinstance(site, Rule)}
    chosen: dict[str, Any] = {
        n: rebuild(s, pick) for n, s in sites.items() if isinstance(s, Distribution)
    }
    values: dict[str, Any] = {}  # nothing but rules takes them, which all are of one module
    module: Any = next((rule.method.args[0] for rule in rules.values()), None)
    if module is not None:
        if not joint.local:  # a method may read copies from self
            count, new = len(vars(module)["_copies"]), copy_module(module)

            def choose_some(tensor: Tensor) -> Tensor:
                return pick(tensor, tensor.ndim - count)

            set_copies(new, module, shape, choose_some, choose_some)
            module = new
        values = {n: _choose_value(module, n, value, pick) for n, value in joint.values.items()}
    for name, rule in rules.items():
        chosen[name] = replace(rule, method=rule.field.value(module, {}))
    return {"sites": {n: chosen[n] for n in sites}, "values": values, "batch_shape": shape}


def _choose_value(module: Any, name: str, value: Any, pick: Pick) -> Any:
    """The chosen part of the value of a field that methods of a module take."""
    own = ndims_of(module).get(name, 0)
    if isinstance(value, Tensor):
        return pick(value, own)
    if isinstance(value, Distribution):
        return rebuild(value, pick, own)
    return current_value(module, name) if module._modules.get(name) is not None else value
