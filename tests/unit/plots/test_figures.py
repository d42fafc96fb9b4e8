"""Every figure: titled, labeled, right at the edges, and polite to other figures."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from chapterlib.__main__ import main
from chapterlib.metrics import evaluation
from chapterlib.plots import comparison, curves as curve_plots, data, style
from chapterlib.reporting import records

NAMES = ("World", "Sports", "Business", "Sci/Tech")


def curves(**columns):
    frame = pd.DataFrame(
        {
            "method": ["tfidf"] * 3 + ["probe"] * 3 + ["zero-shot"],
            "labels": [32, 128, 512, 32, 128, 512, 0],
            "accuracy": [0.5, 0.65, 0.8, 0.7, 0.8, 0.86, 0.6],
        }
    )
    frame["low"], frame["high"] = frame["accuracy"] - 0.02, frame["accuracy"] + 0.02
    return frame.assign(**columns)


def layers():
    return pd.DataFrame(
        {
            "layer": [0, 1, 2] * 2,
            "pooling": ["mean"] * 3 + ["last"] * 3,
            "accuracy": [0.5, 0.8, 0.7, 0.4, 0.6, np.nan],
        }
    )


def rungs(n=4):
    accuracy = np.linspace(0.92, 0.8, n)
    return pd.DataFrame(
        {
            "method": ["lora", "probe", "tfidf", "zero-shot"][:n],
            "title": ["LoRA", "Probe", "TF-IDF", "Zero-shot"][:n],
            "model": ["embedded", "embedded", None, "embedded"][:n],
            "labels": [2048, 512, 512, 0][:n],
            "seeds": [1, 3, 1, 1][:n],
            "accuracy": accuracy,
            "low": accuracy - 0.01,
            "high": accuracy + 0.01,
            "test_rows": 3800,
            "level": 0.95,
            "data": "AG News",
        }
    )


def points(n):
    return np.random.default_rng(0).normal(size=(n, 2))


LENGTHS = {"train": [30, 40, 50, np.nan, 300], "test": [35, 45]}
FRAME = pd.DataFrame({"train": [10, 20], "test": [5, np.nan]}, index=["a", "b"])

# Each function on usual data, on the least data, and on data with gaps.
CASES = {
    "class_balance": (data.class_balance, [FRAME], {}),
    "class_balance: one class": (data.class_balance, [{"World": 3}], {}),
    "class_balance: series": (data.class_balance, [pd.Series([1, 2], NAMES[:2])], {}),
    "class_balance: no rows": (data.class_balance, [{"World": 0}], {}),
    "audit_bars": (data.audit_bars, [FRAME / 100], {}),
    "audit_bars: one": (data.audit_bars, [{"tags": 0.25}], {}),
    "length_histogram": (data.length_histogram, [LENGTHS], {"max_length": 128}),
    "length_histogram: one": (data.length_histogram, [{"all": [7]}], {}),
    "interval_widths": (curve_plots.interval_widths, [], {}),
    "interval_widths: one": (curve_plots.interval_widths, [[300]], {"shares": [0.85]}),
    "learning_curve": (curve_plots.learning_curve, [curves()], {}),
    "learning_curve: one": (curve_plots.learning_curve, [curves()[:1]], {}),
    "learning_curve: no labels": (curve_plots.learning_curve, [curves()[6:]], {}),
    "learning_curve: gaps": (curve_plots.learning_curve, [curves(low=np.nan)], {}),
    "layer_curve": (curve_plots.layer_curve, [layers()], {}),
    "layer_curve: one": (curve_plots.layer_curve, [layers()[:1]], {}),
    "projection": (data.projection, [points(300), np.arange(300) % 4, NAMES], {}),
    "projection: one": (data.projection, [points(1), [2], NAMES], {}),
    "confusion": (data.confusion, [np.eye(4, 5, dtype=int), NAMES], {}),
    "confusion: one class": (data.confusion, [[[3]], ["a"]], {}),
    "ladder": (comparison.ladder, [rungs()], {}),
    "ladder: one": (comparison.ladder, [rungs(1)], {}),
    "ladder: gaps": (comparison.ladder, [rungs().assign(low=np.nan, high=np.nan)], {}),
}


@pytest.fixture(autouse=True)
def _no_figure_left_open():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_figure_is_titled_and_labeled(case, recwarn):
    draw, data, options = case
    ax = draw(*data, title="The finding", **options)
    ax.figure.canvas.draw()
    assert isinstance(ax, Axes)
    assert ax.get_title() == "The finding"
    assert ax.get_xlabel()
    horizontal = draw in (data.class_balance, data.audit_bars, comparison.ladder)
    # There the names of classes and methods tell what the axis is.
    assert ax.get_yticklabels() if horizontal else ax.get_ylabel()
    assert not [str(w.message) for w in recwarn]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_figure_has_a_title_of_its_own_and_fits_axes_given(case):
    draw, data, options = case
    before = dict(mpl.rcParams)
    foreign = plt.figure()
    figure, ax = plt.subplots()
    assert draw(*data, ax=ax, **options) is ax
    assert ax.get_title()
    assert plt.get_fignums() == [foreign.number, figure.number]
    assert dict(mpl.rcParams) == before


def test_importing_changes_no_setting():
    with mpl.rc_context():
        mpl.rcdefaults()
        default = mpl.rcParams["font.size"]
        with style.style():
            assert mpl.rcParams["font.size"] != default
        assert mpl.rcParams["font.size"] == default
        style.use_style()
        assert mpl.rcParams["figure.facecolor"] == "white"
        assert mpl.rcParams["font.size"] != default


def test_style_keeps_the_interactive_mode_that_a_backend_sets():
    with mpl.rc_context({"interactive": False}):
        with style.style():
            mpl.interactive(True)
        assert mpl.is_interactive()


# ---- what the figures show ----


def test_bars_carry_their_numbers():
    assert texts(data.class_balance(FRAME)) == [
        "10 train",
        "20 train",
        "5 test",
        "no value",
    ]
    assert texts(data.audit_bars({"tags": 0.2534})) == ["25.3%"]


def test_audit_bars_take_an_audit():
    class Audit:
        artifacts = FRAME / 100

    assert texts(data.audit_bars(Audit()))[0] == "10.0% train"


def test_the_cut_tells_how_many_texts_are_longer():
    ax = data.length_histogram({"all": [10] * 99 + [200]}, max_length=128)
    assert texts(ax) == ["cut at 128:\n1.0% are longer"]
    assert ax.get_xlim()[1] > 128


def test_interval_widths_are_those_of_wilson():
    ax = curve_plots.interval_widths([100, 300], shares=[0.85])
    low, high = evaluation.wilson(255, 300)
    assert np.asarray(ax.lines[0].get_ydata())[1] == pytest.approx(100 * (high - low))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "300"]


def test_the_learning_curve_has_real_numbers_and_names_at_its_ends():
    ax = curve_plots.learning_curve(curves())
    assert ax.get_xscale() == "log"
    assert list(ax.get_xticks()) == [32, 128, 512]
    assert sorted(texts(ax)) == ["Probe", "TF-IDF", "Zero-shot (no labels)"]
    assert ax.get_legend() is None


def test_ticks_that_would_run_together_are_left_out():
    labels = [8, 9, 16, 32, 64, 128, 256, 512, 1024, 2048, 14112]
    frame = pd.DataFrame({"method": "probe", "labels": labels, "accuracy": 0.5})
    ticks = list(curve_plots.learning_curve(frame).get_xticks())
    assert ticks[-1] == 14112
    assert np.diff(np.log2(ticks)).min() > 1


def test_variants_of_one_method_are_told_apart():
    two = pd.concat(
        [curves(method="probe-a", title="Small"), curves(method="probe-b", title="Big")]
    )
    ax = curve_plots.learning_curve(two[two["labels"] > 0])
    assert sorted(texts(ax)) == ["Big", "Small"]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    untitled = curve_plots.learning_curve(two.drop(columns="title"))
    assert sorted(texts(untitled)) == ["probe-a", "probe-b"]


def test_the_no_answer_column_shows_only_where_needed():
    full = data.confusion(evaluation.evaluate([0, 1, 2, 3], [0, 1, 2, 3]))
    assert [t.get_text() for t in full.get_xticklabels()] == list(NAMES)
    some = data.confusion(evaluation.evaluate([0, 1, 2, 3], [0, 1, 2, -1]))
    assert some.get_xticklabels()[-1].get_text() == "no answer"
    assert texts(some)[-1] == "1\n100.0%"


def test_a_class_without_rows_has_no_shares():
    assert texts(data.confusion([[2, 0], [0, 0]])) == [
        "2\n100.0%",
        "0\n0.0%",
        "–",
        "–",
    ]


def test_the_ladder_is_sorted_and_tells_the_labels():
    ax = comparison.ladder(rungs().sample(frac=1, random_state=0))
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == [
        "LoRA\n2,048 labels",
        "Probe\n512 labels, mean of 3 seeds",
        "TF-IDF\n512 labels",
        "Zero-shot\nno labels",
    ]
    assert texts(ax)[0] == "0.920"
    low, high = ax.get_ylim()
    assert low > high
    assert "3,800 test rows of AG News" in ax.get_xlabel()


def test_the_ladder_draws_the_best_budget_of_each_method():
    fewer = rungs(1).assign(labels=32, accuracy=0.5)
    names = comparison.ladder(pd.concat([fewer, rungs(1)])).get_yticklabels()
    assert [name.get_text() for name in names] == ["LoRA\n2,048 labels"]


def test_a_method_far_behind_stands_at_the_edge():
    behind = rungs(1).assign(method="majority", title="Majority")
    behind = behind.assign(accuracy=0.25, low=0.24, high=0.26)
    ax = comparison.ladder(pd.concat([rungs(), behind]), start=0.5)
    assert ax.get_xlim()[0] > 0.5
    assert texts(ax)[-1] == "0.250"
    alone = comparison.ladder(behind, start=0.5)
    assert alone.get_xlim()[0] < 0.25


def test_long_titles_are_broken_into_lines_that_fit():
    title = "The probe needs an eighth of the labels that TF-IDF needs to be as good"
    ax = data.confusion(np.eye(4, dtype=int), title=title)
    ax.figure.canvas.draw()
    assert ax.get_title().replace("\n", " ") == title
    assert ax.get_title().count("\n") == 1
    box, figure = ax.title.get_window_extent(), ax.figure.bbox
    assert box.x0 >= 0
    assert box.x1 <= figure.x1
    assert box.y1 <= figure.y1


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: data.class_balance({}), "no rows"),
        (lambda: data.length_histogram({"train": [np.nan]}), "No split"),
        (lambda: curve_plots.interval_widths([]), "give counts"),
        (lambda: curve_plots.interval_widths([0]), "give counts"),
        (lambda: curve_plots.learning_curve(curves().drop(columns="labels")), "labels"),
        (
            lambda: curve_plots.learning_curve(curves(accuracy=np.nan)),
            "nothing to draw",
        ),
        (lambda: curve_plots.layer_curve(curves()), "layer, pooling"),
        (lambda: data.projection(points(3), [0, 1], NAMES), "one class id a row"),
        (lambda: data.projection([[np.nan, 0]], [0], NAMES), "No point is finite"),
        (lambda: data.confusion([[1, 2, 3, 4]], ["a"]), "a row and a column"),
        (lambda: data.confusion([[1]], ["a", "b"]), "2 label_names for 1 classes"),
        (lambda: comparison.ladder([]), "nothing to draw"),
        (
            lambda: comparison.ladder(
                pd.concat([rungs(1), rungs(1).assign(data="sample")])
            ),
            "different data",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()


# ---- the look ----


def test_known_methods_look_apart_and_unknown_ones_are_gray():
    shown = [(m.color, m.marker) for m in style.METHOD_STYLES.values()]
    assert len(set(shown)) == len(shown)
    assert style.method_style("probe-llama") == style.METHOD_STYLES["probe"]
    assert style.method_style("prober").color == style.OKABE_ITO["gray"]
    assert style.method_style("prober").label == "prober"
    assert style.class_style(9) == style.class_style(1)


@pytest.mark.parametrize("color", style.OKABE_ITO.values())
def test_ink_can_be_read_on_white(color):
    def linear(c):
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(c) for c in to_rgb(style.ink(color)))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert 1.05 / (luminance + 0.05) > 4.45


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=9), st.floats(0.001, 0.2))
def test_spread_keeps_order_and_gap(heights, gap):
    heights = sorted(heights)
    moved = style.spread(heights, gap)
    assert len(moved) == len(heights)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert moved == pytest.approx(heights)


# ---- the README's figure ----


def record(method, y_pred, name="AG News"):
    data = {
        "name": name,
        "origin": "folder",
        "train_fingerprint": None,
        "test_fingerprint": "0" * 16,
        "n_train": 0,
        "n_test": 4,
        "labels_used": 0,
        "label_names": NAMES,
    }
    return records.RunRecord.from_predictions(
        [0, 1, 2, 3],
        y_pred,
        method=method,
        title=method.title(),
        data=data,
        seed=0,
        fit_seconds=0,
        predict_seconds=0,
        peak_memory_bytes=0,
    )


def test_the_readme_figure_is_the_same_from_the_same_records(tmp_path, capsys):
    folder = tmp_path / "results"
    records.write(record("majority", [0] * 4), folder)
    records.write(record("probe", [0, 1, 2, 2]), folder)
    records.write(record("probe", [0, 1, 2, 3], name="chapterlib sample"), folder)
    for name in ("a.svg", "b.svg", "c.png"):
        main(["figure", "--results", str(folder), "--output", str(tmp_path / name)])
    assert str(tmp_path / "c.png") in capsys.readouterr().out
    svg = (tmp_path / "a.svg").read_bytes()
    assert svg == (tmp_path / "b.svg").read_bytes()
    assert b"<dc:date>" not in svg
    assert not plt.get_fignums()


def test_without_records_of_ag_news_there_is_no_readme_figure(tmp_path, capsys):
    folder = tmp_path / "results"
    records.write(record("probe", [0, 1, 2, 3], name="chapterlib sample"), folder)
    target = tmp_path / "a.svg"
    with pytest.raises(SystemExit, match="1"):
        main(["figure", "--results", str(folder), "--output", str(target)])
    assert "make results" in capsys.readouterr().err
    assert not target.exists()
    records.write(record("probe", [0, 1, 2, 3]), folder)
    with pytest.raises(SystemExit, match="1"):
        main(["--results", str(folder), "--output", str(folder / "x" / "a.svg")])
