"""A task: its labels, the texts made of them, and what `parse` takes for a label."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from hypothesis import given, settings, strategies as st

from chapterlib.tasks.loading import DataError
from chapterlib.tasks.task import AG_NEWS, AROUND, Label, Task

# ---- labels as text ----

DECORATIONS = st.text(" \t\n.,:;!?\"'`*()[]{}-_#", max_size=5)
NAMES = st.text(max_size=12).filter(str.strip)
WORDS = st.text("abcXYZ_ -/&üé", min_size=1, max_size=8).filter(str.strip)


@pytest.mark.parametrize(
    "text",
    [
        "Sci/Tech", "sci/tech", "science/technology", "Science / Technology",
        "SCIENCE & TECHNOLOGY", "science and technology", "Sci-Tech", "sci_tech",
        "SciTech", "Science/Tech", '"Sci/Tech".', "**Sci/Tech**", "\tsci\ntech\n",
    ],
)  # fmt: skip
def test_the_ways_of_writing_science_and_technology(text: str) -> None:
    assert AG_NEWS.parse(text) == 3


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "and", "Politics", "Wor", "Worlds", "World Sports", "World/Sports",
        "World, Sports", "not World", "0", "3", "Technology", "science", "None",
        "Business" * 9, "World" + " " * 99,
    ],
)  # fmt: skip
def test_what_is_no_label(text: str) -> None:
    assert AG_NEWS.parse(text) is None


@settings(deadline=None)
@given(
    st.sampled_from([*enumerate(AG_NEWS.label_names), *enumerate(AG_NEWS.said)]),
    DECORATIONS,
    DECORATIONS,
    st.sampled_from([str.upper, str.lower, str.title]),
)
def test_case_and_punctuation_do_not_matter(
    label: tuple[int, str], before: str, after: str, case: Callable[[str], str]
) -> None:
    assert AG_NEWS.parse(before + case(label[1]) + after) == label[0]


@settings(deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=8, unique=True))
def test_every_name_is_its_own_label(names: list[str]) -> None:
    task = Task("any", tuple(names))
    assert [task.parse(name) for name in names] == list(range(len(names)))


@settings(deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=6, unique=True), DECORATIONS, DECORATIONS)
def test_what_surrounds_a_name_never_makes_it_another(
    names: list[str], before: str, after: str
) -> None:
    task = Task("any", tuple(names))
    for i, name in enumerate(names):
        text = before + name.upper() + after
        found = task.parse(text)
        # "a" and a dash are another label where the task has one named "a-".
        assert found in (i, None) or bare(text) == bare(names[found])


def bare(text: str) -> str:
    return text.strip(AROUND).lower()


def test_names_that_differ_in_signs_or_case_alone() -> None:
    languages = Task("Languages", ("C", "C++", "C#", "c", "Go"))
    said = ["C", "C++", "C#", "c", "`c++`", "**C#**", "(go)", " C ", "(C)"]
    assert [languages.parse(x) for x in said] == [0, 1, 2, 3, 1, 2, 4, None, None]
    signs = Task("Signs", ("+", "-"))
    assert [signs.parse(x) for x in ("+", "'-'.", "", "*", "+-")] == [0, 1, *[None] * 3]
    stars = Task("Stars", ("1", "2"))
    said = ["1", "**2**", "2.", "(1)", "1.5", "12", "-1", "one"]
    assert [stars.parse(x) for x in said] == [0, 1, 1, 0, *[None] * 4]


def test_prefixes_umlauts_and_two_ways_to_code_them() -> None:
    task = Task("Bank", ("card", "card_arrival", "Überweisung", "Straße"))
    said = ["Card", "card arrival", "CARD-ARRIVAL", "card arr", "u\u0308berweisung",
            "STRASSE"]  # fmt: skip
    assert [task.parse(x) for x in said] == [0, 1, 1, None, 2, 3]


def test_the_labels_of_banking77(banking77_folder: Path) -> None:
    task = Task.from_csv(banking77_folder / "train.csv", "text", "category")
    for i, name in enumerate(task.label_names):
        ways = name, name.upper(), name.replace("_", " "), f'"{name}"', f"**{name}**."
        assert [task.parse(way) for way in ways] == [i] * len(ways)


# ---- the object ----


def test_a_task_is_a_value() -> None:
    task = Task("Mood", [Label("bad", words=["sad"]), "good"])
    again = Task("Mood", (Label("bad", words="sad"), Label("good")), source="x.csv")
    assert task == again
    assert hash(task) == hash(again)
    assert task != dataclasses.replace(task, item="review")
    assert task.parse("Bad") == 0  # what it keeps for the next parse is no value
    for same in (pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        assert same == task
        assert same.parse("Good!") == 1
    assert "source" not in repr(again)


def test_what_follows_from_the_names() -> None:
    task = Task("Bank", ("card_arrival", "Überweisung"), item="query", kind="customer")
    assert task.label_names == task.said == ("card_arrival", "Überweisung")
    assert task.verbalizers == (("card arrival",), ("überweisung",))
    assert task.template == "{text}\nThis customer query is about"
    assert "You sort customer queries by topic." in task.instructions
    assert task.instructions.endswith("one topic: card_arrival or Überweisung.")
    assert Task("T", ("a", "b")).template == "{text}\nThis text is about"
    many = Task("T", (*(f"label {i}" for i in range(77)),))
    assert many.instructions.count("label 76") == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("one",), "name at least two"),
        (("a", " "), "name at least two"),
        (("a", "b", "a"), "two labels named 'a'"),
        ((Label("a", said="b"), "b"), "two labels named 'b'"),
        ((Label("a", spellings=("c",)), Label("b", spellings=("c",))), "named 'c'"),
    ],
)
def test_labels_that_can_not_be_told_apart(labels: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Task("any", labels)


def test_a_template_has_one_place_for_the_text() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        Task("any", ("a", "b"), template="This is about")


# ---- made of rows ----


def test_from_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reviews" / "train.csv"
    path.parent.mkdir()
    path.write_text("review,stars\nfine,2\ngreat,10\nNA,\n")
    monkeypatch.chdir(path.parent)
    task = Task.from_csv("train.csv", "review", "stars", item="review")
    assert (task.name, task.label_names) == ("reviews", ("2", "10"))
    assert task.source == str(path.resolve())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"row 2 .*Its label is ''"):
        task.load()
    given = Task.from_csv(path, labels=("2", Label("10", "good")), name="R")
    assert given.labels == (Label("2"), Label("10", "good"))
    with pytest.raises(DataError, match=r"no column 'label'; there are \['review', "):
        Task.from_csv(path)
    with pytest.raises(DataError, match="does not exist"):
        Task.from_csv(tmp_path / "none.csv")


def test_from_dataset(tiny_news: DatasetDict) -> None:
    assert Task.from_dataset(tiny_news).label_names == AG_NEWS.label_names
    rows = Dataset.from_dict({"q": ["x", "y", "z"], "c": [10, None, 9]})
    task = Task.from_dataset(rows, text="q", label="c", name="Q")
    assert task.label_names == ("9", "10")
    assert task.load(rows.select([0, 2]))["train"]["label"][:] == [1, 0]
    names = ClassLabel(names=["b", "a"])
    rows = Dataset.from_dict({"text": ["x"], "label": [1]}).cast_column("label", names)
    assert Task.from_dataset(rows).label_names == ("b", "a")
