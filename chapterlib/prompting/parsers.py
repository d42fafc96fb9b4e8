"""Read labels out of replies: one verdict for each text, and no label made up.

JSON is read by the standard library; where a value is damaged, `json_repair` mends one
innermost object at a time, so that damage to one entry can't spread to another.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, Literal, get_args

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
from chapterlib.prompting.prompts import (
    Classification as Classification,
    Results as Results,
    check_count,
    results_schema as results_schema,
)
from chapterlib.prompting.thoughts import DECODER, WORDS, Pairs, without_thoughts
from chapterlib.tasks.task import AG_NEWS, Task, normalized

# A reply has a few thousand characters: these only keep floods from taking long.
MAX_FAILED = 1_000_000  # characters read in vain, 500 more for each attempt
MAX_REPAIR = 20_000  # characters of damaged objects, 50 more for each
MAX_KEYS = 300  # of a damaged object
MAX_DEPTH = 40  # of nesting

Verdict = Literal["parsed", "missing", "ambiguous", "refused", "invalid"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

NUMBER_KEYS = {"article", "article number", "article id", "number", "id", "index"}
LABEL_KEYS = {"label", "category", "class", "topic"}
NUMBER = r"(?:(?:article|{item})\s*(?:[_-]\s*)?)?#?0*([0-9]{{1,9}})\s*[.:]?"
# Only of the model itself: articles too tell of those who refuse or are unable.
REFUSAL = re.compile(
    r"\b(?:i['’]?m|i am) (?:sorry|unable|not able|afraid)\b"
    r"|\bi (?:can(?:no|['’])t|can not|won['’]?t|will not|refuse)\b"
    r"|\bi (?:must |have to )?decline\b"
    r"|\bas an ai\b|\bsorry, (?:but )?i\b|\bi apologi[sz]e\b",
    re.I,
)
# A bracket in prose is taken for JSON only if what follows could be.
BRACKET = re.compile(
    r"""[\]}]
    |\{\s*(?:["'“}]|-?\d|/[/*]|\w{1,40}\s*:)
    |\[\s*(?:["'“\]\[{]|-?\d|/[/*]|(?:null|true|false|NaN|-?Infinity)\s*[,\]])""",
    re.VERBOSE,
)
# An object of scalars and lists of them, to its end: what is cut off is none.
INNERMOST = re.compile(r"\{[^{}\[\]]*(?:\[[^{}\[\]]*\][^{}\[\]]*)*\}")
COMMENT = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|//[^\n]*|\#(?!\d)[^\n]*|/\*.*?(?:\*/|\Z)""",
    re.DOTALL,
)
JOINT = re.compile(r"[\s,;\[\]{}]*")  # between two values of one list
SAID = 60  # characters of what was said that an answer keeps


class Answer(BaseModel):
    """What became of one text: its number from 1, its class id if there is one.

    The verdict is "parsed": the reply gives one label; "missing": none; "ambiguous":
    several that differ; "refused": the model declined; "invalid": it gives something
    that is no label. `said` is what the reply gives as label, shortened.
    """

    model_config = ConfigDict(frozen=True)

    article: int = Field(ge=1)
    label: int | None = Field(default=None, ge=0)
    verdict: Verdict = "missing"
    said: str | None = None

    @model_validator(mode="after")
    def _label_if_parsed(self) -> Answer:
        if (self.label is None) == (self.verdict == "parsed"):
            said = f"label={self.label} with verdict={self.verdict!r}"
            raise ValueError(f"{said}: an answer has a label only if it was parsed")
        return self


def read_answers(text: str, n: int, task: Task = AG_NEWS) -> list[Answer]:
    """Read the answers to `n` numbered texts out of a reply.

    Texts are known by their numbers, never by position; numbers outside 1 to `n` are
    ignored. Where JSON stands at several places with prose between them, a later one
    corrects an earlier one, text by text; two labels for a text in one place are
    "ambiguous". A label that is cut off is none.

    Parameters
    ----------
    text : str
        The reply, whatever it is.
    n : int
        Number of texts asked about. If it is 1, a reply that is nothing but a label,
        and an entry without a number, count too.

    Examples
    --------
    >>> reply = '[{"article": 2, "label": "World"}, {"article": 1, "label": "Art"}]'
    >>> for answer in read_answers(reply, 3):
    ...     print(answer.article, answer.verdict, answer.label)
    1 invalid None
    2 parsed 0
    3 missing None
    """
    check_count(n)
    reply = without_thoughts(text)
    groups = [
        [
            (number, label, source)
            for value, source in group
            for number, label in _entries(value, task)
        ]
        for group in _groups(reply)
    ]
    shift = _shift([i for group in groups for i, _, _ in group if i is not None], n)
    found: dict[int, list[Any]] = {}
    for group in groups:
        here: dict[int, list[Any]] = defaultdict(list)
        for number, label, source in group:
            i = 1 if number is None and n == 1 else number
            place = 0 if i is None or shift is None else i + shift
            if 1 <= place <= n and _stands(label, source):
                here[place].append(label)
        found.update(here)
    spoken = reply.strip()
    if not found and n == 1 and task.parse(spoken) is not None:
        found = {1: [spoken]}
    if not found and REFUSAL.search(spoken[:2_000]):
        refused = Answer(article=1, verdict="refused", said=shortened(spoken))
        return [refused.model_copy(update={"article": i}) for i in range(1, n + 1)]
    return [_answer(i, found.get(i, []), task) for i in range(1, n + 1)]


def _shift(numbers: list[int], n: int) -> int | None:
    """Return what a reply's numbers lack: 1 if they count from 0, None if unclear."""
    if 0 not in numbers or n in numbers:  # then a 0 is a stray one
        return 0
    follows = all(b in (0, a + 1) for a, b in pairwise(numbers))
    return 1 if numbers[0] == 0 and follows else None


def _groups(text: str) -> Iterator[list[tuple[Any, str | None]]]:
    """Yield the JSON values of each place, or damaged list, and what was mended."""
    group: list[tuple[Any, str | None]] = []
    at = end = damaged = failed = repaired = 0
    while bracket := BRACKET.search(text, at):
        start = bracket.start()
        if text[start] in "]}":
            damaged, at = max(damaged - 1, 0), start + 1
            continue
        if group and not damaged and not JOINT.fullmatch(text, end, start):
            yield group
            group = []
        value, source, whole = None, None, INNERMOST.match(text, start)
        try:
            if failed > MAX_FAILED and whole is None:
                raise ValueError("too much was read in vain")
            value, at = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            # Not every error says how far the decoder came.
            came = 0 if "Unterminated" in str(error) else getattr(error, "pos", 0)
            failed += 500 + (came or len(text)) - start
            if whole is None:  # look inside
                damaged, at = damaged + 1, start + 1
                continue
            source, at = whole[0], whole.end()
            repaired += 50 + len(source)
            value = _repaired(source) if repaired <= MAX_REPAIR else None
        end = at
        if value is not None:
            group.append((value, source))
    yield group


def _repaired(text: str) -> Any:
    """Mend one object; None where that would mean to choose between two values."""
    text = COMMENT.sub(lambda found: found["string"] or " ", text)
    try:
        value = json_repair.loads(text, skip_json_loads=True, strict=True)
    except Exception:  # whatever goes wrong in a repair, there is no value
        return None
    if (
        not isinstance(value, dict)
        or len(value) > MAX_KEYS
        or any(
            len(re.findall(rf"(?<!\w){re.escape(str(key))}[\"'”]?\s*:", text)) > 1
            for key in value
        )
    ):
        return None
    return Pairs(value.items())


def _entries(
    value: Any, task: Task, depth: int = MAX_DEPTH
) -> Iterator[tuple[int | None, Any]]:
    """Yield number (None: not given) and label of each entry."""
    if depth == 0:
        return
    if not isinstance(value, Pairs):
        for item in value if isinstance(value, list) else ():
            yield from _entries(item, task, depth - 1)
        return
    members = [(str(key).strip().lower().replace("_", " "), x) for key, x in value]
    numbers = {*NUMBER_KEYS, task.item.lower().replace("_", " ")}
    labels = [x for key, x in members if key in {*LABEL_KEYS, task.subject.lower()}]
    if labels:
        named = [_number(item, task) for key, item in members if key in numbers]
        for number in set(named or [None]):
            # A number that can't be read is not the same as none.
            if number is not None or not named:
                for label in labels:
                    yield from _each(number, label)
        return
    for key, item in members:
        if re.fullmatch(WORDS, key):
            continue
        number = _number(key, task)
        if number is not None and not isinstance(item, Pairs):
            yield from _each(number, item)
            continue
        for inner, label in _entries(item, task, depth - 1):
            yield from _each(number if inner is None else inner, label)


def _each(number: int | None, label: Any) -> Iterator[tuple[int | None, Any]]:
    """Take a list of labels for several labels."""
    several = isinstance(label, list) and not isinstance(label, Pairs)
    for item in label if several else [label]:
        yield number, item


def _number(value: Any, task: Task) -> int | None:
    """Read a text's number, from 0."""
    if isinstance(value, str):
        pattern = NUMBER.format(item=re.escape(task.item))
        found = re.fullmatch(pattern, value.strip(), re.IGNORECASE)
        return int(found[1]) if found else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value % 1 == 0 and 0 <= value < 10**9 else None


def _stands(label: Any, source: str | None) -> bool:
    """Check that a repaired label stands in the text as such, and ends there."""
    if source is None or not isinstance(label, str):
        return True
    end = r"""[.,;]?["'”]?\s*(?:[,;\]}/#]|\Z|["'“]?\w+["'”]?\s*:)"""
    return bool(re.search(rf"(?<!\w){re.escape(label)}{end}", source))


def _answer(article: int, labels: list[Any], task: Task) -> Answer:
    """Pass the verdict on all that was said of one text."""
    given = [label for label in labels if label is not None]
    if not given:
        return Answer(article=article)
    said = " | ".join(dict.fromkeys(map(shortened, given)))[:SAID]
    # A number counts as its digits: there are tasks with such labels.
    ids = {task.parse(str(x)) if type(x) in (str, int, float) else None for x in given}
    if ids == {None}:
        refused = all(isinstance(x, str) and REFUSAL.search(x[:2_000]) for x in given)
        verdict: Verdict = "refused" if refused else "invalid"
        return Answer(article=article, verdict=verdict, said=said)
    if len(ids) > 1:
        return Answer(article=article, verdict="ambiguous", said=said)
    return Answer(article=article, label=ids.pop(), verdict="parsed", said=said)


def shortened(label: Any) -> str:
    """Write what was said as one line of at most 60 characters."""
    if isinstance(label, Pairs):
        label = dict(label)
    text = label if isinstance(label, str) else json.dumps(label)
    text = " ".join(text[: 4 * SAID].split())
    return text if len(text) <= SAID else text[: SAID - 1] + "…"


def label_ids(answers: Sequence[Answer]) -> npt.NDArray[np.int64]:
    """Class id of each answer, -1 where it has none: shape [n]."""
    return np.array(
        [NO_ANSWER if a.label is None else a.label for a in answers], dtype=np.int64
    )


def accounting(answers: Sequence[Answer]) -> pd.DataFrame:
    """Count the answers by verdict: a row for each, with `articles` and `share`."""
    counts = Counter(answer.verdict for answer in answers)
    index = pd.Index(VERDICTS, name="verdict")
    table = pd.DataFrame({"articles": [counts[v] for v in VERDICTS]}, index=index)
    table["share"] = table["articles"] / max(len(answers), 1)
    return table


def answers_to_dataset(
    dataset: Dataset, answers: Sequence[Answer], task: Task = AG_NEWS
) -> Dataset:
    """Put the answers beside the rows that they are about, one a row, in order.

    The columns are `predicted` (`ClassLabel`, -1 for no answer), `verdict` and `said`.
    """
    numbers = [answer.article for answer in answers]
    if numbers != list(range(1, len(dataset) + 1)):
        raise ValueError(
            f"{len(dataset)} rows need the answers 1 to {len(dataset)} in order, and "
            f"these are {len(numbers)}: hand over what predict_answers gave for "
            "the dataset's own texts"
        )
    labels = ClassLabel(names=list(task.label_names))
    columns: dict[str, tuple[list[Any], Any]] = {
        "predicted": (label_ids(answers).tolist(), labels),
        "verdict": ([answer.verdict for answer in answers], Value("string")),
        "said": ([answer.said for answer in answers], Value("string")),
    }
    result = dataset.remove_columns([x for x in columns if x in dataset.column_names])
    for name, (values, feature) in columns.items():
        # What `datasets` caches of one set of answers is not taken for another's.
        known = Hasher.hash([result._fingerprint, name, values])
        result = result.add_column(name, values, new_fingerprint=known, feature=feature)
    return result


class EnumOutputParser(BaseOutputParser[Enum]):
    """Parse a reply that is one value of an `Enum` of str, for one text."""

    enum: type[Enum]

    def parse(self, text: str) -> Enum:
        """Return the member that the text names, in any case and punctuation."""
        values = {normalized(str(member.value)): member for member in self.enum}
        member = values.get(normalized(text[:100]))
        if member is None:
            raise OutputParserException(
                f"{shortened(text)!r} is none of {self._values()}.", llm_output=text
            )
        return member

    def get_format_instructions(self) -> str:
        """Say in the prompt what the reply must be."""
        return f"Reply with one of these and nothing else: {self._values()}."

    def _values(self) -> str:
        return ", ".join(str(member.value) for member in self.enum)

    @property
    def _type(self) -> str:
        return "enum"
