"""The state of declared modules: saved, loaded and moved, all of it or none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from declarative_dist.declaration.record import Declaration
from declarative_dist.errors import ConstraintError, FieldError, StateMismatchError, shorten
from declarative_dist.families.probe import check_copies
from declarative_dist.fields.field import Stored, needed_values
from declarative_dist.fields.sharding import is_shard
from declarative_dist.fields.storage import check_shape, find_tensor, to_tensor
from declarative_dist.fields.walk import walk
from declarative_dist.plain.restoring import restoring
from declarative_dist.plain.tensors import is_dense, is_floating
from declarative_dist.plain.tracing import is_traced


class AtomicState(nn.Module):
    """A module that loads a state as a whole, or not at all."""

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state as `nn.Module` does; if anything is refused, nothing has changed.

        Args:
            state_dict: the state.
            strict: whether it must have exactly the names that this module has.
            assign: whether its tensors take the place of the module's own.

        Raises:
            StateMismatchError: if it was saved under other constraints or counts.
            ConstraintError: for a number that its field refuses.
            RuntimeError: for names or shapes that do not fit, as torch says.
        """
        with restoring(self):
            return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any
    ) -> None:
        for name, now in self._tensors_to_check():
            loaded = state_dict.get(f"{prefix}{name}")
            if isinstance(loaded, Tensor) and is_floating(now):
                subject = f"{type(self).__name__}.{name}"
                _check_real(loaded, subject)
                if not (is_traced(loaded) or is_shard(loaded)):
                    self._check_numbers(name, loaded, now, subject)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)

    def _tensors_to_check(self) -> Iterator[tuple[str, Any]]:
        """The tensors of which a state is checked number by number, by name."""
        return _tensors_of(self)

    def _check_numbers(self, name: str, loaded: Tensor, now: Tensor, subject: str) -> None:
        """Refuse NaN in a state, unless it stands for what is not known yet here too."""
        if loaded.isnan().any() and not (now.is_meta or now.isnan().any()):
            expected, fix = "numbers, and no NaN", "Nothing changed."
            raise ConstraintError(subject, expected, shorten(loaded), fix, code="not-finite")


def _check_real(loaded: Tensor, subject: str) -> None:
    """Refuse a tensor of a state in the place of one with real numbers."""
    if not is_dense(loaded) or loaded.is_complex():
        expected, fix = "real numbers in a dense tensor", "Nothing changed."
        raise ConstraintError(subject, expected, shorten(loaded), fix, code="wrong-argument")


