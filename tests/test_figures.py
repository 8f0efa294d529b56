import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from measured import figures
from measured.tables import pooled

mpl.use("agg")


@pytest.fixture(autouse=True)
def _closed():
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return figures.panels()[1][0]


LONG = pd.DataFrame(
    [
        (s, q, b, seed, b + len(s) + seed, 0.1)
        for s in ("test", "train")
        for q in "FR"
        for b in (4, 1)
        for seed in (0, 2)
    ],
    columns=["split", "quantity", "beta", "seed", "value", "se"],
)


def test_the_style_starts_from_matplotlibs_own():
    mpl.rcParams.update({"text.usetex": True, "figure.figsize": (1, 1), "axes.xmargin": 0.4})  # as a user's file may
    figures.use_style()
    assert not mpl.rcParams["text.usetex"]
    assert mpl.rcParams["axes.xmargin"] == mpl.rcParamsDefault["axes.xmargin"]
    assert [mpl.colors.to_hex(c).upper() for c in mpl.rcParams["axes.prop_cycle"].by_key()["color"]] == [
        color.upper() for color in figures.CYCLE
    ]
    assert mpl.rcParams["figure.facecolor"] == mpl.rcParams["axes.facecolor"] == "white"
    mpl.rcParams["text.usetex"] = True
    with figures.styled():
        assert not mpl.rcParams["text.usetex"]
    assert mpl.rcParams["text.usetex"]


def test_a_curve_for_each_value_in_the_order_of_its_styles(ax):
    frame = pooled(LONG[LONG["quantity"] == "F"], ["beta", "split"])
    names = figures.curves(ax, frame, "beta", "split", figures.SPLITS)
    assert names == [("training", 4.0, 10.0, figures.ORANGE), ("test", 4.0, 9.0, figures.BLUE)]
    points = [container[0].get_xydata() for container in ax.containers]
    assert np.array_equal(points, [[[1, 7], [4, 10]], [[1, 6], [4, 9]]])
    assert [container[0].get_marker() for container in ax.containers] == ["s", "o"]
    bars = ax.containers[0][2][0].get_segments()
    assert np.ptp(bars[0][:, 1]) == pytest.approx(2 * frame["se"].iloc[0])


def test_styles_are_laid_over_each_other(ax):
    frame = pooled(LONG, ["quantity", "split", "beta"]).reset_index()
    looks = [{"F": figures.RED, "R": {"color": figures.GREEN, "label": "rate"}}, figures.SPLIT_LINES]
    names = figures.curves(ax, frame, "beta", ["quantity", "split"], looks, lw=3)
    assert [name[0] for name in names] == ["F, training", "F, test", "rate, training", "rate, test"]
    assert [c[0].get_linestyle() for c in ax.containers] == ["--", "-", "--", "-"]
    assert {c[0].get_linewidth() for c in ax.containers} == {3}


@pytest.mark.parametrize(("scale", "at"), [("linear", [0.5, 1.0, 1.5]), ("log", [0.5, 1.0, 1.5])])
def test_curves_step_aside_of_each_other(ax, scale, at):
    ax.set_xscale(scale)
    frame = pd.DataFrame({"x": 2.0 if scale == "log" else 1.0, "by": list("abc"), "value": 1.0, "se": 0.1})
    figures.curves(ax, frame, "x", "by", dict.fromkeys("abc", "k"), dodge=0.5)
    factor = 2 if scale == "log" else 1
    assert [c[0].get_xdata()[0] for c in ax.containers] == pytest.approx([factor * x for x in at])


def test_rows_are_read_from_the_top(ax):
    frame = pooled(LONG, ["split", "beta", "quantity"])
    names = {("train", 1): "first", ("test", 4): "second"}
    looks = {"F": figures.RED, "R": {"marker": "s"}}
    exact = pd.Series({key: 5.0 for key in names})
    figures.rows(ax, frame, names, "quantity", looks, exact=exact, dodge=0.2)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [c.get_label() for c in ax.containers] == ["F", "R"]
    assert ax.containers[0][0].get_xydata() == pytest.approx(np.array([[7, -0.1], [9, 0.9]]))
    assert ax.containers[1][0].get_xydata() == pytest.approx(np.array([[7, 0.1], [9, 1.1]]))
    assert [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1][-2:] == [5, 5]


def test_one_colour_for_each_row(ax):
    frame = pooled(LONG, ["split"])
    figures.rows(ax, frame, {"test": "a", "train": "b"}, colors=[figures.RED, figures.BLUE])
    assert [c[0].get_color() for c in ax.containers] == [figures.RED, figures.BLUE]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda ax: figures.curves(ax, LONG, "b", "split", figures.SPLITS), r"must have the columns \['b'\]"),
        (lambda ax: figures.curves(ax, LONG, "beta", "split", {"test": "k"}), r"each split, got none for \['train'\]"),
        (lambda ax: figures.curves(ax, LONG, "beta", "split", figures.SPLITS), "got several seeds; pool them"),
        (lambda ax: figures.curves(ax, LONG[:0], "beta", "split", figures.SPLITS), "must have rows, got none"),
        (lambda ax: figures.curves(ax, LONG, "beta", ["split"], []), "styles must be 1, one for each column"),
        (lambda ax: figures.rows(ax, pooled(LONG, ["split"]), {"dev": ""}), r"each of names, got none for \['dev'\]"),
        (lambda ax: figures.rows(ax, LONG.set_index("split"), {"test": ""}), "one row for each of names, got 8 for 1"),
        (lambda ax: figures.rows(ax, pooled(LONG, ["split"]), {"test": ""}, colors=[]), "colors must be 1"),
        (lambda ax: figures.rows(ax, pooled(LONG, ["split", "beta"]), {1: ""}, "split", {"test": "k"}), "each split"),
        (lambda ax: figures.label(ax, [("a", 1, np.nan, "k")]), "finite points, got .* for 'a'"),
    ],
)
def test_bad_frames_are_named(ax, draw, message):
    with pytest.raises(ValueError, match=message):
        draw(ax)


def test_labels_keep_apart_and_stay_with_the_picture(ax):
    ax.set(xscale="log", yscale="log", xlim=(0.1, 10), ylim=(0.1, 10))
    figures.label(ax, [("none", 10, 0, "k"), ("low", 10, 0.11, "k"), ("far", 1e9, 5, "k")])  # 0 has no place here
    ax.figure.savefig(drawn := io.BytesIO(), dpi=100, bbox_inches="tight")
    width, height = Image.open(drawn).size
    assert width < 1000
    assert height < 600
    ax.figure.canvas.draw()
    heights = [text.get_window_extent().y0 * 72 / ax.figure.dpi for text in ax.texts]
    assert np.diff(heights).min() > 11  # 12 points, less what letters differ in height


def test_an_axis_of_powers_has_plain_numbers(ax):
    figures.log_axis(ax, "x", [0.1, 1, 30])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "1", "30"]
