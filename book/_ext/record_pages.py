"""The list of all records, made when the book is built: ``{record-list}``.

It holds what `chapterlib.records.read` finds: a table a method, and in it each record
with what it was measured on. What many records share, the machine and the versions,
stands once, below the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from docutils import nodes
from notebook_runs import ROOT
from record_quotes import STATED, interval, percent
from record_roles import RecordDomain, all_records, note_records, row_id
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from chapterlib.reporting.records import RunRecord

Cell: TypeAlias = str | nodes.Node
HEADS = (
    "Labels",
    "Seed",
    "Accuracy",
    "Interval",
    "Test rows",
    "Data",
    "Fingerprint of test rows",
    "of train rows",
    "Model and sha256",
    "Code",
    "Setup",
    "Date",
    "File",
)
STATED_BY_BOOK = "Unless a page states others, it quotes records of these:"
NO_RECORDS = "There are no records yet: `make results` measures them."


def make_table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], ids: Sequence[str] = ()
) -> nodes.table:
    """Make a table that scrolls sideways within itself where it is too wide.

    Parameters
    ----------
    heads
        Of the columns.
    rows
        Texts or inline nodes.
    ids
        Of the rows, for links that lead to one.
    """
    group = nodes.tgroup("", cols=len(heads))
    group += [nodes.colspec(colwidth=1) for _ in heads]
    lines = [_row(row) for row in rows]
    for line, name in zip(lines, ids, strict=False):
        line["ids"].append(name)
    group += [nodes.thead("", _row(heads)), nodes.tbody("", *lines)]
    return nodes.table("", group, classes=["colwidths-auto", "provenance"])


def _row(cells: Sequence[Cell]) -> nodes.row:
    filled = [nodes.paragraph("", "", _node(cell)) for cell in cells]
    return nodes.row("", *[nodes.entry("", cell) for cell in filled])


def _node(cell: Cell) -> nodes.Node:
    return nodes.Text(cell) if isinstance(cell, str) else cell


class RecordList(SphinxDirective):
    """``{record-list}``: a section with a table for each method, and the machines."""

    def run(self) -> list[nodes.Node]:
        """Make the sections, and note where each record is listed."""
        note_records(self.env)
        known = all_records()
        domain = self.env.get_domain("record")
        assert isinstance(domain, RecordDomain)
        domain.rows.update({run.file_name: self.env.docname for run in known})
        if not known:
            return [nodes.paragraph("", NO_RECORDS)]
        setups = list(dict.fromkeys(_setup(run) for run in known))
        stated = "; ".join(
            f"{name.removeprefix('record_')} {_spelled(self.config[name])}"
            for name in STATED
        )
        titles = sorted({run.title for run in known})
        return [
            nodes.paragraph("", f"{STATED_BY_BOOK} {stated}."),
            *[self._method(title, known, setups) for title in titles],
            self._setups(setups),
        ]

    def _method(
        self, title: str, known: Sequence[RunRecord], setups: Sequence[tuple[str, str]]
    ) -> nodes.section:
        runs = [run for run in known if run.title == title]
        runs.sort(key=lambda run: (run.data.name, run.data.labels_used, run.seed))
        heads = [*HEADS]
        heads[3] = f"{runs[0].metrics.level:.0%} interval"
        rows = [self._cells(run, setups.index(_setup(run))) for run in runs]
        table = make_table(heads, rows, [row_id(run.file_name) for run in runs])
        return self._section(title, f"records-{nodes.make_id(title)}", table)

    def _cells(self, run: RunRecord, setup: int) -> list[Cell]:
        data, scores = run.data, run.metrics
        link = nodes.reference(
            "", str(setup + 1), internal=True, refid=f"setup-{setup + 1}"
        )
        model = f"{run.model} {(run.model_sha256 or '')[:12]}" if run.model else "–"
        return [
            f"{data.labels_used:,}",
            str(run.seed),
            percent(scores.accuracy),
            interval(scores.low, scores.high),
            f"{data.n_test:,}",
            data.name,
            data.test_fingerprint,
            data.train_fingerprint or "–",
            model.strip(),
            f"{run.versions.get('chapterlib', 'unknown')} {run.code}",
            link,
            run.created.isoformat(),
            self._file(run.file_name),
        ]

    def _file(self, name: str) -> nodes.Node:
        from chapterlib import settings

        options = self.config["html_theme_options"]
        url, branch = options.get("repository_url"), options.get("repository_branch")
        if not url or settings.results_folder().resolve() != ROOT / "results":
            return nodes.literal("", name)
        return nodes.reference("", name, refuri=f"{url}/blob/{branch}/results/{name}")

    def _setups(self, setups: Sequence[tuple[str, str]]) -> nodes.section:
        items = []
        for number, (machine, versions) in enumerate(setups, 1):
            term = nodes.term("", f"Setup {number}: {machine}", ids=[f"setup-{number}"])
            text = nodes.definition("", nodes.paragraph("", versions))
            items.append(nodes.definition_list_item("", term, text))
        listed = nodes.definition_list("", *items)
        return self._section("Setups: machines and versions", "record-setups", listed)

    def _section(self, title: str, name: str, content: nodes.Node) -> nodes.section:
        section = nodes.section("", nodes.title("", title), content, ids=[name])
        self.set_source_info(section)
        return section


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _setup(run: RunRecord) -> tuple[str, str]:
    """Describe the machine and the versions of a run."""
    had, memory = run.hardware, run.hardware.get("memory_bytes")
    parts = [
        str(had.get("cpu") or "unknown processor"),
        f"{had.get('cores', '?')} cores",
        f"{float(str(memory)) / 1e9:.0f} GB of memory" if memory else "",
        str(had.get("gpu") or "no GPU"),
        f"computing in {had['dtype']}" if had.get("dtype") else "",
        str(had.get("system") or ""),
    ]
    return ", ".join(part for part in parts if part), spell_versions(run.versions)


def spell_versions(versions: dict[str, str]) -> str:
    """List packages with their versions, in the order of names, Python first."""
    names = sorted(versions, key=lambda name: (name != "python", name))
    return ", ".join(f"{'Python' if n == 'python' else n} {versions[n]}" for n in names)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("record-list", RecordList)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
