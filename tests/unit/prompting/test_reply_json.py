"""JSON in prose, damaged or cut off: found, never made up, and never slowly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from chapterlib.prompting import parsers
from chapterlib.prompting.parsers import (
    MAX_DEPTH,
    NoJsonError,
    Part,
    extract_json,
    find_json,
    stretches,
)

ENTRY = '{"article": 1, "label": "World"}'
WHOLE = {"article": 1, "label": "World"}
SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
CONTAINERS = VALUES.filter(lambda value: isinstance(value, (list, dict)))
# Text in which brackets and quotes are common.
JSONISH = st.text(st.sampled_from("{}[]\"'\\:,1a \n“”<>/think*")) | st.text()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (ENTRY, WHOLE),
        (f"Sure! Here it is:\n```json\n{ENTRY}\n```\nAnything else?", WHOLE),
        (f"[{ENTRY},]", [WHOLE]),
        ('{"a": [1, 2, ], }', {"a": [1, 2]}),
        ("{'article': 1, 'label': 'World'}", WHOLE),
        ("{article: 1, label: World}", WHOLE),
        ("{“article”: 1, “label”: “World”}", WHOLE),
        ('{"article": 1 "label": "World"}', WHOLE),
        ('{"article": 1, // the first\n "label": "World"}', WHOLE),
        ('{"article": 1, "label": "World", "why": "the "old" war"}',
         {**WHOLE, "why": 'the "old" war'}),
        ('{"article": 1, "label": "World", "why": "one\ntwo, [3]"}',
         {**WHOLE, "why": "one\ntwo, [3]"}),
        ('{"a": "}] \\" {"}', {"a": '}] " {'}),
        (f'{{"results": [{ENTRY}]', {"results": [WHOLE]}),
        (f'{{"results": [{ENTRY[:-1]}]}}', {"results": [WHOLE]}),
        (f'{{"results": [{ENTRY}, {{"article": 2, "label": "Sp',
         {"results": [WHOLE]}),
        (f'{{"results": [{ENTRY}, {{"article": 2, "label": "Sports"',
         {"results": [WHOLE]}),
        (f'{{"results": [{ENTRY}, ', {"results": [WHOLE]}),
        ('{"1": "World", "2": "Spor', {"1": "World"}),
        ("{'1': 'World', '2': 'Spor", {"1": "World"}),
        ('{"model": "x", "results": [{"article": 1, "la', {"model": "x"}),
        # of several values, the last with an object in it
        (f'{{"draft": 1}} No, rather {ENTRY}. See also [2] and [3].', WHOLE),
        (f"The clues {{war, peace}} in [1] point to: {ENTRY}", WHOLE),
        (f"see [1] {ENTRY}", WHOLE),
        ("first [1], then [2, 3].", [2, 3]),
        # several values of one list
        (f"{ENTRY}\n{ENTRY}", [WHOLE, WHOLE]),
        # what was only thought
        (f'<think>{{"article": 1}} maybe</think>\n{ENTRY}', WHOLE),
        (f"<think>a</think> {ENTRY} <think>[{{", WHOLE),
        (f"{{{ENTRY[1:]}", WHOLE),
        ("[]", []),
        (f"}}]{ENTRY}]}}", WHOLE),
    ],
)  # fmt: skip
def test_json_is_found(text: str, value: Any) -> None:
    assert extract_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "World",
        '"World"',
        "17",
        "null",
        "I sorted them: { see below",
        "{",
        "[",
        '{"results": [',
        '{"results": [{"article": 1, "label": "Wor',
        f"<think>{ENTRY}",
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 500 + "]" * 500,
        '{"a" = "b"}',
    ],
)
def test_where_there_is_none_the_error_says_what_to_do(text: str) -> None:
    with pytest.raises(NoJsonError, match=r"no JSON object or array.*max_tokens"):
        extract_json(text)


@settings(deadline=None)
@given(CONTAINERS, st.sampled_from([None, 2]), st.booleans())
def test_valid_json_is_read_as_it_is(value: Any, indent: Any, ascii_: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    # A thought in a string is the one thing that is not told from a thought.
    if "think" not in text:
        assert extract_json(f"So:\n{text}\nDone.") == value


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text("ab"), SCALARS), min_size=1))
def test_a_trailing_comma_changes_nothing(rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows)
    if "think" not in text:
        assert extract_json(text[:-1] + " ,\n]") == rows


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.text()), min_size=1), st.data())
def test_a_cut_off_list_keeps_whole_objects_only(
    rows: list[dict[str, str]], data: st.DataObject
) -> None:
    text = json.dumps(rows)
    cut = data.draw(st.integers(0, len(text) - 1))
    try:
        found = extract_json(text[:cut])
    except NoJsonError:
        return
    if "think" not in text:
        assert found == rows[: len(found)]


@settings(max_examples=300, deadline=None)
@given(JSONISH)
def test_any_text_gives_a_container_or_the_documented_error(text: str) -> None:
    list(find_json(text))
    try:
        value = extract_json(text)
    except NoJsonError:
        return
    assert isinstance(value, (dict, list))
    json.dumps(value)


def test_a_damaged_entry_does_not_touch_its_neighbors() -> None:
    damaged = '{"article": 2, "label" "World"}, {article: 3, label: Sports}'
    ((*parts,),) = find_json(f"[{ENTRY}, {damaged}, {ENTRY}]")
    assert [p.value for p in parts] == [WHOLE, {"article": 3, "label": "Sports"}, WHOLE]
    assert [p.source is None for p in parts] == [True, False, True]


def test_a_repair_never_chooses_between_two_values_of_a_key() -> None:
    assert list(find_json("{label: World, label: Sports}")) == []


def test_members_are_listed_as_written() -> None:
    value = extract_json('{"a": 1, "a": 2}')
    assert value == {"a": 2}
    assert parsers.pairs(value) == [("a", 1), ("a", 2)]
    assert parsers.pairs({"b": 3}) == [("b", 3)]


def test_values_apart_from_each_other_are_groups() -> None:
    groups = [[s.text for s in g] for g in stretches("[1], [2]\n;[3] and [4]")]
    assert groups == [["[1]", "[2]", "[3]"], ["[4]"]]


def test_the_end_of_a_flood_is_what_counts() -> None:
    assert extract_json("x" * 2 * parsers.MAX_LENGTH + ENTRY) == WHOLE
    assert extract_json('{"a": 1}' + "x" * parsers.MAX_LENGTH + ENTRY) == WHOLE
    with pytest.raises(NoJsonError):
        extract_json(ENTRY + "x" * parsers.MAX_LENGTH)


def test_only_so_much_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "MAX_REPAIR", 60)
    damaged = "{article: %d, label: World}"
    ((*parts,),) = find_json(" ".join(damaged % i for i in range(1, 9)))
    assert [part.value["article"] for part in parts] == [1, 2]


def test_whatever_a_repair_raises_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise IndexError("a bug")

    monkeypatch.setattr(parsers.json_repair, "loads", fail)
    with pytest.raises(NoJsonError):
        extract_json("{article: 1}")


FLOODS = [
    "[", "{", '{"a":', '{"a":[', '"', '[["', '[" ', "{'", "}", "[{", "{a:", "[1",
    '[{"a":b},', "{ ,", '{"article": 1 "label": "World"} ', "<think>", "</think>{",
    "{“", "[,", '{"a": (', "\\", '{"\\', "[/*", " ",
]  # fmt: skip


@pytest.mark.parametrize("piece", [*FLOODS, "9" * 5_000])
@pytest.mark.parametrize("tail", ["", ENTRY])
def test_a_flood_is_read_in_linear_time(piece: str, tail: str) -> None:
    # Where time grew with the square of the length, one of these took half a minute.
    text = f'{{"a": {piece * (parsers.MAX_LENGTH // len(piece))}{tail}'
    assert all(isinstance(part, Part) for group in find_json(text) for part in group)
