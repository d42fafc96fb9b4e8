"""Every text gets one verdict and no made-up label; schema, and parser of one label."""

from __future__ import annotations

import itertools
import json
import random
import re
from enum import Enum
from typing import Any

import jsonschema
import pytest
from fault_replies import LABELS as NAMES, REPLY_FAULTS, Reply, spoil
from hypothesis import assume, example, given, settings, strategies as st
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import PydanticOutputParser
from pydantic import ValidationError

from chapterlib.prompting import parsers
from chapterlib.prompting.parsers import (
    Answer,
    Classification,
    EnumOutputParser,
    Results,
    read_answers,
    results_schema,
)
from chapterlib.prompting.prompts import zero_shot
from chapterlib.prompting.thoughts import MAX_LENGTH
from chapterlib.tasks.task import AG_NEWS, Label, Task, normalized

LABELS, label_to_id = AG_NEWS.said, AG_NEWS.parse
LABEL_TO_ID = {
    normalized(spelling): i
    for i, label in enumerate(AG_NEWS.labels)
    for spelling in (label.name, label.said or label.name, *label.spellings)
}

ONE = '{"results": [{"article": 1, "label": "World"}]}'


def ids(text: str, n: int = 2) -> list[int | str]:
    """Label of each article, or the verdict where there is none."""
    answers = read_answers(text, n)
    assert [a.article for a in answers] == list(range(1, n + 1))
    return [a.verdict if a.label is None else a.label for a in answers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # shapes
        (ONE, [0, "missing"]),
        ('[{"article": 2, "label": "Sports"}, {"article": 1, "label": "World"}]',
         [0, 1]),
        ('{"1": "World", "2": "sports"}', [0, 1]),
        ('{"Article 1": "World", "article 2:": "sports"}', [0, 1]),
        ('[{"1": "World"}, {"2": "Sports"}]', [0, 1]),
        ('{"1": {"label": "World"}, "2": {"Category": "Sports"}}', [0, 1]),
        ('{"answers": {"results": {"1": "World"}}}', [0, "missing"]),
        ('{"id": 2, "topic": "Science/Technology"}', ["missing", 3]),
        ('{"article": "#2", "label": "x"}, {"article": 1.0, "label": "World"}',
         [0, "invalid"]),
        ('{"ARTICLE": "Article 2", "Label": "sci/tech"}', ["missing", 3]),
        ('{"article": 1, "label": "World"}\n{"article": 2, "label": "Sports"}', [0, 1]),
        # several places: the later one corrects, article by article
        (f'{ONE} On second thought: {{"1": "Sports"}}', [1, "missing"]),
        (f'{ONE} and then {{"2": "Sports"}} as I said.', [0, 1]),
        (f'{ONE} but {{"1": "Politics"}}', ["invalid", "missing"]),
        (f"<think>{ONE}</think>", ["missing"] * 2),
        # numbers that were not asked for
        ('{"0": "World", "-1": "World", "3": "World", "2": "World"}', ["missing", 0]),
        ('{"article": 99999999999999999999, "label": "World"}', ["missing"] * 2),
        ('{"article": true, "label": "World"}', ["missing"] * 2),
        ('{"article": 1.5, "label": "World"}', ["missing"] * 2),
        ('{"article": Infinity, "label": "World"}', ["missing"] * 2),
        ('{"article": [1, 2], "label": "World"}', ["missing"] * 2),
        ('{"article": "one", "label": "World"}', ["missing"] * 2),
        ('{"label": "World"}', ["missing"] * 2),
        ('["World", "Sports"]', ["missing"] * 2),
        # twice
        ('{"1": "World", "1": "world."}', [0, "missing"]),
        ('{"1": "World", "1": "Sports"}', ["ambiguous", "missing"]),
        ('{"1": ["World", "Sports"], "2": ["Sports"]}', ["ambiguous", 1]),
        ('{"1": "World", "1": "Politics"}', ["ambiguous", "missing"]),
        ('{"article": 1, "label": "World", "topic": "Sports"}',
         ["ambiguous", "missing"]),
        ('{"article": 1, "number": 2, "label": "World"}', [0, 0]),
        # no label
        ('{"1": "Politics", "2": "World/Sports"}', ["invalid"] * 2),
        ('{"1": "", "2": 3}', ["invalid"] * 2),
        ('{"1": null, "2": {"why": "?"}}', ["missing"] * 2),
        ('{"1": "I cannot classify this.", "2": "World"}', ["refused", 0]),
        ('{"1": {"a": {"label": "World"}}, "2": {"1": "Sports"}}',
         ["ambiguous", "missing"]),
        # damage
        ('{"1": "World", "2": "Spo', ["missing"] * 2),
        ('{"1": "World", "2": "Sports', ["missing"] * 2),
        ("{1: World, 2: 'Sports'}", [0, 1]),
        ('{"article": 1 "label": "World" "Sports"}', ["missing"] * 2),
        ('{"article": 1, "label": World Cup}', ["invalid", "missing"]),
        ('{"article": 1, "label": "the \\"World\\"', ["missing"] * 2),
        # nothing to read
        ("", ["missing"] * 2),
        ("World", ["missing"] * 2),
        ("1. World 2. Sports", ["missing"] * 2),
        ("I'm sorry, but I can't help with that.", ["refused"] * 2),
        ("As an AI language model I have no opinion.", ["refused"] * 2),
        ("<think>I cannot decide.</think> Hm.", ["missing"] * 2),
        ("Article 1: ministers refused; they are unable to pay.", ["missing"] * 2),
        ('{"error": "I am unable to classify news."}', ["refused"] * 2),
        (f"I cannot be sure, but: {ONE}", [0, "missing"]),
    ],
)  # fmt: skip
def test_replies(text: str, expected: list[int | str]) -> None:
    assert ids(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" **Sports**. ", 1),
        ("Science/Technology", 3),
        ('{"label": "Business"}', 2),
        ('{"label": "Business"} {"label": "Sports"}', "ambiguous"),
        ('{"article": 2, "label": "Business"}', "missing"),
        ("It is Business.", "missing"),
        ("<think>World? No: a match.</think>\n\nSports", 1),
        ("<think>Sports", "missing"),
    ],
)
def test_one_article_needs_no_number(text: str, expected: int | str) -> None:
    assert ids(text, 1) == [expected]


