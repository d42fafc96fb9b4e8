"""Measured numbers on pages: a role that quotes them, and checks that fail the build.

An author writes a value, and the run it belongs to::

    {record}`accuracy method=probe labels=2048`

The page shows 89.1%, with a link to the run's line where `record_pages` lists the
records. Where no roles are known (GitHub, say), the text still tells which number
belongs there. Several seeds: ``seed=all`` is their mean. `record_quotes` finds the
number, and says what makes one stale.

The build ends with an error, whatever its flags, if a quoted number is missing or
stale, or if any record was edited by hand, quoted or not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from record_quotes import STATED, QuoteError, Statement, quote
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from chapterlib.reporting.records import RunRecord


class BookError(SphinxError):
    """Records that no book can be built on."""

    category = "Records"


@functools.lru_cache(maxsize=1)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> list[RunRecord]:
    from chapterlib.reporting import records

    try:
        return records.read(folder)
    except records.RecordError as error:
        raise BookError(str(error)) from error


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.json")) if folder.is_dir() else []


def all_records() -> list[RunRecord]:
    """Read every record, anew if a file has changed; none where there is no folder.

    Raises
    ------
    BookError
        If a file is no valid record, because it was edited by hand, say.
    """
    from chapterlib import settings

    folder = settings.results_folder()
    stats = [(path.name, path.stat()) for path in _files(folder)]
    state = tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
    return _read(folder, state) if state else []


def note_records(env: BuildEnvironment) -> None:
    """Have the current page read again when a record comes, goes or changes."""
    from chapterlib import settings

    folder = settings.results_folder()
    for path in [folder, *_files(folder)]:
        env.note_dependency(str(path))


def row_id(file_name: str) -> str:
    """Name the place of a record in its page."""
    return f"record-{Path(file_name).stem}"


class RecordDomain(Domain):
    """Where the records are listed, and which pages quote what can't be quoted."""

    name = "record"
    label = "Records"
    initial_data: dict[str, Any] = {"rows": {}, "problems": {}}  # noqa: RUF012

    @property
    def rows(self) -> dict[str, str]:
        """Files of records, and the page that lists each."""
        rows: dict[str, str] = self.data["rows"]
        return rows

    @property
    def problems(self) -> dict[str, list[str]]:
        """Complaints by page."""
        problems: dict[str, list[str]] = self.data["problems"]
        return problems

    def clear_doc(self, docname: str) -> None:
        """Forget a page that will be read again."""
        self.problems.pop(docname, None)
        for name in [name for name, page in self.rows.items() if page == docname]:
            del self.rows[name]

    def merge_domaindata(
        self, docnames: Iterable[str], otherdata: dict[str, Any]
    ) -> None:
        """Take over what a parallel process has read."""
        read = set(docnames)
        self.rows.update({k: v for k, v in otherdata["rows"].items() if v in read})
        for page in read & set(otherdata["problems"]):
            self.problems[page] = otherdata["problems"][page]

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: nodes.Element,
    ) -> nodes.Element:
        """Link a number to its record, if a page lists it."""
        page = self.rows.get(target)
        if page is None:
            return contnode
        title = f"{node['provenance']} ({target})"
        link = make_refnode(builder, fromdocname, page, row_id(target), contnode, title)
        link["classes"].append("record")
        return link


class Request(nodes.Inline, nodes.TextElement):
    """What a role asks for, until the page's statement is known."""


class RecordRole(SphinxRole):
    """``{record}`accuracy method=probe labels=2048```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave a note for `AnswerRequests`."""
        node = Request(self.rawtext, self.text)
        self.set_source_info(node)
        return [node], []


class AnswerRequests(SphinxTransform):
    """Put numbers in the places of the requests."""

    # after docutils has gathered the front matter (340), before titles are collected
    default_priority = 600

    def apply(self, **kwargs: Any) -> None:
        """Answer each request of the page, or note why it can't be."""
        requests = list(self.document.findall(Request))
        if not requests:
            return
        domain = self.env.get_domain("record")
        assert isinstance(domain, RecordDomain)
        known, problems = all_records(), []
        note_records(self.env)
        stated = {name: self.config[name] for name in STATED}
        for request in requests:
            text = request.astext()
            try:
                statement = Statement.of(stated, self._stated())
                found = quote(text, known, statement)
            except QuoteError as error:
                place = f"{self.env.docname}:{request.line or '?'}"
                problems.append(f"{place}: {{record}}`{text}`: {error}.")
                request.replace_self(nodes.inline("", text))
                continue
            number = nodes.inline("", found.text, classes=["record"])
            request.replace_self(
                pending_xref(
                    "",
                    number,
                    refdomain="record",
                    reftype="row",
                    reftarget=found.runs[0].file_name,
                    provenance=found.provenance,
                )
            )
        if problems:
            domain.problems[self.env.docname] = problems

    def _stated(self) -> dict[str, str]:
        """Read the front matter, where it states what the numbers stand for."""
        fields = [
            (field[0].astext(), field[1].astext())
            for info in self.document.findall(nodes.docinfo)
            for field in info.findall(nodes.field)
        ]
        return {name: text for name, text in fields if name in STATED}


def check_records(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Refuse to build on an edited record, even if no page quotes it."""
    all_records()


def report(app: Sphinx, env: BuildEnvironment) -> None:
    """End the build if a number is missing or stale, and name all of them."""
    domain = env.get_domain("record")
    assert isinstance(domain, RecordDomain)
    found = [text for page in sorted(domain.problems) for text in domain.problems[page]]
    if found:
        raise BookError("\n".join(["numbers that can't be quoted:", *found]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and its checks with Sphinx."""
    for name in STATED:
        app.add_config_value(name, "", "env", types=[str, list, tuple])
    app.add_domain(RecordDomain)
    app.add_role("record", RecordRole())
    app.add_transform(AnswerRequests)
    app.connect("env-before-read-docs", check_records)
    app.connect("env-updated", report)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
