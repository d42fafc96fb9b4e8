"""Find the stretches of a text that are JSON or were meant to be, in linear time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Stretch", "stretches"]

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