def test_what_was_said_is_kept_short() -> None:
    (answer,) = read_answers('{"1": "Local\\n politics ' + "x" * 100 + '"}', 1)
    assert answer.said == "Local politics " + "x" * 44 + "…"
    (answer,) = read_answers('{"1": ["World", "Sports", "World"]}', 1)
    assert answer.said == "World | Sports"
    (answer,) = read_answers('{"1": {"label": {"a": 1}}}', 1)
    assert answer.said == '{"a": 1}'
    (answer,) = read_answers("I cannot,\n no.", 1)
    assert answer.said == "I cannot, no."


@pytest.mark.parametrize("n", [0, -1])
def test_there_is_at_least_one_article(n: int) -> None:
    with pytest.raises(ValueError, match="at least one article"):
        read_answers(ONE, n)


@pytest.mark.parametrize(
    "wrong",
    [
        {"label": 1, "verdict": "missing"},
        {"label": None, "verdict": "parsed"},
        {"label": -1, "verdict": "parsed"},
        {"article": 0},
        {"verdict": "lost"},
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Answer.model_validate({"article": 1, **wrong})


def test_answers_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Answer(article=1).label = 0


@pytest.mark.parametrize("fault", [None, *REPLY_FAULTS])
def test_spoiled_replies(fault: str | None) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        right = [rng.choice(NAMES) for _ in range(rng.randint(1, 10))]
        reply = spoil(Reply.of(right), fault, rng)
        visible = reply.visible or reply.entries
        for answer in read_answers(reply.content, len(right)):
            whole = {x for i, x in reply.entries if i == answer.article}
            legible = {x for i, x in visible if i == answer.article}
            if answer.label is not None:
                assert answer.label in {label_to_id(name) for name in legible}
            if whole == {right[answer.article - 1]}:
                assert answer.label == label_to_id(right[answer.article - 1])
            if len(whole) > 1:
                assert answer.verdict == "ambiguous"


def given_in(text: str) -> set[int]:
    """Find the labels whose spelling stands in a text, escapes resolved."""
    plain = re.sub(
        r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text
    ).lower()
    words = " ".join(re.findall(r"[^\W_]+", plain.replace("\\n", " ")))
    joined = words.replace(" and ", " ").replace(" ", "")
    return {i for name, i in LABEL_TO_ID.items() if name.replace(" ", "") in joined}


LABELISH = st.sampled_from([*LABELS, "sci/tech", "Politics", "Spor", "World Cup", ""])
PIECES = st.lists(
    st.sampled_from("{}[]\"':,\\ \n")
    | LABELISH
    | st.sampled_from(['"article": ', '"label": ', '"results": [', "1", "2", "article"])
    | st.text(max_size=3)
).map("".join)


@settings(max_examples=100, deadline=None)
@given(PIECES | st.text(), st.integers(1, 4))
@example('{"article": 1, "label": "W\\u006frld"}', 1)
@example('{"1": "Sci\\/Tech"}', 1)
@example("{1: \"World\" 'Sports'}", 1)
def test_no_label_is_given_that_the_text_does_not_give(text: str, n: int) -> None:
    answers = read_answers(text, n)
    assert [a.article for a in answers] == list(range(1, n + 1))
    assert {a.label for a in answers if a.label is not None} <= given_in(text)


ENTRIES = st.lists(st.tuples(st.integers(1, 4), LABELISH), min_size=1, max_size=6)
WRITERS = {
    "results": lambda rows: json.dumps(
        {"results": [{"article": i, "label": x} for i, x in rows]}
    ),
    "lines": lambda rows: "\n".join(
        json.dumps({"label": x, "article": i, "why": "so"}) for i, x in rows
    ),
    "python": lambda rows: repr([{"article": i, "label": x} for i, x in rows]),
    "map": lambda rows: "{" + ", ".join(f'"{i}": "{x}"' for i, x in rows) + "}",
    "bare": lambda rows: (
        "{" + ", ".join(f"{{article: {i}, label: {x or '?'}}}" for i, x in rows) + "}"
    ),
}


@settings(max_examples=100, deadline=None)
@given(ENTRIES, st.sampled_from(sorted(WRITERS)), st.data())
def test_a_cut_off_reply_says_less_and_nothing_else(
    rows: list[tuple[int, str]], writer: str, data: st.DataObject
) -> None:
    text = WRITERS[writer](rows)
    cut = text[: data.draw(st.integers(0, len(text)))]
    for answer in read_answers(cut, 4):
        said = {label_to_id(x) for i, x in rows if i == answer.article}
        if answer.label is not None:
            assert answer.label in said
    if writer != "bare":
        for answer in read_answers(text, 4):
            said = {label_to_id(x) for i, x in rows if i == answer.article}
            if len(said) == 1 and said != {None}:
                assert answer.label in said
            else:
                assert answer.label is None


# --- damage and floods ---

ENTRY = '{"article": 1, "label": "World"}'


def test_a_damaged_entry_does_not_touch_its_neighbors() -> None:
    damaged = '{"article": 2, "label" "World"}, {article: 3, label: Sports}'
    last = ENTRY.replace("1", "4")
    assert ids(f"[{ENTRY}, {damaged}, {last}]", 4) == [0, "missing", 1, 0]


def test_what_stands_in_one_damaged_list_is_one_place() -> None:
    other = '"x": {"article": 1, "label": "Sports"}'
    assert ids(f"[{ENTRY}, {other}]", 1) == ["ambiguous"]
    assert ids(f"[{ENTRY},] No, rather: {ENTRY.replace('World', 'Sports')}", 1) == [1]


def test_a_damaged_list_corrects_what_stands_before_it() -> None:
    later = f"[{ENTRY.replace('World', 'Sports')},]"
    assert ids(f"{ENTRY} On second thought: {later}", 1) == [1]


def test_a_repair_never_chooses_between_two_values_of_a_key() -> None:
    assert ids("{label: World, label: Sports}", 1) == ["missing"]


def test_only_so_much_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsers, "MAX_REPAIR", 160)
    damaged = "{article: %d, label: World}"
    text = " ".join(damaged % i for i in range(1, 5)) + ENTRY.replace("1", "5")
    assert ids(text, 5) == [0, 0, "missing", "missing", 0]


def test_whatever_a_repair_raises_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise IndexError("a bug")

    monkeypatch.setattr(parsers.json_repair, "loads", fail)
    assert ids("{article: 1, label: World}", 1) == ["missing"]


def test_the_end_of_a_flood_is_what_counts() -> None:
    assert ids("x" * 2 * MAX_LENGTH + ENTRY, 1) == [0]
    assert ids(ENTRY + "x" * MAX_LENGTH, 1) == ["missing"]


FLOODS = [
    "[", "{", '{"a":', '{"a":[', '"', '[["', '[" ', "{'", "}", "[{", "{a:", "[1",
    '[{"a":b},', "{ ,", '{"article": 1 "label": "World"} ', "<think>", "</think>{",
    "{“", "[,", '{"a": (', "\\", '{"\\', "[/*", " ", '{"a":"\\"', "[[1],", "{a:[",
    "<think ", "[ ", "```\n", "```thinking ", "<details><summary>", "<a_", "<summary>",
]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "[%sthink", "<think%s", "<|%sx", '{"article%sx": "World"}', "```%sx", "a%sx",
        '[{"article": "article 1%sx", "label": "World"}]',
        "{article: 1, label: World%s",
    ],
)  # fmt: skip
def test_a_flood_of_blanks_is_read_in_linear_time(text: str) -> None:
    assert ids(text % (" " * 50_000), 2) == ["missing", "missing"]


