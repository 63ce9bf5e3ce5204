"""Pictures beside stored ones, within a tolerance; `python -m tests.test_pictures` stores them.

The stored ones were looked at by eye. What the axes hold is compared with torch elsewhere; here it
is how they look: colours, styles, labels, legends, the choice of ranges.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
import torch.distributions as dd
from PIL import Image
from torch import Tensor, tensor

from declarative_dist import Declarative, Joint, MeanFieldNormal, Param, Positive, plot, site
from declarative_dist.fitting import History

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

FOLDER = Path(__file__).parent / "pictures"

DIFFERENCE = 5.0
"""The most that two pictures may differ, as a root mean square of numbers up to 255."""


class Schools(Joint):
    mu = dd.Normal(0.0, 5.0)
    tau = dd.HalfCauchy(5.0)

    @site(event_dim=1)
    def theta(self, mu: Tensor, tau: Tensor) -> dd.Distribution:
        return dd.Normal(mu[..., None].expand(*mu.shape, 3), tau[..., None])

    @site
    def large(self, tau: Tensor) -> dd.Distribution:
        return dd.Bernoulli((tau / 10).clamp(0.01, 0.99))


class Latents(Declarative):
    rate = Param(2.0, Positive())
    place = Param([0.0, 1.0])


def history() -> History:
    record = History()
    for step in range(40):
        size = 0.9**step
        record.add(size, {"loc": [1 - size, 2 * size], "scale": 0.5 + size})
    return record


CORRELATED = dd.MultivariateNormal(torch.zeros(2), tensor([[1.0, 0.8], [0.8, 1.0]]))

PICTURES: dict[str, Callable[[], Any]] = {
    "density": lambda: plot(dd.Gamma(2.0, 3.0)),
    "target": lambda: plot(dd.Gamma(2.0, 3.0), against=dd.Gamma(5.0, 5.0)),
    "copies": lambda: plot(dd.Normal(torch.arange(10.0), 1.0)),
    "heavy": lambda: plot(dd.Cauchy(0.0, 1.0)),
    "edges": lambda: plot(dd.Beta(0.5, 0.5)),
    "bars": lambda: plot(dd.Poisson(3.0), against=dd.Binomial(6, 0.5)),
    "contours": lambda: plot(CORRELATED, against=dd.Independent(dd.Normal(torch.ones(2), 0.5), 1)),
    "entries": lambda: plot(dd.Dirichlet(tensor([1.0, 2.0, 3.0]))),
    "joint": lambda: plot(Schools()),
    "guide": lambda: plot(
        MeanFieldNormal(Latents(), init_scale=0.5), against=MeanFieldNormal(Latents())
    ),
    "point": lambda: plot(dd.LKJCholesky(2, 1.0)),
    "history": lambda: plot(history()),
}


def drawn(make: Callable[[], Any]) -> np.ndarray[Any, Any]:
    """A picture as colours, in matplotlib's own style and font."""
    style = {"font.family": "DejaVu Sans", "figure.dpi": 50, "savefig.dpi": 50}
    with mpl.style.context(["default", style]):
        axes = make()
        figure = (axes[0] if isinstance(axes, tuple) else axes).figure
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
        plt.close(figure)
    return colours(file)


def colours(file: Any) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(file).convert("RGB"), dtype=float)


def difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float(np.sqrt(((one - other) ** 2).mean()))


@pytest.mark.parametrize("name", PICTURES)
def test_it_looks_as_it_did(name: str) -> None:
    assert difference(drawn(PICTURES[name]), colours(FOLDER / f"{name}.png")) < DIFFERENCE


def test_every_stored_picture_is_compared() -> None:
    assert {path.stem for path in FOLDER.glob("*.png")} == set(PICTURES)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.png")) < 200_000


def with_label(axes: Any, label: str) -> Any:
    axes.set_xlabel(label)
    return axes


def without_legend(axes: Any) -> Any:
    (axes[0] if isinstance(axes, tuple) else axes).figure.axes[-1].get_legend().remove()
    return axes


CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "another density": ("density", lambda: plot(dd.Gamma(2.0, 2.5))),
    "another label": ("density", lambda: with_label(PICTURES["density"](), "x")),
    "no legend of a target": ("target", lambda: without_legend(PICTURES["target"]())),
    "no legend of a history": ("history", lambda: without_legend(PICTURES["history"]())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_small_changes_are_noticed(change: str) -> None:
    name, make = CHANGES[change]
    assert difference(drawn(make), colours(FOLDER / f"{name}.png")) > DIFFERENCE


def test_lines_of_one_style_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("declarative_dist.display.looks.STYLES", ("-",) * 4)
    picture = drawn(PICTURES["target"])
    assert difference(picture, colours(FOLDER / "target.png")) > DIFFERENCE


if __name__ == "__main__":
    for each in PICTURES:
        Image.fromarray(drawn(PICTURES[each]).astype("uint8")).quantize(64).save(
            FOLDER / f"{each}.png", optimize=True
        )
