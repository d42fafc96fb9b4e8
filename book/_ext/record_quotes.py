"""Find the measured number that a page asks for, or say why it can't be quoted.

Quoted numbers go stale when the rows, the model or the code change. So each page states
what its numbers stand for, in its front matter (a notebook: in its metadata), or
the book does so for all pages, in ``sphinx.config`` of ``_config.yml``::

    record_data: AG News 7c34d2ad6aa9b82e
    record_model: SmolLM2-135M-Instruct b179c9523d0e
    record_code: 0.1.0

Data and models are named, and marked by the first digits (8 or more) of the test rows'
fingerprint and of the model's sha256. Where several are meant, commas stand between
them. A page's statement replaces the book's.

The version of the code is that of the package, ``versions["chapterlib"]`` of a
record, which a maintainer raises when results change. It is *not*
``RunRecord.code``: that digest covers every line of the package, so any commit, even to
the color of a figure, would make every record stale, and measuring for hours would
prove nothing. The digest stands beside each record for who wants to find that state
in git. A page whose numbers must come from one state of the code may state its digest
in place of the version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from chapterlib.reporting.records import RunRecord

STATED = ("record_data", "record_model", "record_code")
FILTERS = ("method", "labels", "seed", "model", "test")
AGAIN = "measure it with `make results`"
NBSP = "\N{NO-BREAK SPACE}"


class QuoteError(ValueError):
    """A number that can't be quoted; the message says why and what to do."""


class Statement(NamedTuple):
    """What a page's numbers stand for: the data, models and code that may be meant."""

    data: tuple[str, ...]
    model: tuple[str, ...]
    code: tuple[str, ...]

    @classmethod
    def of(cls, book: dict[str, Any], page: dict[str, Any]) -> Statement:
        """Read the page's statement, and the book's where the page has none.

        Parameters
        ----------
        book, page
            Values of `STATED`: a text with commas, or a list.

        Raises
        ------
        QuoteError
            If neither states one of the three.
        """
        stated = []
        for name in STATED:
            value = page.get(name) or book.get(name) or ""
            listed = [value] if isinstance(value, str) else value
            parts = [part.strip() for text in listed for part in str(text).split(",")]
            stated.append(tuple(part for part in parts if part))
            if not stated[-1]:
                raise QuoteError(
                    f"neither the page nor _config.yml states {name}: say there what "
                    "the quoted numbers stand for"
                )
        return cls(*stated)

    def names(self, record: RunRecord) -> bool:
        """Tell whether a record's data are among those stated, whatever the rows."""
        return record.data.name in [_name_and_mark(text)[0] for text in self.data]

    def complaints(self, record: RunRecord) -> list[str]:
        """Tell in what a record is not what the statement says."""
        data, code = record.data, record.versions.get("chapterlib", "unknown")
        found = []
        if not _is_stated(self.data, data.name, data.test_fingerprint):
            rows = f"{data.name} {data.test_fingerprint}"
            found.append(_difference("record_data", rows, self.data))
        if record.model:
            sha = record.model_sha256 or ""
            if not _is_stated(self.model, record.model, sha):
                model = f"{record.model} {sha[:12]}".strip()
                found.append(_difference("record_model", model, self.model))
        if not {code, record.code} & set(self.code):
            found.append(
                _difference("record_code", f"{code} ({record.code})", self.code)
            )
        return found


def _name_and_mark(text: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+?)(?:\s+([0-9a-f]{8,64}))?", text)
    return (found[1], found[2] or "") if found else (text, "")


def _is_stated(stated: Sequence[str], name: str, mark: str) -> bool:
    parts = [_name_and_mark(text) for text in stated]
    return any(name == head and mark.startswith(tail) for head, tail in parts)


def _difference(name: str, own: str, stated: Sequence[str]) -> str:
    return f"it is of {own}, and {name} states {', '.join(stated)}"


class Quote(NamedTuple):
    """A number as a page shows it, with the runs that it comes from."""

    text: str
    runs: tuple[RunRecord, ...]

    @property
    def provenance(self) -> str:
        """Say in a line what was measured on what."""
        first = self.runs[0]
        seeds = ", ".join(str(run.seed) for run in self.runs)
        plural = "s" if len(self.runs) > 1 else ""
        return (
            f"{first.title}: {first.data.labels_used:,} labels, seed{plural} {seeds}; "
            f"{first.data.n_test:,} test rows of {first.data.name}"
        )