def test_a_damaged_object_of_countless_keys_is_not_mended() -> None:
    keys = ", ".join(f"{i}: World" for i in range(1, 301))
    assert ids(f"{{{keys}}}", 300) == [0] * 300
    assert ids(f"{{{keys}, 301: World}}", 301) == ["missing"] * 301


@pytest.mark.parametrize("piece", [*FLOODS, "9" * 5_000])
def test_a_flood_is_read_in_linear_time(piece: str) -> None:
    # Where time grew with the square of the length, one of these took half a minute.
    text = f'{{"a": {piece * (MAX_LENGTH // len(piece))}'
    assert len(read_answers(text, 2)) == len(read_answers(text + ENTRY, 2)) == 2


# --- other tasks ---

DIGITS = Task("Stars", ("1", "2", "10"), item="review", subject="rating")
ODD = Task(
    "Ödd",
    (Label("Wirtschaft/Börse"), "Wirtschaft", "card arrival", "card_arrival {x}"),
    item="Frage",
    subject="Thema",
)
MANY = Task("Many", tuple(Label(f"intent {i}") for i in range(77)), item="query")


def test_labels_that_are_numbers_count_as_json_numbers_too() -> None:
    def found(text: str) -> list[int | None]:
        return [a.label for a in read_answers(text, 3, DIGITS)]

    assert found('{"1": 10, "2": "2", "3": 1}') == [2, 1, 0]
    assert found('[{"review": 1, "rating": 10}, {"review": 2, "rating": true}]') == [
        2, None, None,
    ]  # fmt: skip
    assert found("[{'Review': 'review 3', 'label': 2}, 1, 2]") == [None, None, 1]


