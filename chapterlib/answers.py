"""From a model's reply to one answer for every article: none lost, none invented."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from chapterlib.labels import LABELS, label_to_id
from chapterlib.replyjson import Part, find_json, pairs, without_thoughts

__all__ = ["Answer", "Verdict", "read_answers", "shortened"]

Verdict = Literal["parsed", "missing", "ambiguous", "refused", "invalid"]


ARTICLE_KEYS = {"article", "article_number", "article_id", "number", "id", "index"}
LABEL_KEYS = {"label", "category", "class", "topic"}
NUMBER = re.compile(r"\s*(?:article\s*)?#?0*([1-9][0-9]{0,8})\s*[.:]?\s*", re.I)
# Only of the model itself: articles too tell of those who refuse or are unable.
REFUSAL = re.compile(
    r"\b(?:i['’]?m|i am) (?:sorry|unable|not able|afraid)\b"
    r"|\bi (?:can(?:no|['’])t|can not|won['’]?t|will not|refuse)\b"
    r"|\bi (?:must |have to )?decline\b"
    r"|\bas an ai\b|\bsorry, (?:but )?i\b|\bi apologi[sz]e\b",
    re.I,
)
SAID = 60  # characters of what was said that an answer keeps


class Answer(BaseModel):
    """What became of one article.

    Attributes
    ----------
    article : int
        Its number, from 1.
    label : int or None
        Class id; None unless the verdict is "parsed".
    verdict : str
        "parsed": the reply gives one label; "missing": none; "ambiguous": several
        that differ; "refused": the model declined; "invalid": it gives something that
        is no label.
    said : str or None
        What the reply gives as label, shortened.
    """

    model_config = ConfigDict(frozen=True)

    article: int = Field(ge=1)
    label: int | None = Field(default=None, ge=0, lt=len(LABELS))
    verdict: Verdict = "missing"
    said: str | None = None

    @model_validator(mode="after")
    def _label_if_parsed(self) -> Answer:
        if (self.label is None) == (self.verdict == "parsed"):
            raise ValueError(
                f"label={self.label} with verdict={self.verdict!r}: an answer has a "
                "label if it was parsed, and only then."
            )
        return self


def read_answers(text: str, n: int) -> list[Answer]:
    """Read the answers to `n` numbered articles out of a reply.

    Articles are known by their numbers, never by position; numbers outside 1 to `n`
    are ignored. Where JSON stands at several places with prose between them, a later
    one corrects an earlier one, article by article; two labels for an article in one
    place are "ambiguous". A label that is cut off is none.

    Parameters
    ----------
    text : str
        The reply, whatever it is.
    n : int
        Number of articles asked about. If it is 1, a reply that is nothing but a
        label, and an entry without an article number, count too.

    Returns
    -------
    list of Answer, length n
        In the order of the articles.

    Raises
    ------
    ValueError
        If `n` is below 1.

    Examples
    --------
    >>> reply = '[{"article": 2, "label": "Sports"}, {"article": 1, "label": "Art"}]'
    >>> for answer in read_answers(reply, 3):
    ...     print(answer.article, answer.verdict, answer.label)
    1 invalid None
    2 parsed 1
    3 missing None
    """
    if n < 1:
        raise ValueError(f"n={n}: a reply answers at least one article.")
    said: dict[int, list[Any]] = {}
    for parts in find_json(text):
        here: dict[int, list[Any]] = defaultdict(list)
        for part in parts:
            for article, label in _entries(part.value):
                number = 1 if article is None and n == 1 else article
                if number is not None and number <= n and _stands(label, part):
                    here[number].append(label)
        said.update(here)
    if not said:
        spoken = without_thoughts(text).strip()
        if n == 1 and label_to_id(spoken) is not None:
            return [_answer(1, [spoken])]
        if REFUSAL.search(spoken[:2_000]):
            return [
                Answer(article=i, verdict="refused", said=shortened(spoken))
                for i in range(1, n + 1)
            ]
    return [_answer(i, said.get(i, [])) for i in range(1, n + 1)]


def _entries(value: Any) -> Iterator[tuple[int | None, Any]]:
    """Yield article number (None: not given) and label of each entry."""
    if isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                yield from _entries(item)
        return
    if not isinstance(value, dict):
        return
    members = [(str(key).strip().lower(), item) for key, item in pairs(value)]
    labels = [item for key, item in members if key in LABEL_KEYS]
    if labels:
        named = [_number(item) for key, item in members if key in ARTICLE_KEYS]
        for number in set(named or [None]):
            # A number that can't be read is not the same as none.
            if number is not None or not named:
                for label in labels:
                    yield from _each(number, label)
        return
    for key, item in members:
        number = _number(key)
        if number is None:
            yield from _entries(item)
        elif isinstance(item, dict):
            for inner, label in _entries(item):
                yield from _each(number if inner is None else inner, label)
        else:
            yield from _each(number, item)


def _each(number: int | None, label: Any) -> Iterator[tuple[int | None, Any]]:
    """Take a list of labels for several labels."""
    for item in label if isinstance(label, list) else [label]:
        yield number, item


def _number(value: Any) -> int | None:
    """Read an article number from 1."""
    if isinstance(value, str):
        found = NUMBER.fullmatch(value)
        return int(found[1]) if found else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    whole = isinstance(value, int) or value.is_integer()
    return int(value) if whole and 1 <= value < 10**9 else None


def _stands(label: Any, part: Part) -> bool:
    """Check that a repaired label stands in the text as such, and ends there."""
    if part.source is None or not isinstance(label, str):
        return True
    end = r"""[.,;]?["'”]?\s*(?:[,;\]}/#]|\Z|["'“]?\w+["'”]?\s*:)"""
    return bool(re.search(rf"(?<!\w){re.escape(label)}{end}", part.source))


def _answer(article: int, labels: list[Any]) -> Answer:
    """Pass the verdict on all that was said of one article."""
    given = [label for label in labels if label is not None]
    if not given:
        return Answer(article=article)
    said = " | ".join(dict.fromkeys(map(shortened, given)))[:SAID]
    ids = {label_to_id(x) if isinstance(x, str) else None for x in given}
    if ids == {None}:
        refused = all(isinstance(x, str) and REFUSAL.search(x[:2_000]) for x in given)
        verdict: Verdict = "refused" if refused else "invalid"
        return Answer(article=article, verdict=verdict, said=said)
    if len(ids) > 1:
        return Answer(article=article, verdict="ambiguous", said=said)
    return Answer(article=article, label=ids.pop(), verdict="parsed", said=said)


def shortened(label: Any) -> str:
    """Write what was said as one line of at most 60 characters."""
    text = label if isinstance(label, str) else json.dumps(label)
    text = " ".join(text[: 4 * SAID].split())
    return text if len(text) <= SAID else text[: SAID - 1] + "…"
