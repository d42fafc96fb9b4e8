"""The command line: what each subcommand prints, and how it ends on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from datasets import DatasetDict
from fault_server import FaultServer
from record_double import make

import chapterlib.__main__
from chapterlib.__main__ import main
from chapterlib.models import embedded
from chapterlib.reporting import records
from chapterlib.tasks import sampling
from chapterlib.tasks.task import Task

PROJECT = Path(__file__).parents[2]
COMMANDS = ("model", "train", "measure", "records", "figure", "rows")


def ends(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that fails; give the message, which must be one line."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = str(end.value.code)
    assert "\n" not in told
    assert capsys.readouterr().out == ""
    return told


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare records the measurement of the type that the machine computes in."""
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float32")


@pytest.fixture
def loaded(
    tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[str | None]]:
    """Load the tiny rows instead; give what rows were asked for."""
    asked: list[str | None] = []

    def load(task: Task, source: str | None = None) -> DatasetDict:
        asked.append(None)
        return tiny_news

    def book_rows(ds: DatasetDict) -> DatasetDict:
        asked[-1] = "book"
        return ds

    monkeypatch.setattr(Task, "load", load)
    monkeypatch.setattr(sampling, "book_rows", book_rows)
    return lambda: asked


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_of_its_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"usage: python -m chapterlib {command}" in capsys.readouterr().out


def test_the_help_lists_every_command_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom chapterlib.__main__ import main\n"
        "try: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    for command in COMMANDS:
        assert f"\n    {command} " in done.stdout


def test_no_command_or_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in ([], ["bake"], ["train"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "usage: python -m chapterlib" in capsys.readouterr().err


def test_bad_input_ends_with_a_line_that_names_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    loaded: object,
) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    assert "a.json is no JSON" in ends(capsys, "records", str(tmp_path))
    assert "is no folder" in ends(capsys, "records", str(tmp_path / "none"))
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"output": "x", "epochs": 3}))
    assert "epochs: Extra inputs" in ends(capsys, "train", f"--config={config}")
    assert "there is no file" in ends(capsys, "train", "--config=none.yaml")
    assert "no method bake" in ends(capsys, "measure", "--list", "--only", "bake")
    assert "no wheel at none.whl" in ends(capsys, "model", "none.whl")
    monkeypatch.setenv("CHAPTERLIB_SEED", "-1")
    assert "seed: Input should be greater" in ends(capsys, "measure", "--list")


def test_an_error_that_nobody_foresaw_shows_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(records, "read", fail)
    with pytest.raises(ZeroDivisionError):
        main(["records"])


def test_a_reader_that_has_seen_enough_sees_no_traceback(tmp_path: Path) -> None:
    records.write(make(), tmp_path)
    command = [sys.executable, "-m", "chapterlib", "records", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_the_model_s_folder_is_printed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "model_folder", lambda wheel: tmp_path)
    main(["model"])
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_the_runs_are_listed_and_measured(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loaded: Callable[[], list[str | None]],
) -> None:
    arguments = ["--only", "majority", "--results", str(tmp_path)]
    main(["measure", *arguments, "--list"])
    assert "to do    majority, all rows, seed 0" in capsys.readouterr().out
    main(["measure", *arguments])
    assert "1 records written" in capsys.readouterr().out
    main(["measure", *arguments, "--list", "--all-rows"])
    assert "current  majority" in capsys.readouterr().out
    assert loaded() == ["book", "book", None]


def test_whoever_measures_is_told_that_rows_go_to_a_host(
    tiny_news: DatasetDict,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    loaded: object,
) -> None:
    key, model = "sk-planted-0123456789abcdefghij", "someone/Big-Model-70B"
    names = tiny_news["test"].features["label"].names
    labels = {row["text"]: names[row["label"]] for row in tiny_news["test"]}
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    (folder := tmp_path / "results").mkdir()
    asked = "hosted-zero-shot-big-model-70b"
    with FaultServer(labels.__getitem__, key=key, models=[model]) as server:
        monkeypatch.setenv("CHAPTERLIB_LLM_BASE_URL", server.base_url)
        monkeypatch.setenv("CHAPTERLIB_LLM_MODEL", model)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        main(["measure", "--only", asked, "--results", str(folder)])
        told = capsys.readouterr().out
        assert f"Rows go to {model}" in told
        assert "CHAPTERLIB_BUDGET_USD" in told
        assert key not in told
        for nothing_to_ask in (asked, "majority"):  # the first is measured by now
            main(["measure", "--only", nothing_to_ask, "--results", str(folder)])
            assert "Rows go to" not in capsys.readouterr().out