@pytest.mark.parametrize("task", [DIGITS, ODD, MANY], ids=lambda task: task.name)
def test_a_reply_of_any_task_is_read_as_its_schema_allows(task: Task) -> None:
    schema = results_schema(len(task.said), task)
    entries = [{task.item: i, "label": x} for i, x in enumerate(task.said, start=1)]
    jsonschema.validate({"results": entries}, schema)
    for ascii_ in (True, False):
        text = json.dumps({"results": entries}, ensure_ascii=ascii_)
        answers = read_answers(f"So: {text}", len(entries), task)
        assert [a.label for a in answers] == list(range(len(entries)))


class Topic(Enum):
    WORLD, SPORTS, BUSINESS, SCI_TECH = LABELS


@pytest.mark.parametrize(
    "text",
    [
        "Sci/Tech", "sci/tech", "science/technology", "Science / Technology",
        "SCIENCE & TECHNOLOGY", "science and technology", "Sci-Tech", "sci_tech",
        "SciTech", "Science/Tech", '"Sci/Tech".', "**Sci/Tech**", "\tsci\ntech\n",
    ],
)  # fmt: skip
def test_the_ways_of_writing_science_and_technology(text: str) -> None:
    assert label_to_id(text) == 3


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "and", "Politics", "Wor", "Worlds", "World Sports", "World/Sports",
        "World, Sports", "not World", "0", "3", "Technology", "science", "None",
        "Business" * 9, "World" + " " * 99,
    ],
)  # fmt: skip
def test_what_is_no_label(text: str) -> None:
    assert label_to_id(text) is None


