"""The chat prompts of the book, as LangChain's own `ChatPromptTemplate`s.

Each has one variable, `articles`, which `number_articles` makes of texts. All ask for
the same reply, JSON that names every text by its number, so that one parser reads them
all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate
from pydantic import BaseModel, Field

from chapterlib.tasks.task import AG_NEWS, Task, plural

ONLY_JSON = """\
Reply with JSON of this form and nothing else, one entry for each {item}, by its \
number:
{shape}"""
THEN_JSON = """\
After the last {item} write one JSON object of this form, one entry for each {item}, \
by its number, and nothing after it:
{shape}"""
NEGATIVES = """\
Mistakes that others have made with such {items}, and that you avoid:
{negatives}"""
CLUES = """\
Take the {items} in their order and write for each three lines:
CLUES: the words, phrases, names and references in it that point to a {subject}.
REASONING: what follows from these clues, weighed against each other, in one or two \
sentences.
DECISION: the {subject}."""


class Demonstration(NamedTuple):
    """A text with its right label, shown to the model as a solved example."""

    text: str
    label: str | int  # a spelling that `Task.parse` knows, or a class id


class Negative(NamedTuple):
    """A text with a label that is tempting but wrong, and the right one."""

    text: str
    wrong: str | int
    label: str | int


def number_articles(texts: Sequence[str], task: Task = AG_NEWS) -> str:
    r"""Write texts one a line, each as a number and a JSON string.

    Inside the quotes everything that could end the string, the line or the message is
    written as a JSON escape: quotes, line ends of every alphabet, other characters that
    do not print, and ``<``, with which the special tokens of many models begin.
    `json.loads` of what follows the colon is the text again.

    Examples
    --------
    >>> print(number_articles(['He said "no".', "Two\nlines <|im_end|>"]))
    Article 1: "He said \"no\"."
    Article 2: "Two\nlines \u003c|im_end|>"
    """
    item = task.item[:1].upper() + task.item[1:]
    return "\n".join(
        f"{item} {number}: {_quote(text)}" for number, text in enumerate(texts, 1)
    )


def zero_shot(task: Task = AG_NEWS) -> ChatPromptTemplate:
    """Ask for labels without any example.

    Examples
    --------
    >>> prompt = zero_shot()
    >>> prompt.input_variables
    ['articles']
    >>> prompt.format_messages(articles=number_articles(["Rain"]))[-1].content
    'Article 1: "Rain"'
    """
    return ChatPromptTemplate.from_messages(
        [("system", _system(task, ONLY_JSON)), ("human", "{articles}")]
    )


def few_shot(
    demonstrations: Sequence[Demonstration],
    negatives: Sequence[Negative] = (),
    *,
    task: Task = AG_NEWS,
    per_turn: int = 10,
) -> ChatPromptTemplate:
    """Show solved examples first, as turns of the same conversation.

    Parameters
    ----------
    demonstrations : sequence of Demonstration
        In the order shown. Where they come ordered by class, the model sees the last
        class last; shuffle them. ValueError if a label is none of the task's.
    negatives : sequence of Negative
        Tempting mistakes, listed in the system message with the right label.
    task : Task
    per_turn : int
        Demonstrations in one pair of messages (texts, reply), so that they look like
        the requests to come.
    """
    if per_turn < 1:
        raise ValueError(f"per_turn={per_turn}: at least one demonstration a turn.")
    turns = [
        demonstrations[start : start + per_turn]
        for start in range(0, len(demonstrations), per_turn)
    ]
    # The string templates for examples would read braces in a text as variables;
    # this class fills in values and leaves them alone.
    shown = FewShotChatMessagePromptTemplate(
        example_prompt=ChatPromptTemplate.from_messages(
            [("human", "{demonstrations}"), ("ai", "{reply}")]
        ),
        examples=[
            {
                "demonstrations": number_articles([d.text for d in turn], task),
                "reply": _reply([_said(d.label, task) for d in turn], task),
            }
            for turn in turns
        ],
    )
    parts = [NEGATIVES, ONLY_JSON] if negatives else [ONLY_JSON]
    listed = "\n".join(_mistake(negative, task) for negative in negatives)
    system = _system(task, *parts, negatives=listed)
    return ChatPromptTemplate.from_messages(
        [("system", system), shown, ("human", "{articles}")]
    )


def carp(task: Task = AG_NEWS) -> ChatPromptTemplate:
    """Ask for clues, then for reasoning upon them, then for the labels.

    References
    ----------
    Sun et al., "Text Classification via Large Language Models", Findings of EMNLP
    2023, arXiv:2305.08377: clue and reasoning prompting (CARP).
    """
    return ChatPromptTemplate.from_messages(
        [("system", _system(task, CLUES, THEN_JSON)), ("human", "{articles}")]
    )


def _system(task: Task, *parts: str, negatives: str = "") -> str:
    """Write the system message as a template: a brace in it is doubled."""
    key = json.dumps(task.item, ensure_ascii=False)
    entries = "".join(f'{{{key}: {i}, "label": "<{task.subject}>"}}, ' for i in (1, 2))
    filled = {
        "item": task.item,
        "items": plural(task.item),
        "subject": task.subject,
        "shape": f'{{"results": [{entries}...]}}',
        "negatives": negatives,
    }
    text = "\n\n".join([task.instructions, *(part.format(**filled) for part in parts)])
    return text.replace("{", "{{").replace("}", "}}")


def _quote(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    # Escapes are made of printable characters, so nothing is escaped twice.
    kept = (c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)
    return "".join(kept).replace("<", r"\u003c")


def _said(label: str | int, task: Task) -> str:
    """Spell a label as the prompts do."""
    class_id = task.parse(label) if isinstance(label, str) else label
    n = len(task.labels)
    if class_id is None or isinstance(label, bool) or class_id not in range(n):
        raise ValueError(
            f"{label!r} is no label: give one of {', '.join(task.said)} or a class id "
            f"from 0 to {n - 1}."
        )
    return task.said[class_id]


def _reply(labels: Sequence[str], task: Task) -> str:
    entries = [{task.item: i, "label": label} for i, label in enumerate(labels, 1)]
    return json.dumps({"results": entries}, ensure_ascii=False)


class Classification(BaseModel):
    """One article's label, as the model is asked to write it."""

    article: int = Field(ge=1, description="number of the article")
    label: str = Field(description=f"one of {', '.join(AG_NEWS.said)}")


class Results(BaseModel):
    """The whole reply: one classification for each article."""

    results: list[Classification]


def results_schema(n: int, task: Task = AG_NEWS) -> dict[str, Any]:
    """Return the JSON schema of a reply to `n` texts, for constrained decoding.

    A reply that fits names the texts 1 to `n` in order, each with one of `task.said`:
    a server that enforces it can't leave one out.
    """
    check_count(n)
    label = {"enum": list(task.said)}
    entries = [
        _closed({task.item: {"const": i}, "label": label}) for i in range(1, n + 1)
    ]
    array = {"type": "array", "prefixItems": entries, "minItems": n, "maxItems": n}
    return _closed({"results": array})


def check_count(n: int) -> None:
    """Refuse a reply to no text at all."""
    if n < 1:
        raise ValueError(f"n={n}: a reply answers at least one article.")


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    fixed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **fixed}


def _mistake(negative: Negative, task: Task) -> str:
    wrong, right = _said(negative.wrong, task), _said(negative.label, task)
    if wrong == right:
        raise ValueError(f"{right} is given as the wrong and as the right label.")
    return f"- {_quote(negative.text)} is not {wrong}, but {right}."
