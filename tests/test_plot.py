"""Pictures of a fit: what is drawn is what was recorded."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest
import torch
import torch.distributions as dd

from declarative_dist import DeclarationError, Param, Positive, Variational, fit, plot
from declarative_dist.fitting import History
from declarative_dist.objectives import NegativeLogLikelihood

mpl.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


class Table(Variational):
    base = dd.Normal
    loc = Param(torch.zeros(2, 2))
    scale = Param(1.0, Positive())


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def history() -> History:
    return fit(NegativeLogLikelihood(Table()), torch.randn(50, 2, 2), steps=30)


def drawn(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_it_draws_the_loss_and_every_number(history: History) -> None:
    loss, values = plot(history)
    (line,) = loss.get_lines()
    assert list(line.get_xdata()) == list(range(1, 31))
    assert list(line.get_ydata()) == history.losses
    paths = drawn(values)
    assert set(paths) == {*(f"loc[{i}, {j}]" for i in (0, 1) for j in (0, 1)), "scale"}
    assert paths["scale"] == history.values["scale"]
    assert paths["loc[1, 0]"] == [each[1][0] for each in history.values["loc"]]
    assert list(values.get_lines()[0].get_xdata()) == history.steps
    assert (loss.get_ylabel(), values.get_ylabel(), values.get_xlabel()) == (
        "loss",
        "value",
        "step",
    )
    looks = {(line.get_color(), line.get_linestyle()) for line in values.get_lines()}
    assert len(looks) == 5
    loss.figure.canvas.draw()


def test_where_it_draws(history: History) -> None:
    _, one = plt.subplots()
    assert plot(history, ax=one) == (one,)
    assert len(one.get_lines()) == 1
    _, two = plt.subplots(2)
    assert plot(history, ax=two) == tuple(two)
    assert len(two[1].get_lines()) == 5
    for wrong in (3, [], plt.subplots(3)[1], ["a", "b"]):
        with pytest.raises(DeclarationError, match=r"plot\(ax=\): expected 1 or 2 axes"):
            plot(history, ax=wrong)


def test_losses_alone_and_many_paths() -> None:
    bare, wide = History(), History()
    bare.add(1.0)
    assert len(plot(bare)) == 1
    wide.add(1.0, {"w": list(map(float, range(40)))})
    _, values = plot(wide)
    assert list(drawn(values)) == [f"w[{at}]" for at in range(6)]
    assert values.get_ylabel() == "value (6 of 40)"


def test_paths_that_are_the_same_are_drawn_once_and_every_field_has_some() -> None:
    record = History()
    for step in range(3):
        cov = [[1.0, 0.1 * step], [0.1 * step, 2.0]]
        record.add(1.0, {"cov": cov, "w": [float(step + at) for at in range(9)], "scale": 4.0})
    _, values = plot(record)
    assert list(drawn(values)) == ["cov[0, 0]", "cov[0, 1]", "cov[1, 1]", "w[0]", "w[1]", "scale"]
    labels = {text.get_text(): text for text in values.texts}
    assert list(labels) == list(drawn(values))
    for line in values.get_lines():
        label = labels[line.get_label()]
        assert label.get_color() == line.get_color()
        left, _ = label.get_transform().transform(label.get_position())
        end, _ = values.transData.transform((line.get_xdata()[-1], 0.0))
        assert left > end
    assert values.get_xlim()[1] == 3
    heights = sorted(label.get_position()[1] for label in labels.values())
    assert min(high - low for low, high in itertools.pairwise(heights)) > 0.08


def test_a_loss_over_decades_has_a_logarithmic_scale() -> None:
    for losses, scale in (
        ([1e3, 10.0, 1.0], "log"),
        ([50.0, 1.0], "linear"),
        ([1e3, -1.0], "linear"),
    ):
        record = History()
        for loss in losses:
            record.add(loss)
        assert plot(record)[0].get_yscale() == scale


def test_a_noisy_loss_is_smoothed() -> None:
    record, noise = History(), torch.randn(400, generator=torch.Generator().manual_seed(0))
    for step in range(400):
        record.add(10 - 0.01 * step + noise[step].item())
    raw, smooth = plot(record)[0].get_lines()
    assert list(raw.get_ydata()) == record.losses
    assert raw.get_alpha() < 0.5
    error = torch.tensor(smooth.get_ydata()) - (10 - 0.01 * torch.arange(400.0))
    assert error[20:-20].abs().max() < 0.8  # of 21 steps: deviation 1 / sqrt(21)
    assert smooth.get_ydata()[0] == pytest.approx(sum(record.losses[:11]) / 11)


def test_nothing_to_draw() -> None:
    with pytest.raises(DeclarationError, match="plot: expected a History with steps"):
        plot(History())
    with pytest.raises(DeclarationError, match=r"plot: expected a distribution, .*, got 3\."):
        plot(3)  # type: ignore[arg-type]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, history: History) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "declarative-dist\[plot\]"'):
        plot(history)