def reply(numbers: Any, labels: Any) -> dict[str, Any]:
    pairs = zip(numbers, labels, strict=True)
    return {"results": [{"article": i, "label": x} for i, x in pairs]}


def test_the_schema_takes_every_whole_reply() -> None:
    schema = results_schema(2)
    jsonschema.Draft202012Validator.check_schema(schema)
    for labels in itertools.product(LABELS, repeat=2):
        jsonschema.validate(reply([1, 2], labels), schema)


@pytest.mark.parametrize(
    "wrong",
    [
        reply([1], ["World"]),
        reply([1, 2, 3], ["World"] * 3),
        reply([2, 1], ["World"] * 2),
        reply([1, 1], ["World"] * 2),
        reply([1, 2], ["World", "Politics"]),
        reply([1, 2], ["World", "sports"]),
        {"results": [{"article": 1, "label": "World"}, {"article": 2}]},
        {**reply([1, 2], ["World"] * 2), "note": "!"},
        {"results": [{"article": 1, "label": "World", "why": "!"}] * 2},
        {},
        [],
    ],
)
def test_the_schema_takes_no_other(wrong: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, results_schema(2))


def test_the_schema_needs_an_article() -> None:
    with pytest.raises(ValueError, match="at least one article"):
        results_schema(0)


def test_the_classes_read_what_the_schema_allows() -> None:
    results = Results.model_validate(reply([1, 2], ["World", "Sports"]))
    assert results.results[1] == Classification(article=2, label="Sports")
    with pytest.raises(ValidationError):
        Classification(article=0, label="World")


def test_the_classes_work_in_a_chain() -> None:
    text = '{"results": [{"article": 1, "label": "World"}]}'
    parser = PydanticOutputParser(pydantic_object=Results)
    chain = zero_shot() | FakeListChatModel(responses=[text]) | parser
    assert chain.invoke({"articles": "x"}).results[0].label == "World"


@pytest.mark.parametrize("member", Topic)
def test_one_label_is_parsed_to_its_member(member: Any) -> None:
    parser = EnumOutputParser(enum=Topic)
    for text in (member.value, f" {member.value.lower()}.\n", f"**{member.value}**"):
        assert parser.parse(text) is member
    assert (
        FakeListChatModel(responses=[member.value]).pipe(parser).invoke("x") is member
    )


@pytest.mark.parametrize("text", ["", "Politics", "It is World", "World " * 1000])
def test_what_is_no_member_is_an_error_with_the_choices(text: str) -> None:
    with pytest.raises(OutputParserException, match="none of World, Sports") as caught:
        EnumOutputParser(enum=Topic).parse(text)
    assert caught.value.llm_output == text
    assert len(str(caught.value)) < 300


def test_the_instructions_name_the_choices() -> None:
    parser = EnumOutputParser(enum=Topic)
    for label in LABELS:
        assert label in parser.get_format_instructions()
    assert parser._type == "enum"


