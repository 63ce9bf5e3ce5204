"""The flat map of a declared module: its trainable parameters are the sites."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from declarative_dist.constraints.constraint import Constraint
from declarative_dist.errors import DeclarationError
from declarative_dist.fields.field import Field
from declarative_dist.fields.param import Param
from declarative_dist.fields.walk import join, walk, walk_params
from declarative_dist.latents.flat import FlatMap, Slot, check_volume
from declarative_dist.latents.named import Values


class FlatParams(FlatMap):
    """The map from vectors to values of the trainable `Param`s of a declared module.

    Sites are in the order of `named_parameters()`. Those of nested parts have dotted names, which
    `assign` takes too. Frozen parameters and constants are no sites; as bounds of others they
    count with their current values. Nor are what a learned prior is computed from, which no prior
    covers, and the weights of networks: both train beside the guide, and `to_vector` has them.

    Args:
        latents: the module.
        owns: whether to hold a copy without parameters, which later steps do not reach, in place
            of the module itself.

    Raises:
        DeclarationError: if it has no trainable `Param`.
        ConstraintError: if the volume change of one is not known.

    Example:
        >>> import torch
        >>> from declarative_dist import Declarative, Interval, Param
        >>> from declarative_dist.latents.flat_params import FlatParams
        >>> class Ends(Declarative):
        ...     low = Param(0.0)
        ...     middle = Param(1.0, Interval("low", 4.0))
        >>> FlatParams(Ends())(torch.tensor([2.0, 0.0]))
        {'low': tensor(2.), 'middle': tensor(3.)}
    """

    def __init__(self, latents: nn.Module, *, owns: bool = False) -> None:
        owner = type(latents).__name__
        sites, copies = sites_of(latents)
        if not sites:
            expected = "a module with trainable Params, which are the latent variables"
            fix = "Declare rate = Param(1.0, Positive()) in its class, or unfreeze() it."
            raise DeclarationError(owner, expected, "none", fix, code="nothing-to-learn")
        shapes, paths, dims = {}, {}, {}
        for name, places in sites.items():
            _, part, field, raw = places[0]
            value = getattr(part, field.name)
            shapes[name] = (raw.shape[len(copies) :], value.shape[len(copies) :])
            check_volume(field.constraint_of(part), f"{owner}.{name}")
            paths[name] = [(path, field.name) for path, _, field, _ in places]
            dims[name] = field.dims(part)
        super().__init__(owner, shapes, copies)
        self.dims = dims
        self.latents = _without_parameters(latents) if owns else latents
        # Names, not fields: what a class holds cannot always be pickled.
        self._paths = paths
        self._tied = {join(*path): name for name, all_ in paths.items() for path in all_}

    def _field_of(self, name: str) -> tuple[Any, Param]:
        path, field = self._paths[name][0]
        part: Any = self.latents.get_submodule(path) if path else self.latents
        return part, part.__declaration__.fields[field]

    def start(self) -> Tensor:
        """The raw numbers of the current values, of shape `(*batch, size)`."""
        pieces = []
        for slot in self.slots:
            part, field = self._field_of(slot.name)
            raw: Tensor = getattr(part, field.raw_name)
            pieces.append(raw.detach().reshape((*self.batch_shape, slot.count)))
        return torch.cat(pieces, -1)

    def reset(self) -> None:
        reset: Any = self.latents.reset_parameters
        reset()

    def resolver(self, lead: torch.Size) -> Callable[[Slot, Values], Constraint]:
        return lambda slot, values: self._constraint_of(slot.name, values)

    def _constraint_of(self, site: str, values: Values) -> Constraint:
        """The constraint of a site with its bounds, as far as they are known among the values."""
        part, field = self._field_of(site)
        prefix = site[: len(site) - len(field.name)]

        def compute(needed: Field, known: dict[str, Any]) -> Any:
            name = f"{prefix}{needed.name}"
            if name in values:
                return values[name]
            tied = self._tied.get(name)
            if tied in values:
                raw = self._constraint_of(tied, values).inverse(values[tied])
                known = {**known, f"raw_{needed.name}": raw}
            return needed.value(part, known)

        declaration = part.__declaration__
        needed = declaration.chains[field.name][:-1]
        return field.resolved_constraint(part, declaration.run(part, needed, compute=compute))


Place = tuple[str, Any, Param, Tensor]
"""Where a trainable parameter is: path of the part, the part, the field, the raw numbers."""


def trainable(latents: nn.Module) -> Iterator[Place]:
    """The places of trainable parameters; of tied ones each field that has them."""
    for path, part, field in walk_params(latents, priors=False):
        if field.is_trained(part):
            yield path, part, field, getattr(part, field.raw_name)


def sites_of(latents: nn.Module) -> tuple[dict[str, list[Place]], torch.Size]:
    """By site the fields that share its raw numbers, and the copies that are in front of all.

    A site has the name of the first of its fields. Where a part that was given has no copies, all
    of them are one problem.
    """
    by_raw: dict[int, list[Place]] = {}
    for place in trainable(latents):
        by_raw.setdefault(id(place[3]), []).append(place)
    sites = {join(places[0][0], places[0][2].name): places for places in by_raw.values()}
    copies: torch.Size = vars(latents)["_copies"]
    are_apart = all(places[0][3].shape[: len(copies)] == copies for places in sites.values())
    return sites, copies if are_apart else torch.Size()


def _without_parameters(latents: nn.Module) -> nn.Module:
    """A copy in which all parameters are buffers: they move and save, and are not trained."""
    with torch.no_grad():
        frozen = copy.deepcopy(latents)
    for module in frozen.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                module._buffers[name] = parameter.detach().clone()
    if not any(buffer.is_meta for buffer in frozen.buffers()):
        for _, part in walk(frozen):
            part._restart()  # `reset_parameters` comes back to where it is now
    return frozen