def _tensors_of(module: nn.Module, path: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of a module, and of all in it that does not check its own state."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        yield f"{path}{name}", tensor
    for name, part in module._modules.items():
        if part is not None and not isinstance(part, AtomicState):
            yield from _tensors_of(part, f"{path}{name}.")


class DeclaredState(AtomicState):
    """A module whose saved states say what they mean, and are checked when they are loaded.

    A state that was saved under another constraint, or that holds a number which its field
    refuses, is not loaded. Loading with `assign=True` makes the state's tensors the module's own,
    also of constants.
    """

    __declaration__: ClassVar[Declaration]
    _is_loading: bool

    def _tensors_to_check(self) -> Iterator[tuple[str, Any]]:
        by_fields = {field.stored_name for field in self.__declaration__.stored}
        return ((name, t) for name, t in super()._tensors_to_check() if name not in by_fields)

    def _signatures(self) -> dict[str, str]:
        """By field what a saved state must agree on: constraints, number bounds, counts."""
        signatures = {
            name: field.signature(self) for name, field in self.__declaration__.fields.items()
        }
        return {name: written for name, written in signatures.items() if written is not None}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            metadata.setdefault(prefix[:-1], {})["constraints"] = self._signatures()

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *others: Any
    ) -> None:
        saved = local_metadata.get("constraints", {})
        for name, mine in self._signatures().items():
            if saved.get(name, mine) != mine:
                subject, expected = f"{type(self).__name__}.{name}", f"a state saved under {mine}"
                got = f"one saved under {saved[name]}"
                fix = "Load it into the class that saved it and carry the values over: "
                fix += "new.assign(**old.constrained_values())."
                if name == "heads (in order)":  # of one layer
                    fix = "Declare the heads in that order, or take the saved layer apart by head."
                raise StateMismatchError(subject, expected, got, fix)
        declaration = self.__declaration__
        is_assigned = local_metadata.get("assign_to_params_buffers")
        exact = []  # constants at their start, which has digits that another dtype has lost
        for field in declaration.stored:
            tensor = state_dict.get(f"{prefix}{field.stored_name}")
            now = find_tensor(self, field.stored_name)
            if isinstance(tensor, Tensor) and now is not None:
                if is_floating(now):
                    _check_real(tensor, field.subject(self))
                is_changed = tensor.dtype != now.dtype and not is_assigned
                if is_changed and not (is_traced(tensor) or is_shard(tensor)):
                    if not field.is_learned and field.is_at_start(self, tensor):
                        exact.append(field)
                    tensor = to_tensor(tensor, field.subject(self), now.dtype)
                field.check_stored(self, tensor)
        is_all = declaration.tied_names and not self._modules  # nothing of it is loaded later
        with restoring(self, recurse=False) if is_all else nullcontext():
            vars(self)["_is_loading"] = True
            try:
                super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)
            finally:
                vars(self).pop("_is_loading", None)  # another thread may load it too
            for field in exact:
                field.reset(self, {})
            if is_all:
                self._check_ties()
        # Torch calls it once the parts and bounds are loaded too.
        if _check_loaded not in self._load_state_dict_post_hooks.values():
            self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        exact = []  # at their start, which has digits that this dtype has lost
        for _, part in walk(self) if recurse else (("", self),):
            declaration = part.__declaration__  # checked before anything has moved
            for head in declaration.heads:
                head.check_dtype(part, fn(torch.empty(0, dtype=head.place_of(part)[0])).dtype)
            for field in declaration.stored:
                now = find_tensor(part, field.stored_name)
                if now is not None and fn(now.new_empty(0)).dtype != now.dtype:
                    field.check_stored(part, fn(now.detach()), now.detach())
                    if field.is_at_start(part):
                        exact.append((part, field))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for part, field in exact:
            field.commit(part, field.rebuild(part, needed_values(part, field.name)))
        return self

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer as `nn.Module` does; one that is a field is checked first."""
        self._check_free(name, self._buffers)
        field = self.__declaration__.fields.get(name)
        if isinstance(field, Stored) and isinstance(tensor, Tensor):
            field.check_stored(self, tensor)
            now = find_tensor(self, name)
            check_shape(tensor, tensor.shape if now is None else now.shape, field.subject(self))
        super().register_buffer(name, tensor, persistent)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter as `nn.Module` does, under a name that is no field's."""
        self._check_free(name, self._parameters)
        super().register_parameter(name, param)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Register a module as `nn.Module` does; in the place of a part it is assigned."""
        if name not in self.__declaration__.fields:
            super().add_module(name, module)
        else:
            setattr(self, name, module)

    def _check_free(self, name: str, held: Mapping[str, Any]) -> None:
        """Refuse to register a tensor under the name of a field, which would not read it."""
        field = self.__declaration__.fields.get(name)
        if field is not None and name not in held and hasattr(self, name):
            expected, fix = "a value by assignment", f"Write q.{name} = value."
            got = "a tensor to register under this name"
            raise FieldError(field.subject(self), expected, got, fix, code="no-assignment")

    def _check_ties(self) -> None:
        """Refuse values that each field takes, but that do not go together."""
        declaration = self.__declaration__
        with torch.no_grad():
            for field in declaration.bounded:
                field.check_room(self, needed_values(self, field.name))
            if declaration.is_tied:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch warns of samples that may be poor
                    self._check_build(declaration.run(self, declaration.build))
        if declaration.has_methods and "_is_whole" in vars(self):
            self._check_mixing()

    def _check_mixing(self) -> None:
        """Refuse methods that mix copies, contexts or draws."""
        check_copies(self)

    def _check_whole(self) -> None:
        """Refuse an instance that mixes its copies, once its `__init__` is through."""
        self._check_mixing()

    def _check_build(self, values: dict[str, Any]) -> None:
        """A chance to refuse values that do not go together."""


def _check_loaded(module: Any, keys: object) -> None:
    """Refuse a loaded state by its bounds and dtypes, and by what others have made of it."""
    is_changed = "parametrizations" in module._modules or module._load_state_dict_pre_hooks
    for field in module.__declaration__.stored:
        tensor = find_tensor(module, field.stored_name) if is_changed else None
        if tensor is not None:
            field.check_stored(module, tensor.detach())
    for field in module.__declaration__.order:  # where the state has brought dtypes or bounds
        if field.is_predicted or field.is_given or getattr(field, "owns_constraint", False):
            field.check_dtype(module, field.place_of(module)[0])
    module._check_ties()
