"""Find the stretches of a text that are JSON or were meant to be, in linear time."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple, get_args

import json_repair
import numpy as np
import numpy.typing as npt
import pandas as pd
from datasets import ClassLabel, Dataset, Value
from datasets.fingerprint import Hasher
from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import BaseOutputParser
from pydantic import BaseModel, ConfigDict, Field, model_validator

from chapterlib.metrics.evaluation import NO_ANSWER
from chapterlib.tasks.task import (
    LABEL_NAMES,
    LABELS,
    label_to_id,
    normalized,
)

# Deeper nesting is no reply to a classification, and recursion would not survive it.
MAX_DEPTH = 40

# A bracket in prose is taken for JSON only if what follows could be JSON.
START = re.compile(
    r"""\{\s*(?:["'“}]|-?\d|/[/*]|\w{1,40}\s*:)
    |\[\s*(?:["'“\]\[{]|-?\d|/[/*]|(?:null|true|false|NaN|-?Infinity)\s*[,\]])""",
    re.VERBOSE,
)
OUTSIDE = re.compile(r"""[\]\[{},"]|(?<=[{\[,:])\s*'""")
CLOSERS = {"{": "}", "[": "]"}
# Models forget to escape quotes in a string: the quote that ends it is the first
# after which JSON can go on.
INSIDE = {
    quote: re.compile(rf"\\.|{quote}(?=\s*(?:[\]}},:]|\Z))", re.DOTALL)
    for quote in "\"'"
}
# Between two values of one list that lacks its brackets (JSON Lines, for example).
JOINT = re.compile(r"[\s,;]*")


class Stretch(NamedTuple):
    """An outermost object or array.

    Attributes
    ----------
    start, end : int
        Where it stands in the text, which it ends if it is cut off.
    text : str
        Without commas before a closing bracket, with forgotten brackets, and without
        what is cut off; empty if nothing whole is in it or it is nested too deep.
    leaves : list of str
        The same for each object in it that holds no other object or array.
    """

    start: int
    end: int
    text: str
    leaves: list[str]


def stretches(text: str) -> Iterator[list[Stretch]]:
    """Find all outermost objects and arrays of a text.

    Parameters
    ----------
    text : str
        A bracket opens one if what follows looks like JSON.

    Yields
    ------
    list of Stretch
        Those with nothing but white space, commas and semicolons between them.
    """
    group: list[Stretch] = []
    position = 0
    while start := START.search(text, position):
        stretch = _Scan(text, start.start()).run()
        if group and not JOINT.fullmatch(text, position, stretch.start):
            yield group
            group = []
        group.append(stretch)
        position = stretch.end
    if group:
        yield group


class _Open:
    """An object or array whose end has not been reached."""

    def __init__(self, start: int, closer: str) -> None:
        self.start = start
        self.closer = closer
        self.safe: int | None = None  # where its last whole element ends
        self.leaf = True  # holds no object or array


class _Scan:
    """One pass over brackets and strings, from an opening bracket to its partner."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = self.position = start
        self.stack: list[_Open] = []
        self.waiting: Counter[str] = Counter()  # closers of the stack
        self.deepest = 0
        self.comma: int | None = None  # the last one, if no bracket came after it
        self.leaves: list[str] = []
        # Repairs: from, to, what stands there instead; in the order of the text.
        self.edits: list[tuple[int, int, str]] = []

    def run(self) -> Stretch:
        self._open(self.start)
        while self.stack and (token := OUTSIDE.search(self.text, self.position)):
            mark, place = token[0][-1], token.end() - 1
            self.position = place + 1
            if mark in INSIDE:
                if not self._skip_string(INSIDE[mark], mark):
                    break
            elif mark in CLOSERS:
                self._open(place)
            elif mark == ",":
                self.comma = self.stack[-1].safe = place
            elif self.waiting[mark]:
                self._close(mark, place)
        if self.stack:
            return self._cut_off()
        return self._stretch(self.position, self.position, "")

    def _open(self, place: int) -> None:
        if self.stack:
            self.stack[-1].leaf = False
        opened = _Open(place, CLOSERS[self.text[place]])
        self.stack.append(opened)
        self.waiting[opened.closer] += 1
        self.deepest = max(self.deepest, len(self.stack))
        self.position = place + 1
        self.comma = None

    def _skip_string(self, inside: re.Pattern[str], quote: str) -> bool:
        """Go to the end of a string; False if it is cut off."""
        while end := inside.search(self.text, self.position):
            self.position = end.end()
            if end[0] == quote:
                return True
        return False

    def _close(self, mark: str, place: int) -> None:
        """Close the innermost bracket that the mark fits, and those inside of it."""
        end = place
        if self.comma is not None and not self.text[self.comma + 1 : place].strip():
            end = self.comma
        self.comma = None
        forgotten = ""
        while True:
            closed = self.stack.pop()
            self.waiting[closed.closer] -= 1
            self._add_leaf(closed, end)
            if closed.closer == mark:
                break
            forgotten += closed.closer
        if end < place or forgotten:
            self.edits.append((end, place, forgotten))
        if self.stack:
            self.stack[-1].safe = place + 1

    def _add_leaf(self, closed: _Open, end: int) -> None:
        if closed.leaf and closed.closer == "}":
            self.leaves.append(self.text[closed.start : end] + "}")

    def _cut_off(self) -> Stretch:
        """Keep what is whole.

        An object in an array is whole or nothing: half an entry is none. Of other
        objects the members before the last comma are whole.
        """
        kept = len(self.stack)
        for i in range(1, kept):
            if (self.stack[i - 1].closer, self.stack[i].closer) == ("]", "}"):
                kept = i
                break
        while kept and self.stack[kept - 1].safe is None:
            kept -= 1
        if not kept:
            return Stretch(self.start, len(self.text), "", self.leaves)
        last = self.stack[kept - 1]
        safe = last.safe or 0
        self._add_leaf(last, safe)
        closers = "".join(opened.closer for opened in reversed(self.stack[:kept]))
        return self._stretch(len(self.text), safe, closers)

    def _stretch(self, end: int, whole_to: int, closers: str) -> Stretch:
        pieces = []
        position = self.start
        for left, right, instead in self.edits:
            if right <= whole_to:
                pieces += [self.text[position:left], instead]
                position = right
        pieces += [self.text[position:whole_to], closers]
        text = "".join(pieces) if self.deepest <= MAX_DEPTH else ""
        return Stretch(self.start, end, text, self.leaves)


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


VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def label_ids(answers: Sequence[Answer]) -> npt.NDArray[np.int64]:
    """Class id of each answer, -1 where it has none: shape [n]."""
    return np.array(
        [NO_ANSWER if a.label is None else a.label for a in answers], dtype=np.int64
    )


def accounting(answers: Sequence[Answer]) -> pd.DataFrame:
    """Count the answers by verdict; the counts add up to the number of articles.

    Parameters
    ----------
    answers : sequence of Answer

    Returns
    -------
    DataFrame
        A row for each verdict there can be, with the columns `articles` and `share`.

    Examples
    --------
    >>> answer = Answer(article=1, label=None, verdict="refused", said="I cannot")
    >>> int(accounting([answer]).loc["refused", "articles"])
    1
    """
    counts = Counter(answer.verdict for answer in answers)
    table = pd.DataFrame(
        {"articles": [counts[verdict] for verdict in VERDICTS]},
        index=pd.Index(VERDICTS, name="verdict"),
    )
    table["share"] = table["articles"] / max(len(answers), 1)
    return table


def answers_to_dataset(dataset: Dataset, answers: Sequence[Answer]) -> Dataset:
    """Put the answers beside the rows that they are about.

    Parameters
    ----------
    dataset : datasets.Dataset
        The rows whose texts were asked about.
    answers : sequence of Answer
        One a row, in order.

    Returns
    -------
    datasets.Dataset
        The rows with the columns `predicted` (a `ClassLabel`, -1 for no answer),
        `verdict` and `said`, which replace columns of these names.

    Raises
    ------
    ValueError
        If the answers are not those of the rows, by number.

    Notes
    -----
    The fingerprint follows from the rows' and the answers, so that what `datasets`
    caches of one set of answers is never taken for another's.
    """
    numbers = [answer.article for answer in answers]
    if numbers != list(range(1, len(dataset) + 1)):
        raise ValueError(
            f"{len(dataset)} rows need the answers 1 to {len(dataset)} in order, and "
            f"these are {len(numbers)}: hand over what predict_answers gave for "
            "the dataset's own texts"
        )
    labels = ClassLabel(names=list(LABEL_NAMES))
    columns: dict[str, tuple[list[Any], Any]] = {
        "predicted": (label_ids(answers).tolist(), labels),
        "verdict": ([answer.verdict for answer in answers], Value("string")),
        "said": ([answer.said for answer in answers], Value("string")),
    }
    stale = [name for name in columns if name in dataset.column_names]
    result = dataset.remove_columns(stale)
    for name, (values, feature) in columns.items():
        known = Hasher.hash([result._fingerprint, name, values])
        result = result.add_column(name, values, new_fingerprint=known, feature=feature)
    return result


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
