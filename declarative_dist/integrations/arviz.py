"""ArviZ: draws in its format, with what a model says of data beside them.

ArviZ comes with the extra `diagnose`; it is imported when a function here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    did_you_mean,
    shorten,
)
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.latents.flat_params import join, trainable
from declarative_dist.latents.named import Values
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.objectives.posterior import NegativeLogPosterior
from declarative_dist.plain.batch import call_with, split_keywords
from declarative_dist.posteriors.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose", "to_inference_data"]

GROUPS = (
    "posterior_predictive", "log_likelihood", "prior", "prior_predictive", "observed_data",
)  # fmt: skip
"""What a model adds to the posterior."""

_DIMS = "to_inference_data(dims=)"
Dims = Mapping[str, Sequence[str | None]]
"""By variable the names of its last dimensions, None for those without."""

Arrays = Mapping[str, Mapping[str, Any]]
"""By group and variable an array."""


def _arviz() -> Any:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise ImportError(
            'ArviZ is needed here: pip install "declarative-dist[diagnose]"'
        ) from error


def to_inference_data(
    draws: Any,
    num_samples: int | None = None,
    *,
    num_chains: int = 1,
    has_chains: bool = False,
    model: Conditioned | NegativeLogPosterior | None = None,
    data: Any = (),
    groups: Collection[str] = GROUPS,
    dims: Dims | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """Draws as ArviZ InferenceData, for its tables, plots, checks and comparisons.

    Sizes that shapes name are the dimensions: a field of `shape=("school",)` has the dimension
    `school`. Independent copies are dimensions in front of these.

    With a conditioned joint as the `model`, its data, what it predicts in their place, what it
    predicted before it saw them, and the log likelihood of each datum are groups beside the
    posterior. With a `NegativeLogPosterior` and its `data`, the log likelihood and the data are,
    under the name `data`.

    Args:
        draws: a guide to draw from, `WeightedDraws` to resample, or a dict of draws by site, of
            shape `(draw, *event)`.
        num_samples: how many draws to make in each chain; None for 1000 of a guide, and in all
            for as many as weighted ones are.
        num_chains: in how many chains, for comparison with a sampler's.
        has_chains: whether a dict's draws have shape `(chain, draw, *event)`.
        model: whose draws these are.
        data: what the `forward` of a `NegativeLogPosterior` takes: one argument, or a tuple.
        groups: which of `GROUPS` to add.
        dims: by variable the names of its last dimensions, where no shape names them.
        coords: by dimension the labels of its entries, in place of 0, 1, 2 and so on.

    Returns:
        An `arviz.InferenceData` whose group `posterior` has dimensions `(chain, draw, *event)`.

    Raises:
        ImportError: without ArviZ: `pip install "declarative-dist[diagnose]"`.
        DeclarationError: for a model of another kind.
        ConstraintError: for draws that have no such shape, or do not go with the model; and for
            names and labels that do not fit.

    Example:
        >>> from declarative_dist import Declarative, MeanFieldNormal, Param, Positive
        >>> from declarative_dist.integrations.arviz import to_inference_data
        >>> class Latents(Declarative):
        ...     scale = Param([1.0, 2.0], Positive(), shape=("group",))
        >>> data = to_inference_data(MeanFieldNormal(Latents()), 50, coords={"group": ["a", "b"]})
        >>> dict(data.posterior["scale"].sizes)
        {'chain': 1, 'draw': 50, 'group': 2}
    """
    arviz = _arviz()
    unknown = next((group for group in groups if group not in GROUPS), None)
    if unknown is not None:
        subject, fix = "to_inference_data(groups=)", did_you_mean(str(unknown), GROUPS)
        raise ConstraintError(subject, "names of groups", repr(unknown), fix, code="unknown-name")
    values = _draw(draws, num_samples, num_chains, has_chains)
    found: dict[str, Mapping[str, Any]] = {"posterior": values}
    names = dict(getattr(getattr(draws, "flat", draws), "dims", {}))
    wholes: dict[str, int] = {}
    if isinstance(model, Conditioned):
        found |= _of_joint(model, values, groups)
        names = {**model.dims, **names}
        wholes = {name: value.ndim for name, (_, value) in model.one_draw().items()}
    elif isinstance(model, NegativeLogPosterior):
        fields = {join(path, f.name): f.dims(p) for path, p, f, _ in trainable(model.module)}
        latent = {name: value for name, value in values.items() if name in fields}
        found |= _of_data(model, latent, data, groups)
        names = {**fields, **names}
    elif model is not None:
        expected = "a conditioned joint, or a NegativeLogPosterior"
        fix = "Write joint.condition(y=data)."
        raise DeclarationError("to_inference_data(model=)", expected, shorten(model), fix)
    arrays = {g: {n: _as_array(v) for n, v in each.items()} for g, each in found.items() if each}
    labels = _name_dims(arrays, names, wholes, dims or {})
    _check_coords(coords or {}, arrays, labels)
    return arviz.InferenceData(**{
        group: arviz.dict_to_dataset(
            each, dims=labels[group], coords=dict(coords or {}),
            default_dims=["chain", "draw"][: _lead_of(group)],
        )
        for group, each in arrays.items()
    })  # fmt: skip


def _draw(draws: Any, num_samples: int | None, num_chains: int, has_chains: bool) -> Values:
    """Draws by variable, of shape `(chain, draw, *event)`."""
    if not isinstance(draws, Mapping):
        if not hasattr(draws, "sample") and not isinstance(draws, WeightedDraws):
            expected = "a guide, weighted draws, or a dict of draws by site"
            raise DeclarationError("to_inference_data(draws)", expected, shorten(draws))
        check_count("to_inference_data(num_chains=)", num_chains)
        if num_samples is None:
            is_made = not isinstance(draws, WeightedDraws)
            num_samples = 1000 if is_made else max(len(draws) // num_chains, 1)
        check_count("to_inference_data(num_samples=)", num_samples)
        lead, has_chains = (num_chains, num_samples), True
        if isinstance(draws, WeightedDraws):
            equal = draws.resample(num_chains * num_samples)
            draws = {name: value.unflatten(0, lead) for name, value in equal.items()}
        else:
            draws = draws.sample(lead)
            draws = draws if isinstance(draws, Mapping) else {"x": draws}
    tensors = {str(name): torch.as_tensor(value) for name, value in draws.items()}
    ndim = 2 if has_chains else 1
    counts = next(iter(tensors.values())).shape[:ndim] if tensors else torch.Size()
    for name, tensor in tensors.items():
        if tensor.ndim < ndim or tensor.shape[:ndim] != counts:
            shape = "(chain, draw, *event)" if has_chains else "(draw, *event)"
            expected = f"shape {shape}, with as many draws as every site"
            subject = f"to_inference_data.{name}"
            raise ConstraintError(subject, expected, shorten(tensor), code="wrong-shape")
    return {name: tensor if has_chains else tensor[None] for name, tensor in tensors.items()}


def _of_joint(
    model: Conditioned, draws: Values, groups: Collection[str]
) -> dict[str, Mapping[str, Tensor]]:
    """What a conditioned joint adds to draws of its sites, by group."""
    observed, current = model.observed, model.current()
    latent = {name: draws[name] for name in current.sites if name in draws}  # others are derived
    found: dict[str, Mapping[str, Tensor]] = {}
    if "posterior_predictive" in groups:
        predicted = model.predict(latent)
        found["posterior_predictive"] = {n: v for n, v in predicted.items() if n in observed}
    if "log_likelihood" in groups:
        found["log_likelihood"] = {n: v.double() for n, v in model.log_lik(latent).items()}
    if "prior" in groups or "prior_predictive" in groups:
        prior = current.sample(next(iter(draws.values())).shape[:2])
        if "prior" in groups:
            found["prior"] = {n: v for n, v in prior.items() if n not in observed}
        if "prior_predictive" in groups:
            found["prior_predictive"] = {n: v for n, v in prior.items() if n in observed}
    if "observed_data" in groups:
        found["observed_data"] = observed
    return found


def _of_data(
    model: NegativeLogPosterior, draws: Values, data: Any, groups: Collection[str]
) -> dict[str, Mapping[str, Any]]:
    """What a posterior of data adds to draws of its parameters, by group."""
    batch = data if isinstance(data, tuple) else (data,)
    found: dict[str, Mapping[str, Any]] = {}
    if "log_likelihood" in groups:
        scores: Tensor = call_with(partial(model.log_lik, draws), batch)
        found["log_likelihood"] = {"data": scores.double()}
    last = split_keywords(batch)[0][-1:]
    if "observed_data" in groups and last and not callable(last[0]):
        found["observed_data"] = last[0] if isinstance(last[0], Mapping) else {"data": last[0]}
    return found


def _name_dims(
    arrays: Arrays, names: Dims, wholes: Mapping[str, int], own: Dims
) -> dict[str, dict[str, list[str]]]:
    """The names of dimensions by group and variable, behind those of chains and draws.

    Args:
        arrays: what to name the dimensions of.
        names: those that shapes say, for last dimensions. A name that cannot be a dimension's,
            such as that of two sizes, is passed over.
        wholes: how many dimensions whole values have, of which log likelihoods have the first.
        own: those that you give in their place, which must fit.

    Raises:
        ConstraintError: for an unknown variable, too many names, and names that mean two things.
    """
    every = {name for values in arrays.values() for name in values}
    for name in own:
        if name not in every:
            expected, fix = "the name of a variable", did_you_mean(name, every)
            raise ConstraintError(_DIMS, expected, repr(name), fix, code="unknown-name")
    sizes: dict[str | None, set[int]] = {n: {-1, -2} for n in (None, "chain", "draw", *every)}
    labels: dict[str, dict[str, list[str | None]]] = {}
    for group, values in arrays.items():
        labels[group] = {}
        for name, array in values.items():
            shape = array.shape[_lead_of(group) :]
            whole = wholes.get(name, 0) if group == "log_likelihood" else 0
            last = list(own.get(name, names.get(name, ())))
            missing = max(whole, len(shape)) - len(last)
            if missing < 0:
                expected = f"{len(shape)} names or fewer for {name}, of shape {tuple(shape)}"
                raise ConstraintError(_DIMS, expected, repr(last), code="wrong-shape")
            found: list[str | None] = []
            for label, size in zip([*[None] * missing, *last], shape, strict=False):
                found.append(None if label in found else label)
                sizes.setdefault(label, set()).add(size)
            labels[group][name] = found
    unclear = {label for label, known in sizes.items() if len(known) > 1}
    for name, given in own.items():
        for label in given:
            if label is None or (label not in unclear and list(given).count(label) == 1):
                continue
            expected, got = "names that each mean one size, and no variable", f"{label!r}"
            raise ConstraintError(_DIMS, expected, f"{got} of {name}", code="name-taken")
    return {
        group: {
            name: [f"{name}_dim_{i}" if n in unclear else str(n) for i, n in enumerate(found)]
            for name, found in values.items()
        }
        for group, values in labels.items()
    }


def _lead_of(group: str) -> int:
    """How many dimensions an array has for chains and draws."""
    return 0 if group == "observed_data" else 2


def _check_coords(
    coords: Mapping[str, Sequence[Any]],
    arrays: Arrays,
    labels: Mapping[str, Mapping[str, list[str]]],
) -> None:
    """Refuse labels of unknown dimensions, and more or fewer of them than there are entries."""
    sizes: dict[str, int] = {}
    for group, values in arrays.items():
        for name, array in values.items():
            sizes |= zip(labels[group][name], array.shape[_lead_of(group) :], strict=True)
    for name, entries in coords.items():
        subject = f"to_inference_data(coords=).{name}"
        if name not in sizes:
            expected, fix = "the name of a dimension", did_you_mean(name, sizes)
            raise ConstraintError(subject, expected, repr(name), fix, code="unknown-name")
        if len(entries) != sizes[name]:
            expected, got = f"{sizes[name]} labels", f"{len(entries)}"
            raise ConstraintError(subject, expected, got, code="wrong-shape")


def _as_array(value: Any) -> Any:
    tensor = torch.as_tensor(value).detach().cpu()
    is_half = tensor.dtype in (torch.bfloat16, torch.float16)
    return (tensor.float() if is_half else tensor).contiguous().numpy()
