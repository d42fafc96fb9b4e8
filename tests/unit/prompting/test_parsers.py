"""The label map, the schema of a reply, and the parser of one label."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import PydanticOutputParser
from pydantic import ValidationError

from chapterlib.prompting import parsers
from chapterlib.prompting.parsers import (
    Classification,
    EnumOutputParser,
    Results,
    results_schema,
)
from chapterlib.prompting.prompts import zero_shot
from chapterlib.tasks import task
from chapterlib.tasks.task import LABEL_TO_ID, LABELS, label_to_id


class Topic(Enum):
    WORLD, SPORTS, BUSINESS, SCI_TECH = LABELS


def test_the_labels_are_those_of_the_data_in_their_order() -> None:
    assert [label_to_id(name) for name in task.LABEL_NAMES] == [0, 1, 2, 3]
    assert [label_to_id(name) for name in LABELS] == [0, 1, 2, 3]


def test_everything_public_can_be_imported() -> None:
    assert all(hasattr(parsers, name) for name in parsers.__all__)


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


@settings(deadline=None)
@given(
    st.sampled_from(sorted(LABEL_TO_ID)),
    st.text(" \t\n.,:;!?\"'`*()[]{}-_#", max_size=5),
    st.text(" \t\n.,:;!?\"'`*()[]{}-_#", max_size=5),
    st.sampled_from([str.upper, str.lower, str.title]),
)
def test_case_and_punctuation_do_not_matter(
    name: str, before: str, after: str, case: Any
) -> None:
    assert label_to_id(before + case(name) + after) == LABEL_TO_ID[name]


def test_the_map_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        LABEL_TO_ID["weather"] = 4  # type: ignore[index]


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
