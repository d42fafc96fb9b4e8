"""Replies that list a label for each article, and the ways models spoil them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace

LABELS = ("World", "Sports", "Business", "Sci/Tech")
REPLY_FAULTS = (
    "missing",  # some articles have no entry
    "doubled",  # an entry stands twice
    "conflict",  # an article has two labels
    "shuffled",  # the entries are in another order
    "extra",  # one article more than was asked for
    "out of range",  # the number of an entry is none that was asked for
    "unknown label",  # a label that is none of the four
    "refusal",  # a sentence instead of labels
    "cut-off",  # the reply ends anywhere, finish_reason "length"
    "wrapped",  # prose and a code fence around it, a trailing comma in it
)
REFUSALS = (
    "I'm sorry, but I can't help with classifying these articles.",
    "As an AI language model, I am unable to assist with that request.",
    "I cannot comply.",
)
UNKNOWN = ("Politics", "Entertainment", "Health", "None of these", "", "World/Sports")


@dataclass(frozen=True)
class Reply:
    """What a model says.

    Attributes
    ----------
    content : str
    entries : list of (int, str)
        Article numbers and labels that stand in the content, whole and readable.
    finish_reason : str
    visible : list of (int, str), optional
        Entries whose label can be read, closed or not; by default `entries`.
    """

    content: str
    entries: list[tuple[int, str]]
    finish_reason: str = "stop"
    visible: list[tuple[int, str]] | None = None

    @classmethod
    def of(cls, labels: list[str]) -> Reply:
        """Give the articles these labels, in order."""
        return _reply(list(enumerate(labels, start=1)))


def spoil(right: Reply, fault: str | None, rng: random.Random) -> Reply:
    """Make the reply that a fault turns the right one into."""
    entries = list(right.entries)
    if fault == "refusal":
        return Reply(rng.choice(REFUSALS), [])
    if fault == "cut-off":
        return _cut(right, rng)
    if fault == "wrapped":
        listed = right.content.replace("}]}", "},]}")
        return replace(
            right, content=f"Sure! Here you are:\n```json\n{listed}\n```\nOK?"
        )
    if fault not in REPLY_FAULTS or not entries:
        return right
    hit = rng.randrange(len(entries))
    number, label = entries[hit]
    if fault == "missing":
        dropped = set(rng.sample(range(len(entries)), rng.randint(1, len(entries))))
        entries = [entry for i, entry in enumerate(entries) if i not in dropped]
    elif fault == "doubled":
        entries.insert(rng.randint(0, len(entries)), entries[hit])
    elif fault == "conflict":
        other = rng.choice([name for name in LABELS if name != label])
        entries.insert(rng.randint(0, len(entries)), (number, other))
    elif fault == "shuffled":
        rng.shuffle(entries)
    elif fault == "extra":
        entries.append((len(entries) + 1, rng.choice(LABELS)))
    elif fault == "out of range":
        wrong = rng.choice([-1, -number, len(entries) + 1, number + 1000, 10**20])
        entries[hit] = (wrong, label)
    elif fault == "unknown label":
        entries[hit] = (number, rng.choice(UNKNOWN))
        spoiled = _reply(entries)
        return replace(spoiled, entries=[e for e in entries if e != entries[hit]])
    return _reply(entries)


def _reply(entries: list[tuple[int, str]]) -> Reply:
    listed = [{"article": number, "label": label} for number, label in entries]
    return Reply(json.dumps({"results": listed}), entries)


def _cut(right: Reply, rng: random.Random) -> Reply:
    content = right.content[: rng.randrange(max(1, len(right.content)))]
    entries = right.entries
    whole = min(content.count("}"), len(entries))
    # A label may stand there although its entry is not closed.
    begun = content.rpartition("{")[2]
    seen = [e for e in entries[whole : whole + 1] if f'"{e[1]}' in begun]
    return Reply(content, entries[:whole], "length", entries[:whole] + seen)
