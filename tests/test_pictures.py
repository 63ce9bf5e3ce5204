"""Pictures beside stored ones, within a tolerance; `python -m tests.test_pictures` stores them.

The stored ones were looked at by eye. What the axes hold is compared with torch elsewhere; here it
is how they look: colours, styles, labels, legends, the choice of ranges.
"""

from __future__ import annotations

import io
import itertools
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
from docs.extensions.outputs import darken

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

FOLDER = Path(__file__).parent / "pictures"

DIFFERENCE = 4.0
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
        assert_texts_apart(figure)
        plt.close(figure)
    return colours(file)


def colours(file: Any) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(file).convert("RGB"), dtype=float)


def crowded() -> History:
    """Noise, decades, symmetric matrices, and many paths that end at one place."""
    record, noise = History(), torch.rand(200, generator=torch.Generator().manual_seed(0))
    for step in range(200):
        cov = [[1.0, step / 400], [step / 400, 2.0]]
        values = {"cov": cov, "w": [float(step)] * 9, "scale": 30 - 0.05 * step}
        record.add(1e4 * 0.9**step + 3 + noise[step].item(), values)
    return record


class ANameOfAClassThatIsLong(Schools):
    pass


def assert_texts_apart(figure: Any) -> None:
    """No text is cut off, or written over another."""
    whole = figure.bbox
    texts = [
        each for each in figure.findobj(mpl.text.Text) if each.get_text() and each.get_visible()
    ]
    boxes = {each: each.get_window_extent() for each in texts}
    boxes = {each: box for each, box in boxes.items() if box.width and box.height}
    ticks = {
        label
        for one in figure.axes
        for axis in (one.xaxis, one.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not axis.get_view_interval()[0] <= tick.get_loc() <= axis.get_view_interval()[1]
    }  # which are not drawn
    shown = [(each.get_text(), box) for each, box in boxes.items() if each not in ticks]
    assert len(shown) > 5
    for text, box in shown:
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1, text  # noqa: PT018
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1, text  # noqa: PT018
    for (text, box), (other, its) in itertools.combinations(shown, 2):
        wide = min(box.x1, its.x1) - max(box.x0, its.x0)
        high = min(box.y1, its.y1) - max(box.y0, its.y0)
        assert wide < 1 or high < 1, (text, other)


CROWDED: dict[str, Callable[[], Any]] = {
    "crowded": lambda: plot(crowded()),
    "long names": lambda: plot(ANameOfAClassThatIsLong(), against=ANameOfAClassThatIsLong()),
    "eight and a target": lambda: plot(
        MeanFieldNormal(Latents(place=[0.0] * 8)),
        against=MeanFieldNormal(Latents(place=[0.0] * 8), init_scale=0.5),
    ),
    "one of the user's": lambda: plot(CORRELATED, against=CORRELATED, ax=plt.subplots()[1]),
    "history of the user's": lambda: plot(crowded(), ax=plt.subplots(2)[1]),
}


@pytest.mark.parametrize("name", CROWDED)
def test_no_text_is_cut_off_or_written_over_another(name: str) -> None:
    drawn(CROWDED[name])  # which looks


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


def without_texts(axes: Any) -> Any:
    for text in list(axes[1].texts):
        text.remove()
    return axes


CHANGES: dict[str, tuple[str, Callable[[], Any]]] = {
    "another label": ("density", lambda: with_label(PICTURES["density"](), "x")),
    "no names of paths": ("history", lambda: without_texts(PICTURES["history"]())),
}


@pytest.mark.parametrize("change", CHANGES)
def test_small_changes_are_noticed(change: str) -> None:
    name, make = CHANGES[change]
    assert difference(drawn(make), colours(FOLDER / f"{name}.png")) > DIFFERENCE


def test_lines_of_one_style_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("declarative_dist.display.looks.STYLES", ("-",) * 4)
    picture = drawn(PICTURES["target"])
    assert difference(picture, colours(FOLDER / "target.png")) > DIFFERENCE


def test_pictures_for_dark_pages_have_nothing_black() -> None:
    with mpl.style.context("default"):
        figure = PICTURES["target"]().figure
        black = colours_of(figure)
        darken(figure)
        assert "#000000" in black
        assert colours_of(figure) == {each.replace("#000000", "#d0d0d0") for each in black}
    plt.close("all")


def colours_of(figure: Any) -> set[str]:
    """The colours of texts, lines and frames."""
    texts = {mpl.colors.to_hex(each.get_color()) for each in figure.findobj(mpl.text.Text)}
    lines = {mpl.colors.to_hex(each.get_color()) for each in figure.findobj(mpl.lines.Line2D)}
    frames = {mpl.colors.to_hex(each.get_edgecolor()) for each in figure.findobj(mpl.spines.Spine)}
    return texts | lines | frames


if __name__ == "__main__":
    for each in PICTURES:
        Image.fromarray(drawn(PICTURES[each]).astype("uint8")).quantize(64).save(
            FOLDER / f"{each}.png", optimize=True
        )
