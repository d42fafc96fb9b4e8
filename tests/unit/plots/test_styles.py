"""Colors and markers that can be told apart; titles and names that can be read."""

from __future__ import annotations

from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_rgb

from chapterlib.plots import data
from chapterlib.plots.styles import (
    METHOD_STYLES,
    OKABE_ITO,
    class_style,
    ink,
    label_ends,
    label_points,
    method_named,
    method_style,
    new_axes,
    short_names,
    spread,
    style,
    use_style,
)

from .checks import assert_nothing_overlaps


def test_importing_changes_no_setting():
    with mpl.rc_context():
        mpl.rcdefaults()
        default = mpl.rcParams["font.size"]
        with style():
            assert mpl.rcParams["font.size"] != default
        assert mpl.rcParams["font.size"] == default
        use_style()
        assert mpl.rcParams["figure.facecolor"] == "white"
        assert mpl.rcParams["font.size"] != default


def test_style_keeps_the_interactive_mode_that_a_backend_sets():
    with mpl.rc_context({"interactive": False}):
        with style():
            mpl.interactive(True)
        assert mpl.is_interactive()


def test_known_methods_look_apart_and_unknown_ones_are_gray():
    shown = [(m.color, m.marker) for m in METHOD_STYLES.values()]
    assert len(set(shown)) == len(shown)
    assert len({m.color for m in METHOD_STYLES.values()}) == len(METHOD_STYLES)
    assert method_style("probe-llama") == METHOD_STYLES["probe"]
    assert method_style("prober").color == OKABE_ITO["gray"]
    assert method_style("prober").marker not in {m for _, m in shown}
    assert method_style("prober").label == "prober"
    assert class_style(9) == class_style(1)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("lora", "lora"),
        ("QLoRA, rank 8", "qlora"),
        ("my LP-FT run", "lp-ft"),
        ("Zero-shot, two words", "zero-shot-words"),
    ],
)
def test_a_run_is_known_by_the_method_in_its_name(name, slug):
    assert method_named(name) == METHOD_STYLES[slug]
    assert method_named("carefully explored") is None


@pytest.mark.parametrize("color", OKABE_ITO.values())
def test_ink_can_be_read_on_white(color):
    def linear(c):
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(c) for c in to_rgb(ink(color)))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert 1.05 / (luminance + 0.05) > 4.45


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


# ---- names at lines and points ----


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=9), st.floats(0.001, 0.2))
def test_spread_keeps_order_and_gap(heights, gap):
    heights = sorted(heights)
    moved = spread(heights, gap)
    assert len(moved) == len(heights)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert moved == pytest.approx(heights)


def test_names_at_ends_keep_apart_in_a_low_figure():
    ax = new_axes(None, "Low", size=(5.6, 2))
    ax.set_xlabel("a label\nof three\nlines")
    label_ends(ax, [(0.5, "name", "#000000")] * 4)
    assert_nothing_overlaps(ax)


def test_a_name_far_from_its_point_is_led_to_it():
    ax = new_axes(None, "Crowded")
    ax.set(xlim=(0, 10), ylim=(0, 10))
    points = [(5 + 0.02 * i, 5 + 0.02 * (i % 3)) for i in range(12)]
    label_points(ax, points, [f"method {i}" for i in range(12)], ["#000000"] * 12)
    leaders = [text for text in ax.texts if not text.get_text()]
    assert leaders
    assert {text.arrow_patch.get_edgecolor() for text in leaders} == {(0, 0, 0, 1)}
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_methods_are_named_shortly_where_no_other_shares_the_name():
    assert short_names(["probe", "lora"]) == {"probe": "Probe", "lora": "LoRA"}
    both = ["probe", "probe-llama", "probe"]
    assert short_names(both) == {"probe": "probe", "probe-llama": "probe-llama"}
    titled = short_names(both, ["Small", "Big", "Small"])
    assert titled == {"probe": "Small", "probe-llama": "Big"}


# ---- where there is no figure ----
