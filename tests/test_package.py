"""What users of the package see: imports, the wheel and the commands."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch.distributions as dd

import declarative_dist
from declarative_dist import learnable
from tests.cases import Mixture
from tests.commands import python


def test_every_public_name_exists() -> None:
    assert sorted(declarative_dist.__all__) == declarative_dist.__all__
    assert all(hasattr(declarative_dist, name) for name in declarative_dist.__all__)
    assert set(declarative_dist.__all__) <= set(dir(declarative_dist))  # what completion offers


def test_a_fresh_process(tmp_path: Path) -> None:
    """Importing changes nothing in torch and needs no extra and no new family.

    Live objects come out of a pickle, and compile without a flag.
    """
    code = """
import sys, torch
from torch import distributions as dd
from torch.distributions import Distribution, constraint_registry, kl
del dd.GeneralizedPareto  # which older versions of torch lack
before = (Distribution._validate_args, torch.get_default_dtype(),
          dict(constraint_registry.biject_to._registry), set(kl._KL_REGISTRY))
modules = set(sys.modules)
import declarative_dist
after = (Distribution._validate_args, torch.get_default_dtype(),
         dict(constraint_registry.biject_to._registry), set(kl._KL_REGISTRY))
assert before[:2] == after[:2]
assert all(each.__module__.startswith("declarative_dist") for each in after[2].keys() - before[2])
assert all(after[2][each] is map for each, map in before[2].items())
ours = (declarative_dist.Variational, declarative_dist.wrappers.Truncated)
assert all(any(kind in ours for kind in pair) for pair in after[3] - before[3])
new = {name.partition(".")[0] for name in set(sys.modules) - modules}
extras = {
    "numpy", "scipy", "sklearn", "safetensors", "tqdm", "matplotlib", "pyro", "arviz", "lightning",
    "geotorch", "tensordict", "torchrl", "zuko"
}
print(sorted(new & extras))
import declarative_dist.objectives
print(declarative_dist.median(dd.Exponential(1.0)).item() > 0.69)
class Latents(declarative_dist.Declarative):
    x = declarative_dist.Param(0.0)
declarative_dist.diagnose(declarative_dist.MeanFieldNormal(Latents()), lambda v: -v["x"].square())
print(sorted({"arviz", "numba", "scipy"} & set(sys.modules)))
import pickle, warnings
warnings.simplefilter("ignore")
for q in pickle.load(open(sys.argv[1], "rb")):
    x = q.sample((4,))
    expected = q.log_prob(x).mean()
    value = torch.compile(lambda x: q.log_prob(x).mean(), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(value, expected)
    print(type(q).__name__)
"""
    objects = (learnable(dd.Gamma(2.0, 3.0)), Mixture(k=3))
    (tmp_path / "objects").write_bytes(pickle.dumps(objects))
    printed = python("-W", "error", "-c", code, tmp_path / "objects").split()
    assert printed == ["[]", "True", "[]", "LiveGamma", "Mixture"]
