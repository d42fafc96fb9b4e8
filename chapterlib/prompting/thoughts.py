"""Tell what a model thinks aloud from what it answers, whatever marks stand between."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

MAX_LENGTH = 100_000  # characters of a reply that are read, the last ones
# These tell of thoughts in tags alone: "(draft)" stands in prose too.
RARE = r"(?:monologue|deliberations?|plan(?:ning)?|brainstorm(?:ing)?|draft|rationale)"
WORDS = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflections?|scratch_?pad|cot)"
)
# Tags as <think>, <inner_thoughts>, [/THINK], <|END_THINKING|>, ◁think▷; the channels
# of gpt-oss and Gemma; and "analysis… assistantfinal", left of them without marks.
MARKS = re.compile(
    rf"""[<\[({{◁【]\s*(?:[|｜]\s*)?(?P<end>/\s*|end[ _▁]?(?:of[ _▁]?)?)?
    (?:(?:begin|start)[ _▁]?(?:of[ _▁]?)?)?(?P<before>[\w.:-]{{0,30}}?)
    (?:{WORDS}|(?P<rare>{RARE}))
    (?P<more>[\s_=:-][^<>\[\](){{}}\n]{{0,80}})?[|｜]?\s*(?:/\s*)?[>\])}}▷】]
    |<\|channel\|?>\s*(?P<channel>\w+)|<unused94>|\Aanalysis(?=[A-Z])
    |(?P<last><channel\|>|assistantfinal|<unused95>)""",
    re.IGNORECASE | re.VERBOSE,
)
# What is folded away, as a whole.
FOLDED = re.compile(
    rf"""```[ \t]*{WORDS}\b.*?(?:```|\Z)
    |<details>\s*<summary>[^<]{{0,80}}\b{WORDS}\b[^<]{{0,80}}</summary>.*?(?:</details>|\Z)
    |\AThinking\.{{3}}.*?(?:done\ thinking\.|\Z)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
FENCE = re.compile(r"\A```\w*")


class Pairs(list[tuple[str, Any]]):
    """The members of a JSON object as written, a doubled key twice."""


# Line ends in strings are forbidden, but harmless.
DECODER = json.JSONDecoder(object_pairs_hook=Pairs, strict=False)


def without_thoughts(text: str) -> str:
    """Return what follows the last end of thoughts, up to a begin that stays open.

    What is JSON as a whole holds no thoughts. Of long texts the last characters.
    """
    text = text.strip()
    with suppress(ValueError, RecursionError):
        DECODER.decode(FENCE.sub("", text.removesuffix("```"))[-MAX_LENGTH:])
        return text
    text = FOLDED.sub(" ", text)
    start, end = 0, len(text)
    for mark in MARKS.finditer(text):
        longer = (mark["before"] or mark["more"] or mark["rare"] or "").strip()
        if (longer and mark[0][0] != "<") or mark[0][:-1].rstrip().endswith("/"):
            continue  # a bracket in prose, or a tag around nothing
        if mark["end"] or mark["last"] or (mark["channel"] or "").lower() == "final":
            start, end = mark.end(), len(text)
        else:
            end = min(end, mark.start())
    return text[start:end][-MAX_LENGTH:]