def test_the_records_of_each_data_have_a_table_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["records", str(tmp_path)])
    assert "make results" in capsys.readouterr().out
    records.write(make(), tmp_path)
    sample = {"name": "chapterlib sample", "origin": "sample"}
    records.write(make(data=sample), tmp_path)
    main(["records", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.index("AG News") < printed.index("chapterlib sample")


def test_the_figure_is_the_same_from_the_same_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    records.write(make(data={"name": "chapterlib sample"}), folder)
    first = tmp_path / "a.svg"
    assert "make results" in ends(
        capsys, "figure", "--results", str(folder), "--output", str(first)
    )
    assert not first.exists()
    records.write(make(), folder)
    records.write(make([0] * 8, method="majority"), folder)
    for name in ("a.svg", "b.svg", "c.png"):
        main(["figure", "--results", str(folder), "--output", str(tmp_path / name)])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'c.png'}\n")
    svg = first.read_bytes()
    assert svg == (tmp_path / "b.svg").read_bytes()
    assert b"<dc:date>" not in svg
    nowhere = str(folder / "x" / "a.svg")
    assert "pass --output" in ends(
        capsys, "figure", "--results", str(folder), "--output", nowhere
    )


def test_the_rows_are_listed_beside_the_records(
    tmp_path: Path,
    tiny_news: DatasetDict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    loaded: object,
) -> None:
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path))
    main(["rows"])
    path = tmp_path / "rows" / "ag-news.json"
    labels = path.with_name("labels.json")
    assert capsys.readouterr().out == f"{path}\n{labels}\n"
    (digits,) = json.loads(labels.read_text()).values()
    assert digits == "".join(map(str, tiny_news["test"]["label"]))
    rows = sampling.book_rows(tiny_news)
    assert rows["test"]["text"][:] == tiny_news["test"]["text"][:]


def test_the_sample_s_rows_are_listed_nowhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "sample")
    assert "set CHAPTERLIB_AG_NEWS" in ends(capsys, "rows")
    assert chapterlib.__main__.PACKAGE.name == "chapterlib"


LADDER = """
import sys
from chapterlib import (
    AG_NEWS, FinetunedClassifier, LabelScorer, NeighborVote, ProbeClassifier, metrics
)
texts = [f"{w} on day {i}" for i in range(4) for w in ("a team wins", "shares fall")]
labels = [1, 2] * 4
options = {"model": sys.argv[1], "progress": False}
scorer = LabelScorer(verbalizers=("team", "a", "of", "match"), **options)
for model in (scorer, NeighborVote(scorer, k=2), ProbeClassifier(**options)):
    model.fit(texts, labels).predict_proba(texts)
for method in ("full", "head", "lora", "qlora"):
    model = FinetunedClassifier(method, epochs=1, validation=0.25, **options)
    model.fit(texts, labels).save(sys.argv[2] + method)
    again = FinetunedClassifier.load(sys.argv[2] + method, model=sys.argv[1])
    again.set_params(progress=False).predict(texts)
    if method.endswith("lora"):
        again.merge(sys.argv[2] + "merged")
metrics.evaluate(labels, labels, AG_NEWS.label_names)
metrics.load_accuracy().compute(references=labels, predictions=labels)
"""


@pytest.mark.slow
def test_the_ladder_prints_nothing_that_it_was_not_asked_for(tiny_llama, tmp_path):
    child = [sys.executable, "-c", LADDER, str(tiny_llama), str(tmp_path / "saved-")]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", sorted((PROJECT / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_no_benchmark_starts_with_a_library_s_log(script):
    child = [sys.executable, str(script), "--help"]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