# ---- thoughts, and numbers that begin with 0 ----

DRAFT = (
    '{"results": [{"article": 1, "label": "World"}, {"article": 2, "label": "World"}]}'
)
FINAL = '[{"article": 1, "label": "Sports"}, {"article": 2, "label": "Business"}]'
MARKS = [
    ("<think>", "</think>"),
    ("<THINKING>", "</Thinking>"),
    ('<thought kind="long">', "</thought>"),
    ("<reasoning_content>", "</reasoning_content>"),
    ("[THINK]", "[/THINK]"),
    ("(thinking)", "(/thinking)"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought\n", "<channel|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    ("analysisWe see: ", "assistantfinal"),
    ("<inner_thoughts>", "</inner_thoughts>"),
    ("<antThinking>", "</antThinking>"),
    ("<chain-of-thought>", "</chain-of-thought>"),
    ("< think >", "</ think >"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<draft>", "</draft>"),
    ("```thinking\n", "\n```"),
    ("<details>\n<summary>My reasoning</summary>", "</details>"),
    ("Thinking...\n", "...done thinking.\n"),
]


@pytest.mark.parametrize("mark", ["// {}\n", "# {}\n", "/* {} */"])
@pytest.mark.parametrize("behind", ["[", '"article": 1,', '"World"', '"World"},', ":"])
def test_a_comment_may_quote_what_it_is_about(mark: str, behind: str) -> None:
    text = '[{"article": 1, "label": "World"},\n{"article": 2, "label": "Sports"}]'
    said = mark.format('not "label": "Business", "article": 2')
    assert ids(text.replace(behind, f"{behind} {said}", 1)) == [0, 1]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(MARKS), st.sampled_from([DRAFT, "World", "Article 1: World"]))
def test_a_label_that_stands_in_thoughts_alone_is_none(
    marks: tuple[str, str], draft: str
) -> None:
    begin, end = marks
    for n in (1, 2):
        assert ids(f"{begin} Maybe {draft}? Hm.", n) == ["missing"] * n
        assert ids(f"{begin} Maybe {draft}? {end}", n) == ["missing"] * n
    assert ids(f"{begin} Maybe {draft}? {end}\n{FINAL}") == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        FINAL.replace("}", ', "why": "<think> stands in it"}'),
        "```json\n" + FINAL.replace("}", ', "why": "</think>"}') + "\n```",
        f"My answer (analysis below): {FINAL}",
        f"<think/>{FINAL}",
        f"[rethinking it] {FINAL}",
        f"My answers (draft): {FINAL}",
        f"```\nsome code\n```\nAnalysis done. {FINAL}",
        f"```json\n{FINAL}\n```\nThese are my thoughts.",
        f'{{"thoughts": {DRAFT}, "results": {FINAL}}}',
    ],
)
def test_what_only_looks_like_thoughts_hides_nothing(text: str) -> None:
    assert ids(text) == [1, 2]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_way_of_numbering_gives_an_article_the_label_of_another(data: Any) -> None:
    n = data.draw(st.integers(1, 6))
    start = data.draw(st.sampled_from([0, 1]))
    kept = data.draw(st.lists(st.integers(0, n - 1), unique=True, min_size=1))
    true = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    key = data.draw(st.sampled_from(["{}", "article_{}", "article-{}", "Article {}"]))
    assume(start == 1 or 0 in kept)  # else nothing tells it from a count from 1
    entries = {key.format(i + start): AG_NEWS.label_names[true[i]] for i in kept}
    found = [answer.label for answer in read_answers(json.dumps(entries), n)]
    assert all(label in (None, right) for label, right in zip(found, true, strict=True))
    if start == 1 or kept == list(range(len(kept))):
        assert [i for i, label in enumerate(found) if label is not None] == sorted(kept)


def test_a_stray_zero_is_out_of_range() -> None:
    reply = '{"0": "World", "1": "Sports", "2": "Business"}'
    assert ids(reply, 2) == [1, 2]
