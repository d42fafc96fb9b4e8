"""The first use of a glossary's term in a page becomes a link to its entry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

# Pages whose words are not lessons.
SKIPPED = {"glossary", "api", "source", "records", "status", "references", "teaching"}
# No links within these: titles and code, what is a link already, terms as headwords.
CLOSED = (
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.raw,
    nodes.math,
    nodes.math_block,
    nodes.reference,
    nodes.term,
    nodes.image,
    addnodes.pending_xref,
)
OUTPUT = "cell_output"
# Words with an everyday sense too, in which most pages use them first.
EVERYDAY = {"batch", "head", "loss", "record"}


def read_terms(glossary: str) -> list[list[str]]:
    """Terms of each entry, from the text of the page: an entry may have several."""
    entries: list[list[str]] = []
    inside = fresh = False
    for line in glossary.splitlines():
        if line.startswith("```"):
            inside, fresh = line == "```{glossary}", True
        elif inside and line[:1].strip():
            if fresh:
                entries.append([])
            entries[-1].append(line.strip())
            fresh = False
        else:
            fresh = True
    return entries


def pattern_of(terms: list[str]) -> re.Pattern[str]:
    """Match an entry's terms, or their plural; those in capitals only as they are."""
    words = "|".join(
        re.escape(t) if re.search("[A-Z]", t[1:]) else f"(?i:{re.escape(t)})"
        for t in sorted(terms, key=len, reverse=True)
    )
    return re.compile(rf"(?<![\w-])(?:{words})s?(?![\w-])")


def link_first_uses(app: Sphinx, doctree: nodes.document) -> None:
    """Put a reference in the place of each entry's first use on the page."""
    if app.env.docname in SKIPPED:
        return
    folder = Path(app.srcdir)
    wanted = [
        (terms[0], pattern_of(terms))
        for terms in read_terms((folder / "glossary.md").read_text(encoding="utf-8"))
        if terms[0] not in EVERYDAY
    ]
    app.env.note_dependency(str(folder / "glossary.md"))
    for text in list(doctree.findall(nodes.Text)):
        if wanted and not _closed(text):
            wanted = _link(text, wanted, app.env.docname)


def _closed(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None:
        if isinstance(node, CLOSED) or OUTPUT in node.get("classes", ()):
            return True
        node = node.parent
    return False


def _link(
    text: nodes.Text, wanted: list[tuple[str, re.Pattern[str]]], docname: str
) -> list[tuple[str, re.Pattern[str]]]:
    """Link the terms that this text holds, and return those still to be found."""
    said = text.astext()
    found: list[tuple[int, int, str]] = []
    left = []
    for term, pattern in wanted:
        match = pattern.search(said)
        if match and all(match.end() <= a or b <= match.start() for a, b, _ in found):
            found.append((*match.span(), term))
        else:
            left.append((term, pattern))
    parts: list[nodes.Node] = []
    end = 0
    for start, stop, term in sorted(found):
        link = addnodes.pending_xref(
            "",
            nodes.inline("", said[start:stop], classes=["glossary-term"]),
            refdomain="std",
            reftype="term",
            reftarget=term,
            refexplicit=True,
            refwarn=True,
            refdoc=docname,
        )
        parts += [nodes.Text(said[end:start]), link]
        end = stop
    if found:
        text.parent.replace(text, [*parts, nodes.Text(said[end:])])
    return left


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", link_first_uses)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