def quote(request: str, known: Sequence[RunRecord], statement: Statement) -> Quote:
    """Find the number that a role asks for.

    Parameters
    ----------
    request
        A value's name (see `texts`), then ``key=value`` for keys of `FILTERS`.
    known
        The records.
    statement
        What the page's numbers stand for.

    Raises
    ------
    QuoteError
        If the request is malformed, or its record missing, ambiguous or stale.
    """
    from chapterlib.reporting import records, tables

    value, wanted = _parsed(request)
    fitting = [run for run in known if _fits(run, wanted)]
    if not fitting:
        same = [run for run in known if run.method == wanted["method"]]
        there = _choices(same) if same else _listed({run.method for run in known})
        raise QuoteError(
            f"no such record (there are: {there or 'none'}): correct it, or {AGAIN}"
        )
    # Records of the sample may lie beside those of AG News; they are not meant.
    runs = [run for run in fitting if statement.names(run)] or fitting
    for run in runs:
        if complaints := statement.complaints(run):
            raise QuoteError(
                f"{run.file_name} is stale: {'; '.join(complaints)}. Measure it again "
                "(`make results`), or see whether the text still holds and state that"
            )
    try:
        table = tables.table(runs)
    except records.RecordError as error:
        raise QuoteError(str(error)) from error
    if len(table) > 1 or (len(runs) > 1 and wanted.get("seed") != "all"):
        raise QuoteError(
            f"{len(runs)} records fit ({_choices(runs)}): name one of each; seed=all "
            "is the mean over the seeds"
        )
    found = texts(table, runs)
    if value not in found:
        raise QuoteError(f"no value {value!r} (there are: {', '.join(found)})")
    return Quote(found[value], tuple(runs))


def texts(table: pd.DataFrame, runs: Sequence[RunRecord]) -> dict[str, str]:
    """Write each value of some runs as a page shows it.

    Parameters
    ----------
    table
        The one line that `records.table` makes of the runs.
    runs
        Of one method and label budget.

    Returns
    -------
    dict
        The names that a role may ask for, and the texts; ``range``, of the accuracy
        over the seeds, only where there are several.
    """
    from chapterlib.reporting import tables

    row, shown = table.iloc[0], tables.shown(table).iloc[0]
    memory = max(run.peak_memory_bytes for run in runs)
    trained = runs[0].trainable_parameters
    found = {
        "accuracy": percent(row["accuracy"]),
        "interval": interval(row["low"], row["high"]),
        "macro_f1": str(shown["Macro-F1"]),
        "labels": str(shown["Labels"]),
        "test_rows": str(shown["Test rows"]),
        "seeds": str(shown["Seeds"]),
        "fit_time": tables.duration(row["fit_seconds"]).replace(" ", NBSP),
        "predict_time": tables.duration(row["predict_seconds"]).replace(" ", NBSP),
        "memory": f"{memory / 1e9:.2f}{NBSP}GB",
        "size": str(shown["Size"]),
        "parameters": "–" if trained is None else f"{trained:,}",
        "title": str(row["title"]),
        "model": str(row["model"] or "–"),
    }
    if len(runs) > 1:
        found["range"] = interval(row["accuracy_min"], row["accuracy_max"])
    return found


def percent(share: float) -> str:
    """Write a share of 1 as readers see it: 89.1%."""
    return f"{share:.1%}"


def interval(low: float, high: float) -> str:
    """Write two shares of 1 as an interval: 88.1–90.1%."""
    return f"{100 * low:.1f}–{high:.1%}"


def _parsed(request: str) -> tuple[str, dict[str, str]]:
    value, *pairs = request.split() or [""]
    wanted = dict(pair.partition("=")[::2] for pair in pairs)
    for key, text in wanted.items():
        if key not in FILTERS or not text:
            raise QuoteError(f"{key!r} is none of {'=…, '.join(FILTERS)}=…")
    if "method" not in wanted:
        raise QuoteError("say first which value, then which method: method=probe")
    counts = {"labels", "test"}
    return value, {
        k: v.replace(",", "") if k in counts else v for k, v in wanted.items()
    }


def _keys(run: RunRecord) -> dict[str, str]:
    data = run.data
    values = (run.method, data.labels_used, run.seed, run.model, data.n_test)
    return {key: str(value) for key, value in zip(FILTERS, values, strict=True)}


def _fits(run: RunRecord, wanted: dict[str, str]) -> bool:
    own = {**_keys(run), **({"seed": "all"} if wanted.get("seed") == "all" else {})}
    return all(own[key] == text for key, text in wanted.items())


def _choices(runs: Sequence[RunRecord]) -> str:
    """List what sets these runs apart, key by key."""
    found = {key: {_keys(run)[key] for run in runs} for key in FILTERS}
    several = {key: values for key, values in found.items() if len(values) > 1}
    several = several or {"labels": found["labels"]}
    return "; ".join(f"{key}={_listed(values)}" for key, values in several.items())


def _listed(values: set[str]) -> str:
    by_size = sorted(values, key=lambda text: (text.isdigit() and len(text), text))
    return ", ".join(by_size)
