"""Find the JSON in what a language model replied: in prose, damaged or cut off."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import json_repair

from chapterlib.brackets import stretches

__all__ = [
    "NoJsonError",
    "Part",
    "extract_json",
    "find_json",
    "pairs",
    "without_thoughts",
]

# A reply has a few thousand characters: these bounds only keep floods from taking long.
MAX_LENGTH = 100_000
MAX_REPAIR = 20_000

THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


class NoJsonError(ValueError):
    """The text holds no JSON object or array that could be read."""


class Part(NamedTuple):
    """A piece of a reply that was read as JSON.

    Attributes
    ----------
    value : Any
        What it says.
    source : str or None
        The text it was guessed from, where that is no valid JSON.
    """

    value: Any
    source: str | None = None


class _Object(dict[str, Any]):
    """A JSON object that remembers what it said about a key before the last time."""

    pairs: list[tuple[str, Any]]

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        made = cls(pairs)
        made.pairs = pairs
        return made


def pairs(value: dict[str, Any]) -> list[tuple[str, Any]]:
    """List the members of an object as written, a doubled key twice."""
    return value.pairs if isinstance(value, _Object) else list(value.items())


# Line ends in strings are forbidden, but harmless.
DECODER = json.JSONDecoder(object_pairs_hook=_Object.of, strict=False)


def extract_json(text: str) -> Any:
    """Return the JSON value that a reply comes to.

    Parameters
    ----------
    text : str
        Prose, code fences and ``<think>`` blocks around the JSON are skipped; of a
        longer text than 100,000 characters only the end is read.

    Returns
    -------
    Any
        The last object, or array with objects in it, since models think first and
        answer last; where there is none, the last other array. Several of them with
        nothing but white space, commas and semicolons between them are one list.
        Damage (trailing commas, single or missing quotes, comments) is repaired;
        of a value that is cut off the whole elements remain.

    Raises
    ------
    NoJsonError
        If there is none.

    Examples
    --------
    >>> extract_json('Sure! {"results": [{"article": 1, "label": "World"},]} Done.')
    {'results': [{'article': 1, 'label': 'World'}]}
    >>> extract_json(
    ...     '{"results": [{"article": 1, "label": "World"}, {"article": 2, "la'
    ... )
    {'results': [{'article': 1, 'label': 'World'}]}
    """
    best: list[Any] = []
    budget = MAX_REPAIR
    for group in stretches(without_thoughts(text)):
        values = []
        for stretch in group:
            found, repaired = _decode(stretch.text, budget)
            budget -= repaired
            if found is not None:
                values.append(found.value)
        telling = [value for value in values if _holds_object(value)]
        if telling or (values and not any(map(_holds_object, best))):
            best = telling or values
    if not best:
        raise NoJsonError(
            "The text holds no JSON object or array. Ask for JSON and nothing else, "
            "and leave the reply room enough (max_tokens)."
        )
    return best[0] if len(best) == 1 else best


def find_json(text: str) -> Iterator[list[Part]]:
    """Read all JSON in a reply, damaged objects one by one.

    Where a value is no valid JSON, each innermost object in it is read on its own, so
    that damage to one entry can't spread to another.

    Parameters
    ----------
    text : str
        As for `extract_json`.

    Yields
    ------
    list of Part
        Values with nothing but white space, commas and semicolons between them, in
        the order of the text.
    """
    budget = MAX_REPAIR
    for group in stretches(without_thoughts(text)):
        parts = []
        for stretch in group:
            valid = _load(stretch.text)
            if valid is not None:
                parts.append(Part(valid))
                continue
            for leaf in stretch.leaves:
                found, repaired = _decode(leaf, budget)
                budget -= repaired
                if found is not None:
                    parts.append(found)
        if parts:
            yield parts


def without_thoughts(text: str) -> str:
    """Leave out what was only thought, and all but the end of very long texts.

    Parameters
    ----------
    text : str
        A reply.

    Returns
    -------
    str
        What follows the last ``</think>``, up to a ``<think>`` that stays open; its
        last 100,000 characters.

    Examples
    --------
    >>> without_thoughts("<think>A match, so Sports?</think>Sports")
    'Sports'
    """
    marks = list(THINKING.finditer(text))
    closings = [mark for mark in marks if mark[1]]
    start = closings[-1].end() if closings else 0
    openings = [mark.start() for mark in marks if not mark[1] and mark.start() >= start]
    return text[start : min(openings, default=None)][-MAX_LENGTH:]


def _holds_object(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) and item for item in items)


def _decode(text: str, budget: int) -> tuple[Part | None, int]:
    """Read valid JSON, or repair it; return also how many characters were repaired."""
    valid = _load(text)
    if valid is not None:
        return Part(valid), 0
    if not text or len(text) > budget:
        return None, 0
    try:
        value = json_repair.loads(text, skip_json_loads=True, strict=True)
    except Exception:  # whatever goes wrong in a repair, there is no value
        return None, len(text)
    flat = not re.search(r"[\[{]", text[1:])
    if not isinstance(value, (dict, list)) or (flat and _says_twice(value, text)):
        return None, len(text)
    return Part(value, text), len(text)


def _says_twice(value: dict[str, Any] | list[Any], text: str) -> bool:
    """Find a key that stands twice, of which a repair keeps one value."""
    return isinstance(value, dict) and any(
        len(re.findall(rf"(?<!\w){re.escape(str(key))}[\"'”]?\s*:", text)) > 1
        for key in value
    )


def _load(text: str) -> Any:
    """Return what valid JSON says, None for anything else."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        # ValueError also comes of integers with thousands of digits.
        return None
