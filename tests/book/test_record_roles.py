"""Numbers on the book's pages: quoted from records, and never missing or stale."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import notebook_runs
import pytest
from record_quotes import QuoteError, Statement, quote
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from chapterlib import settings
from chapterlib.reporting import records

Y_TRUE = [0, 1, 2, 3] * 25
SHA = "ab" * 32
BOOK = {
    "record_data": "AG News fedcba98",
    "record_model": "tiny abababab",
    "record_code": "0.1.0",
}
EXTENSIONS = ["myst_nb", "record_roles", "record_pages", "run_pages"]
Build = Callable[..., dict[str, str]]


def put(folder: Path, *, right: int = 90, **fields: Any) -> Path:
    """Write a record of 100 test rows, of which the first few are right."""
    data = {
        "name": "AG News",
        "origin": "folder",
        "train_fingerprint": "0123456789abcdef",
        "test_fingerprint": "fedcba9876543210",
        "n_train": 2048,
        "n_test": 100,
        "labels_used": 2048,
        "label_names": ["World", "Sports", "Business", "Sci/Tech"],
    } | fields.pop("data", {})
    values = {
        "method": "probe",
        "title": "Probe",
        "model": "tiny",
        "model_sha256": SHA,
        "data": data,
        "seed": 0,
        "fit_seconds": 134.6,
        "predict_seconds": 2.5,
        "peak_memory_bytes": 1_130_000_000,
        "trainable_parameters": 4612,
        "size_bytes": 65657,
        "versions": {"chapterlib": "0.1.0", "python": "3.11.7"},
        "hardware": {
            "cpu": "A processor",
            "cores": 2,
            "memory_bytes": 25_000_000_000,
            "dtype": "float32",
        },
        "code": "c0de" * 4,
    }
    predicted = [y if row < right else (y + 1) % 4 for row, y in enumerate(Y_TRUE)]
    record = records.RunRecord.from_predictions(Y_TRUE, predicted, **(values | fields))
    return records.write(record, folder)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name a folder of records, with one in it."""
    folder = tmp_path / "results"
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(folder))
    put(folder)
    return folder


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a book of some pages, again from where the last build ended."""

    def run(pages: dict[str, str] | None = None, **config: Any) -> dict[str, str]:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        for name, text in (pages or {}).items():
            (source / name).write_text(text)
        overrides = {"extensions": EXTENSIONS, "root_doc": "intro"}
        overrides |= {"nb_execution_mode": "off", "nitpicky": True} | BOOK | config
        complaints = io.StringIO()
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                str(source),
                None,
                str(tmp_path / "html"),
                str(tmp_path / "doctrees"),
                "html",
                confoverrides=overrides,
                status=None,
                warning=complaints,
            )
            app.add_config_value("chapterbook_origin", None, "env", types=[tuple])
            app.config.chapterbook_origin = ("AG News", False, "9 train rows")
            app.build()
        assert complaints.getvalue() == ""
        found = (tmp_path / "html").glob("*.html")
        return {path.stem: path.read_text(encoding="utf-8") for path in found}

    return run


def read() -> list[records.RunRecord]:
    return records.read()


# ---- what a request finds ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("accuracy", "90.0%"),
        # Wilson's interval for 90 of 100, as statsmodels gives it: 0.8256, 0.9448
        ("interval", "82.6–94.5%"),
        ("labels", "2,048"),
        ("test_rows", "100"),
        ("fit_time", "2\N{NO-BREAK SPACE}min"),
        ("predict_time", "2.5\N{NO-BREAK SPACE}s"),
        ("memory", "1.13\N{NO-BREAK SPACE}GB"),
        ("size", "65.7\N{NO-BREAK SPACE}kB"),
        ("parameters", "4,612"),
        ("title", "Probe"),
        ("model", "tiny"),
    ],
)
def test_a_value_is_written_for_readers(results: Path, value: str, text: str) -> None:
    request = f"{value} method=probe labels=2,048"
    assert quote(request, read(), Statement.of(BOOK, {})).text == text


def test_seeds_are_averaged_only_on_request(results: Path) -> None:
    put(results, seed=1, right=80)
    known, statement = read(), Statement.of(BOOK, {})

    def ask(request: str) -> str:
        return quote(f"{request} method=probe", known, statement).text

    assert ask("accuracy seed=all") == "85.0%"
    assert ask("range seed=all") == "80.0–90.0%"
    assert ask("seeds seed=all") == "2"
    assert ask("accuracy seed=1") == "80.0%"
    with pytest.raises(QuoteError, match=r"2 records fit \(seed=0, 1\).*seed=all"):
        ask("accuracy")


def test_records_of_other_data_are_not_meant(results: Path) -> None:
    put(results, right=50, data={"name": "The sample", "test_fingerprint": "0" * 16})
    found = quote("accuracy method=probe", read(), Statement.of(BOOK, {}))

    assert found.text == "90.0%"
    assert found.provenance == ("Probe: 2,048 labels, seed 0; 100 test rows of AG News")


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        (
            "accuracy method=probe labels=512",
            r"no such record \(there are: labels=2048",
        ),
        ("accuracy method=lora", r"no such record \(there are: probe\).*make results"),
        ("accurace method=probe", "no value 'accurace'.*accuracy, interval"),
        ("accuracy labels=2048", "method=probe"),
        ("accuracy method=probe rows=7", "'rows' is none of method=…, labels=…"),
        ("", "method=probe"),
    ],
)
def test_what_is_not_there_is_refused(
    results: Path, request_text: str, message: str
) -> None:
    with pytest.raises(QuoteError, match=message):
        quote(request_text, read(), Statement.of(BOOK, {}))


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"record_data": "AG News 00000000"}, "of AG News fedcba9876543210.*00000000"),
        ({"record_data": "Other News"}, "of AG News .*record_data states Other News"),
        ({"record_model": "tiny cdcdcdcd"}, "of tiny abababababab.*tiny cdcdcdcd"),
        ({"record_model": "huge"}, "record_model states huge"),
        ({"record_code": "0.2.0"}, r"of 0\.1\.0 .*record_code states 0\.2\.0"),
    ],
)
def test_what_is_stale_is_refused(
    results: Path, stated: dict[str, str], message: str
) -> None:
    with pytest.raises(QuoteError, match=rf"s0\.json is stale: .*{message}"):
        quote("accuracy method=probe", read(), Statement.of(BOOK, stated))


@pytest.mark.parametrize(
    "stated",
    [
        {"record_data": "AG News"},
        {"record_data": "Other News 12345678, AG News fedcba9876543210"},
        {"record_data": ["Other News", "AG News fedcba98"]},
        {"record_model": f"tiny {SHA}"},
        {"record_code": "c0dec0dec0dec0de"},
    ],
)
def test_a_page_may_state_it_more_or_less_closely(
    results: Path, stated: dict[str, Any]
) -> None:
    assert quote("accuracy method=probe", read(), Statement.of(BOOK, stated))


def test_a_method_without_a_model_fits_any(results: Path) -> None:
    put(results, method="tfidf", model=None, model_sha256=None)
    statement = Statement.of(BOOK, {"record_model": "another"})
    assert quote("accuracy method=tfidf", read(), statement).text == "90.0%"


# ---- pages ----


QUOTES = (
    "# Intro {record}`labels method=probe`\n\nIt is {record}`accuracy method=probe`.\n"
)
LIST = "# Records\n\n```{record-list}\n```\n"


def test_a_page_shows_the_number_with_its_source(results: Path, build: Build) -> None:
    tree = "\n```{toctree}\nrecords\n```\n"
    pages = build({"intro.md": QUOTES + tree, "records.md": LIST})

    assert "<h1>Intro" in pages["intro"]
    link = re.search(r"It is <a class=.*?</a>", pages["intro"])
    assert link
    assert ">90.0%</span></a>" in link[0]
    assert 'href="records.html#record-ag-news-probe-2048-s0"' in link[0]
    assert "100 test rows of AG News" in link[0]
    assert "<title>Intro 2,048" in pages["intro"]
    # each record has a line with its provenance, under the id that the link names
    line = re.search(
        r'<tr[^>]*id="record-ag-news-probe-2048-s0".*?</tr>', pages["records"], re.S
    )
    assert line
    provenance = ["90.0%", "82.6–94.5%", "AG News", "fedcba9876543210"]
    provenance += ["0123456789abcdef", "tiny abababababab", "0.1.0 c0dec0dec0dec0de"]
    provenance += [read()[0].created.isoformat(), "ag-news-probe-2048-s0.json"]
    for text in provenance:
        assert text in line[0]
    machine = "A processor, 2 cores, 25 GB of memory, no GPU, computing in float32"
    assert f"Setup 1: {machine}" in pages["records"]
    assert "Python 3.11.7, chapterlib 0.1.0" in pages["records"]


def test_without_a_list_the_number_stands_alone(results: Path, build: Build) -> None:
    page = build({"intro.md": QUOTES})["intro"]
    assert 'It is <span class="record">90.0%</span>.' in page


def test_a_notebook_states_for_itself(results: Path, build: Build) -> None:
    cell = nbformat.v4.new_markdown_cell(QUOTES)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"record_code": "0.1.0"})
    page = build({"intro.ipynb": nbformat.writes(notebook)}, record_code="0.0.9")
    assert ">90.0%</span>" in page["intro"]


def test_a_number_follows_its_record(results: Path, build: Build) -> None:
    build({"intro.md": QUOTES})
    put(results, right=70)
    assert "70.0%" in build()["intro"]


def test_all_failures_of_all_pages_are_named(results: Path, build: Build) -> None:
    front = "---\nrecord_code: 0.2.0\n---\n"
    pages = {
        "intro.md": f"{front}{QUOTES}\n```{{toctree}}\nother\n```\n",
        "other.md": "# Other\n\n{record}`accuracy method=lora`\n",
    }
    with pytest.raises(SphinxError) as failure:
        build(pages)

    message = str(failure.value)
    assert re.search(r"intro:\d+: .*is stale: it is of 0\.1\.0 ", message)
    assert re.search(r"other:3: .*method=lora.*no such record", message)

    # nothing was stored that would make the next build pass
    with pytest.raises(SphinxError, match="is stale"):
        build()
    pages = {name: text.replace("0.2.0", "0.1.0") for name, text in pages.items()}
    assert build(pages | {"other.md": "# Other\n"})


def test_a_statement_is_asked_for(results: Path, build: Build) -> None:
    with pytest.raises(
        SphinxError, match=r"neither the page nor .* states record_data"
    ):
        build({"intro.md": QUOTES}, record_data="")


def test_an_edited_record_fails_a_book_that_does_not_quote_it(
    results: Path, build: Build
) -> None:
    build({"intro.md": "# Intro\n"})
    path = next(results.glob("*.json"))
    payload = json.loads(path.read_text(encoding="utf-8"))
    payload["metrics"]["accuracy"] = 0.91
    path.write_text(json.dumps(payload), encoding="utf-8")

    with pytest.raises(SphinxError, match=r"probe-2048-s0.json was changed after"):
        build()


def test_a_book_without_records_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Build
) -> None:
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path / "nowhere"))
    assert "There are no records yet" in build({"intro.md": LIST})["intro"]


def test_other_installed_versions_void_the_stored_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    before = notebook_runs.cache_folder(environment)
    monkeypatch.setattr(settings, "versions", lambda: {"torch": "0.1"})

    assert notebook_runs.cache_folder(environment) != before


def test_each_notebook_has_a_line_about_its_last_run(
    tmp_path: Path, results: Path, build: Build
) -> None:
    cells = [nbformat.v4.new_markdown_cell("# Count"), nbformat.v4.new_code_cell("1")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    cache = tmp_path / "cache"
    text = nbformat.writes(notebook)
    pages = {
        "intro.md": "# Status\n\n```{notebook-list}\n```\n\n```{toctree}\na\nb\n```\n",
        "a.ipynb": text,
        "b.ipynb": text.replace("Count", "Another").replace('"1"', '"2"'),
    }
    page = build(pages, nb_execution_cache_path=str(cache))["intro"]
    assert page.count("not yet") == 2

    file = tmp_path / "source" / "a.ipynb"
    notebook_runs.store_run(file, nbformat.read(file, as_version=4), 12.5, cache)
    page = build(nb_execution_cache_path=str(cache))["intro"]
    rows = {
        name: re.sub(r"<[^>]+>|\s+", " ", row)
        for row in re.findall(r"<tr.*?</tr>", page, re.S)
        for name in re.findall("Count|Another", row)
    }
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d", rows["Count"])
    assert "12 s" in rows["Count"]
    assert "cpu" in rows["Count"]
    assert "AG News" in rows["Count"]
    assert "not yet" in rows["Another"]
    assert "AG News here: 9 train rows." in page
    assert "Versions: Python 3" in page
