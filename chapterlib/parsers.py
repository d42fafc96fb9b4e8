"""What the chapters need to read replies: the classes, the label map, the parsers."""

from __future__ import annotations

from enum import Enum
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import BaseOutputParser
from pydantic import BaseModel, Field

from chapterlib.answers import Answer, Verdict, read_answers, shortened
from chapterlib.labels import LABEL_TO_ID, LABELS, label_to_id, normalized
from chapterlib.replyjson import NoJsonError, extract_json

__all__ = [
    "LABELS",
    "LABEL_TO_ID",
    "Answer",
    "Classification",
    "EnumOutputParser",
    "NoJsonError",
    "Results",
    "Verdict",
    "extract_json",
    "label_to_id",
    "read_answers",
    "results_schema",
]


class Classification(BaseModel):
    """One article's label, as the model is asked to write it."""

    article: int = Field(ge=1, description="number of the article")
    label: str = Field(description=f"one of {', '.join(LABELS)}")


class Results(BaseModel):
    """The whole reply: one classification for each article."""

    results: list[Classification]


def results_schema(n: int) -> dict[str, Any]:
    """Return the JSON schema of a reply to `n` articles, for constrained decoding.

    Parameters
    ----------
    n : int
        Number of articles.

    Returns
    -------
    dict
        A reply that fits names the articles 1 to `n` in order, each with one of
        `LABELS`: a server that enforces it can't leave one out.

    Raises
    ------
    ValueError
        If `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: a reply answers at least one article.")
    entries = [
        _closed({"article": {"const": i}, "label": {"enum": list(LABELS)}})
        for i in range(1, n + 1)
    ]
    array = {"type": "array", "prefixItems": entries, "minItems": n, "maxItems": n}
    return _closed({"results": array})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


class EnumOutputParser(BaseOutputParser[Enum]):
    """Parse a reply that is one value of an `Enum`, for one article.

    Attributes
    ----------
    enum : type of Enum
        Its values are the labels, strings.

    Examples
    --------
    >>> Topic = Enum("Topic", {"WORLD": "World", "SPORTS": "Sports"})
    >>> EnumOutputParser(enum=Topic).parse(" sports.")
    <Topic.SPORTS: 'Sports'>
    """

    enum: type[Enum]

    def parse(self, text: str) -> Enum:
        """Return the member that the text names.

        Raises
        ------
        OutputParserException
            If the text is no value; case and punctuation around it do not matter.
        """
        values = {normalized(str(member.value)): member for member in self.enum}
        member = values.get(normalized(text[:100]))
        if member is None:
            raise OutputParserException(
                f"{shortened(text)!r} is none of {', '.join(self._values())}.",
                llm_output=text,
            )
        return member

    def get_format_instructions(self) -> str:
        """Say in the prompt what the reply must be."""
        return f"Reply with one of these and nothing else: {', '.join(self._values())}."

    def _values(self) -> list[str]:
        return [str(member.value) for member in self.enum]

    @property
    def _type(self) -> str:
        return "enum"
