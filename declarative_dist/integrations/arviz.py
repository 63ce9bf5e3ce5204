"""ArviZ: draws in its format, with what a model says of data beside them.

ArviZ comes with the extra `diagnose`; it is imported when a function here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from declarative_dist.errors import (
    ConstraintError,
    DeclarationError,
    check_count,
    did_you_mean,
    shorten,
)
from declarative_dist.fields.walk import join
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.latents.flat_params import trainable
from declarative_dist.latents.named import Values
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.objectives.posterior import NegativeLogPosterior
from declarative_dist.plain.batch import split_keywords
from declarative_dist.plain.tensors import as_tensor
from declarative_dist.posteriors.diagnosis import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose", "to_inference_data"]

Dims = Mapping[str, Sequence[str | None]]
"""By variable the names of its last dimensions, None for those without."""


def to_inference_data(
    draws: Any,
    num_samples: int | None = None,
    *,
    num_chains: int = 1,
    has_chains: bool = False,
    model: Conditioned | NegativeLogPosterior | None = None,
    data: Any = (),
    dims: Dims | None = None,
) -> Any:
    """Draws as ArviZ InferenceData, for its tables, plots, checks and comparisons.

    Sizes that shapes name are the dimensions: a field of `shape=("school",)` has the dimension
    `school`. Independent copies are dimensions in front of these. `assign_coords` of what you get
    labels their entries.

    With a conditioned joint as the `model`, its data, what it predicts in their place, what it
    predicted before it saw them, and the log likelihood of each datum are groups beside the
    posterior. With a `NegativeLogPosterior` and its `data`, the log likelihood and the data are,
    under the name `data`; groups of draws are not, as it scores data and cannot draw any.

    Args:
        draws: a guide to draw from, `WeightedDraws` to resample, or a dict of draws by site, of
            shape `(draw, *event)`.
        num_samples: how many draws to make in each chain; None for 1000 of a guide, and in all
            for as many as weighted ones are.
        num_chains: in how many chains, for comparison with a sampler's.
        has_chains: whether a dict's draws have shape `(chain, draw, *event)`.
        model: whose draws these are.
        data: what the `forward` of a `NegativeLogPosterior` takes: one argument, or a tuple.
        dims: by variable the names of its last dimensions, where no shape names them.

    Returns:
        An `arviz.InferenceData` whose group `posterior` has dimensions `(chain, draw, *event)`.

    Raises:
        ImportError: without ArviZ: `pip install "declarative-dist[diagnose]"`.
        DeclarationError: for a model of another kind.
        ConstraintError: for draws that have no such shape, or do not go with the model; and for
            names that mean nothing, or two things.

    Example:
        >>> from declarative_dist import Declarative, MeanFieldNormal, Param, Positive
        >>> from declarative_dist.integrations.arviz import to_inference_data
        >>> class Latents(Declarative):
        ...     scale = Param([1.0, 2.0], Positive(), shape=("group",))
        >>> data = to_inference_data(MeanFieldNormal(Latents()), 50)
        >>> dict(data.posterior["scale"].sizes)
        {'chain': 1, 'draw': 50, 'group': 2}
        >>> labelled = data.assign_coords(group=["a", "b"])
        >>> labelled.posterior["scale"].sel(group="b").shape
        (1, 50)
    """
    try:
        arviz = importlib.import_module("arviz")
    except ImportError as error:
        fix = 'pip install "declarative-dist[diagnose]"'
        raise ImportError(f"ArviZ is needed here: {fix}") from error
    values = _draw(draws, num_samples, num_chains, has_chains)
    names = dict(getattr(getattr(draws, "flat", draws), "dims", {}))
    wholes: dict[str, torch.Size] = {}
    if isinstance(model, Conditioned):
        wholes = {name: value.shape for name, (_, value) in model.one_draw().items()}
        names = {**model.dims, **names}
    elif isinstance(model, NegativeLogPosterior):
        known = {join(path, f.name): f.dims(p) for path, p, f, _ in trainable(model.module)}
        names = {**known, **names}
    elif model is not None:
        expected = "a conditioned joint, joint.condition(y=data), or a NegativeLogPosterior"
        raise DeclarationError("to_inference_data(model=)", expected, shorten(model))
    # A model is asked about its own sites, not about what is derived of them.
    latent = {name: value for name, value in values.items() if name in (wholes or names)}
    found = {"posterior": values, **(_ask(model, latent, data) if model else {})}
    arrays = {g: {n: _as_array(v) for n, v in each.items()} for g, each in found.items() if each}
    labels = _name_dims(arrays, names, wholes, dims or {})
    datasets = {}
    for group, each in arrays.items():
        lead = [] if group == "observed_data" else ["chain", "draw"]
        datasets[group] = arviz.dict_to_dataset(each, dims=labels[group], default_dims=lead)
    return arviz.InferenceData(**datasets)


def _draw(draws: Any, num_samples: int | None, num_chains: int, has_chains: bool) -> Values:
    """Draws by variable, of shape `(chain, draw, *event)`."""
    chains = check_count("to_inference_data(num_chains=)", num_chains)
    if num_samples is None:
        num_samples = max(len(draws) // chains, 1) if isinstance(draws, WeightedDraws) else 1000
    lead = (chains, check_count("to_inference_data(num_samples=)", num_samples))
    if isinstance(draws, WeightedDraws):
        equal = draws.resample(torch.Size(lead).numel())
        return {name: value.unflatten(0, lead) for name, value in equal.items()}
    if not isinstance(draws, Mapping):
        made: Any = draws.sample(lead) if hasattr(draws, "sample") else None
        if not isinstance(made, dict):
            expected = "a guide, weighted draws, or a dict of draws by site"
            raise DeclarationError("to_inference_data(draws)", expected, shorten(draws))
        return made
    own: Any = slice(None) if has_chains else None
    found = {str(name): as_tensor(value)[own] for name, value in draws.items()}
    for name, tensor in found.items():
        if tensor.ndim < 2 or tensor.shape[:2] != next(iter(found.values())).shape[:2]:
            subject = f"to_inference_data.{name}"
            expected = f"shape ({'chain, ' * has_chains}draw, *event), as every site has"
            raise ConstraintError(subject, expected, shorten(tensor), code="wrong-shape")
    return found


def _ask(model: Any, draws: Values, data: Any) -> dict[str, Any]:
    """What a model adds to draws of its sites or parameters, by group."""
    batch, keywords = split_keywords(data if isinstance(data, tuple) else (data,))
    found: dict[str, Any] = {}
    if isinstance(model, Conditioned):
        observed: Any = model.observed
        predicted = model.predict(draws)
        found["posterior_predictive"] = {n: v for n, v in predicted.items() if n in observed}
        prior = model.current().sample(next(iter(draws.values())).shape[:2])
        found["prior"] = {n: v for n, v in prior.items() if n not in observed}
        found["prior_predictive"] = {n: v for n, v in prior.items() if n in observed}
    else:
        observed = batch[-1] if batch else {}
        observed = observed if isinstance(observed, Mapping) else {"data": observed}
    scores = model.log_lik(draws, *batch, **keywords)
    scores = scores if isinstance(scores, Mapping) else {"data": scores}
    found["log_likelihood"] = {n: v.double() for n, v in scores.items()}
    return {**found, "observed_data": observed}


def _name_dims(
    arrays: Mapping[str, Any], names: Dims, wholes: Mapping[str, torch.Size], own: Dims
) -> dict[str, dict[str, list[str]]]:
    """The names of dimensions by group and variable, behind chains and draws.

    Each means one size, or ArviZ would fill up with NaN, and no variable.

    Args:
        arrays: what to name the dimensions of, by group and variable.
        names: those that shapes say, for last dimensions, where they can be such names.
        wholes: the shapes of whole values; log likelihoods have their first dimensions.
        own: those that you give in their place.
    """
    known = {name for values in arrays.values() for name in values}
    for name in own.keys() - known:
        fix = did_you_mean(str(name), sorted(known))
        subject = "to_inference_data(dims=)"
        raise ConstraintError(subject, "known names", repr(name), fix, code="unknown-name")
    sizes = dict.fromkeys(["chain", "draw", *known], -1)
    labels: dict[str, dict[str, list[str]]] = {group: {} for group in arrays}
    for group, values in arrays.items():
        for name, array in values.items():
            shape = array.shape if group == "observed_data" else array.shape[2:]
            whole = wholes.get(name, shape) if group == "log_likelihood" else shape
            last = [*own.get(name, names.get(name, ()))]
            places: list[Any] = [None] * (len(whole) - len(last)) + last
            found: list[str] = []
            for label, size in zip(places, whole, strict=False):
                is_clear = label not in (None, *found) and sizes.setdefault(label, size) == size
                found.append(str(label) if is_clear else f"{name}_dim_{len(found)}")
            if (name in own and not {None, *found}.issuperset(last)) or len(last) > len(whole):
                expected = f"{len(whole)} names or fewer for {name}, of one size and no variable"
                subject = "to_inference_data(dims=)"
                raise ConstraintError(subject, expected, repr(last), code="name-taken")
            labels[group][name] = found[: len(shape)]
    return labels


def _as_array(value: Any) -> Any:
    tensor = as_tensor(value).detach().cpu().contiguous()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
