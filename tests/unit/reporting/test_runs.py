"""The runner of measurements: plans, skips what is current, writes true records."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import DatasetDict, concatenate_datasets
from fault_server import FaultServer
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from tiny_llama import save_tiny_llama

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.classifiers.neighbors import NeighborVote
from chapterlib.classifiers.probe import ProbeClassifier
from chapterlib.classifiers.prompt import PromptClassifier
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting import chat_models
from chapterlib.reporting import methods, records, runs
from chapterlib.reporting.runs import in_own_process
from chapterlib.settings import get_settings
from chapterlib.tasks.task import AG_NEWS, Label
from chapterlib.training.presets import CONFIGS, ConfigError, preset, read_config


class Broken(DummyClassifier):
    """Fails when it is asked."""

    def predict(self, texts: Any) -> Any:
        raise ValueError("the key was refused")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, a tiny ladder of budgets and a folder for the records."""
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(tiny_llama))
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float32")
    monkeypatch.setattr(runs, "PER_CLASS", (5, 1000, None))
    monkeypatch.setattr(runs, "SEEDS_UP_TO", 5)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all in this process: another one takes seconds to import torch."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    monkeypatch.setattr(runs, "in_own_process", call)


def test_the_plan_fits_the_data(tiny_news: DatasetDict) -> None:
    learned = ["majority", "tfidf", "probe"]
    listed = [str(run) for run in runs.plan(tiny_news, learned)]
    assert listed == [
        *(f"{slug}, 5 a class, seed {s}" for slug in ("tfidf", "probe") for s in "012"),
        "majority, all rows, seed 0",
        "tfidf, all rows, seed 0",
        "probe, all rows, seed 0",
    ]
    assert len(runs.plan(tiny_news, ["majority"])) == 1
    (zero,) = runs.plan(tiny_news, ["zero-shot"])
    assert str(zero) == "zero-shot, no rows, seed 0"
    every = runs.plan(tiny_news)
    assert str(every[0]) == str(zero)
    assert {run.method.slug for run in every} <= {m.slug for m in methods.METHODS}
    assert len({run.name for run in every}) == len(every)
    with pytest.raises(runs.RunError, match="no method nonsense: there are majority"):
        runs.plan(tiny_news, ["nonsense"])


@pytest.mark.usefixtures("here")
def test_records_hold_what_was_predicted(small: Path, tiny_news: DatasetDict) -> None:
    learned = ["majority", "tfidf", "probe"]
    written = runs.measure_all(tiny_news, small, only=learned)
    assert len(written) == 9
    found = records.read(small)
    for record in found:
        record.recompute(tiny_news["test"]["label"])
    probe = next(r for r in found if r.method == "probe" and r.data.n_train == 24)
    assert probe.model == "tiny-llama"
    assert probe.trainable_parameters == 4 * (64 + 1)
    assert probe.size_bytes
    assert min(probe.fit_seconds, probe.peak_memory_bytes) > 0
    majority = next(r for r in found if r.method == "majority")
    assert majority.model is None
    assert majority.metrics.accuracy == 0.25
    draws = [r.data.train_fingerprint for r in found if r.data.per_class == 5]
    assert len(set(draws)) == 3  # a draw a seed, the same for every method


def test_what_is_current_is_not_run_again(small: Path, tiny_news: DatasetDict) -> None:
    first = runs.measure_all(tiny_news, small, only=["majority", "tfidf"])
    assert runs.measure_all(tiny_news, small, only=["majority", "tfidf"]) == []
    first[0].unlink()
    assert runs.measure_all(tiny_news, small, only=["majority", "tfidf"]) == first[:1]
    forced = runs.measure_all(tiny_news, small, only=["majority"], force=True)
    assert len(forced) == 1
    # Other rows make every record one of something else.
    double = concatenate_datasets([tiny_news["test"], tiny_news["test"]])
    other = DatasetDict(train=tiny_news["train"], test=double)
    assert len(runs.measure_all(other, small, only=["majority"])) == 1


def test_a_run_that_fails_stops_no_other(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seed: int) -> Any:
        return Broken()

    broken_one = methods.Method(
        "broken", "Broken", broken, uses_model=False, budgets=(5,), seeds=1
    )
    (majority,) = (m for m in methods.METHODS if m.slug == "majority")
    monkeypatch.setattr(runs, "METHODS", (broken_one, majority))
    with pytest.raises(runs.RunError, match=r"1 of 2 runs failed: broken, 5 a class"):
        runs.measure_all(tiny_news, small)
    assert [record.method for record in records.read(small)] == ["majority"]


def test_another_model_is_another_run(
    small: Path, tiny_news: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.plan(tiny_news, ["probe"])[-1]
    known = [runs.execute(run, tiny_news)]
    assert runs.is_current(run, tiny_news, known)
    other = save_tiny_llama(tmp_path / "other", layers=1)
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(other))
    assert not runs.is_current(run, tiny_news, known)


def _only(**changes: Any) -> runs.Run:
    """A run of a method of its own, on five rows a class."""
    options = {
        "slug": "own",
        "title": "Own",
        "make": lambda seed: LabelScorer(),
        "uses_model": False,
    }
    return runs.Run(methods.Method(**{**options, **changes}), 5, 0)


# Few rows fit into what the tiny model reads: 256 tokens.
TINY = LabelScorer(
    template="{text}:",
    max_length=4,
    verbalizers=("team", "a", "of", "match"),
    progress=False,
)


@pytest.mark.usefixtures("here")
def test_a_method_that_sees_no_rows_says_so(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.Method("own", "Own", lambda seed: clone(TINY), budgets=(0,))
    monkeypatch.setattr(runs, "METHODS", (method,))
    (file,) = runs.measure_all(tiny_news, small)
    (record,) = records.read(small)
    assert file.name.endswith("-own-0-s0.json")
    assert record.data.labels_used == record.data.n_train == 0
    assert record.data.train_fingerprint is None
    assert record.params["verbalizers"] == ["team", "a", "of", "match"]
    assert record.predict_seconds > 0
    assert runs.measure_all(tiny_news, small) == []


class Looking(NeighborVote):
    """Tells what lies in the cache when its work begins."""

    seen: tuple[str, ...] = ()

    def fit(self, texts: Any, labels: Any) -> Any:
        cache = get_settings().cache
        Looking.seen = tuple(sorted(path.name for path in cache.iterdir()))
        return super().fit(texts, labels)


@pytest.mark.usefixtures("here")
def test_a_run_finds_nothing_that_an_earlier_one_kept(
    small: Path, tiny_news: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "cache"
    (user / "embedded").mkdir(parents=True)
    (user / "embedded" / "model.gguf").write_text("GGUF")
    (user / "replies.sqlite").write_text("earlier")
    before = {path.name for path in user.iterdir()}
    looking = methods.Method(
        "own", "Own", lambda seed: Looking(clone(TINY), k=2), budgets=(5,), seeds=1
    )
    monkeypatch.setattr(runs, "METHODS", (looking,))
    runs.measure_all(tiny_news, small)
    assert Looking.seen == ("embedded",)
    # Nor does it leave anything there, and the settings are the user's again.
    assert {path.name for path in user.iterdir()} == before
    assert get_settings().cache == user


def test_an_empty_cache_holds_the_model_also_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError("a required privilege is not held by the client")

    user = tmp_path / "cache"
    (user / "embedded" / "b179").mkdir(parents=True)
    (user / "embedded" / "b179" / "model.gguf").write_text("GGUF")
    for links in (True, False):
        with runs.empty_cache() as folder:
            assert get_settings().cache == folder
            kept = folder / "embedded" / "b179" / "model.gguf"
            assert kept.read_text() == "GGUF"
            assert (folder / "embedded").is_symlink() == links
        assert not folder.exists()
        monkeypatch.setattr(Path, "symlink_to", refused)
    assert (user / "embedded" / "b179" / "model.gguf").is_file()


class Asked(DummyClassifier):
    """A classifier that keeps account of its answers, as `PromptClassifier` does."""

    def predict(self, X: Any) -> Any:
        verdicts = ["parsed"] * (len(X) - 1) + ["refused"]
        self.answers_ = [SimpleNamespace(verdict=verdict) for verdict in verdicts]
        self.usage_ = Usage(requests=3)
        return np.array([0] * (len(X) - 1) + [-1])


@dataclass(frozen=True)
class Usage:
    requests: int


def test_what_became_of_each_article_is_recorded(
    small: Path, tiny_news: DatasetDict
) -> None:
    asked = _only(make=lambda seed: Asked())
    record = runs.execute(asked, tiny_news)
    assert record.params["found"] == {
        "articles": {"parsed": 15, "refused": 1},
        "usage": {"requests": 3},
    }
    assert record.metrics.answered == 15
    assert record.size_bytes is None
    assert runs.is_current(asked, tiny_news, [record])  # it is no part of the settings


@pytest.mark.usefixtures("here")
def test_a_local_model_gets_no_earlier_replies(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = chat_models.chat_model
    with FaultServer(lambda text: "World") as server:

        def served(provider: str, **options: Any) -> Any:
            assert provider == "local"
            url = server.base_url
            return make("openai", "m", base_url=url, api_key="none", **options)

        monkeypatch.setattr(chat_models, "chat_model", served)
        asked = methods.Method(
            "own", "Own", lambda seed: PromptClassifier("local"), budgets=(0,)
        )
        monkeypatch.setattr(runs, "METHODS", (asked,))
        asked.estimator(0, 0).predict(tiny_news["test"]["text"])
        sent = len(server.requests)
        runs.measure_all(tiny_news, small)
        assert len(server.requests) == 2 * sent
    (record,) = records.read(small)
    found: Any = record.params["found"]
    assert found["usage"]["requests"] == sent
    assert (found["usage"]["cached"], found["usage"]["usd"]) == (0, 0.0)
    assert found["usage"]["completion_tokens"] > 0
    assert (record.params["llm"], record.params["price_prompt"]) == ("local", None)
    assert runs.measure_all(tiny_news, small) == []


def test_a_slow_method_answers_a_sample(small: Path, tiny_news: DatasetDict) -> None:
    slow = _only(make=lambda seed: DummyClassifier(), test_per_class=2)
    record = runs.execute(slow, tiny_news)
    assert record.data.n_test == len(record.predictions) == 8
    assert runs.is_current(slow, tiny_news, [record])
    every = _only(make=lambda seed: DummyClassifier(), test_per_class=4)
    assert runs.execute(every, tiny_news).data.n_test == 16
    assert not runs.is_current(every, tiny_news, [record])


def test_finetuning_is_recorded_with_what_it_trained(
    small: Path, tiny_news: DatasetDict
) -> None:
    make = methods.finetuned(method="lora", r=2, epochs=1, progress=False)
    tuned = _only(make=make, uses_model=True)
    record = runs.execute(tuned, tiny_news)
    # Two layers of width 32 whose keys and values are 16 wide, and the head.
    adapters = 2 * 2 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32))
    assert record.trainable_parameters == adapters + 4 * 32
    assert record.size_bytes == 4 * record.trainable_parameters
    assert record.params["r"] == 2
    assert runs.is_current(tuned, tiny_news, [record])


@pytest.mark.slow
def test_a_model_runs_in_a_process_of_its_own(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(run: runs.Run, *_: Any) -> Any:
        raise AssertionError(f"{run} is run here")

    monkeypatch.setattr(runs, "execute", execute)
    other = runs.plan(tiny_news, ["probe"])[-1]
    assert other.name == ("probe", None, 0)
    monkeypatch.setattr(runs, "plan", lambda *_: [other])
    assert len(runs.measure_all(tiny_news, small)) == 1
    (record,) = records.read(small)
    assert record.model == "tiny-llama"
    record.recompute(tiny_news["test"]["label"])
    assert not (small.parent / "cache" / "embeddings").exists()
    monkeypatch.setattr(runs, "plan", lambda *_: [_only()])
    with pytest.raises(runs.RunError, match="own, 5 a class, seed 0 is run here"):
        runs.measure_all(tiny_news, small)


# ---- parameters as records hold them ----


def test_what_comes_from_the_task_is_recorded() -> None:
    scorer: dict[str, Any] = {
        "template": None,
        "verbalizers": None,
        "task": AG_NEWS,
        "progress": True,
    }
    expected = {
        "template": "{text}\nThis news article is about",
        "verbalizers": ["politics", "sports", "business", "technology"],
    }
    assert runs.plain_params(scorer) == expected
    nested = {f"scorer__{name}": value for name, value in scorer.items()}
    nested |= {"scorer": object(), "k": 4, "task": AG_NEWS}
    assert runs.plain_params(nested) == {
        "k": 4,
        **{f"scorer__{name}": value for name, value in expected.items()},
    }
    words = replace(AG_NEWS.labels[0], words=("politics", "war"))
    two = replace(AG_NEWS, labels=(words, Label("rest")), template="{text} is")
    assert runs.plain_params({**scorer, "task": two}) == {
        "template": "{text} is",
        "verbalizers": [["politics", "war"], "rest"],
    }
    # What was chosen stays, and nothing is made up.
    own = {"template": "{text}:", "verbalizers": [["a"], "b"], "task": AG_NEWS}
    assert runs.plain_params(own) == {
        "template": "{text}:",
        "verbalizers": [["a"], "b"],
    }
    assert runs.plain_params({"task": AG_NEWS, "C": 1.0}) == {"C": 1.0}
    assert runs.plain_params({"template": None}) == {"template": None}


@pytest.mark.parametrize("estimator", [LabelScorer(), ProbeClassifier()])
def test_estimators_are_recorded_resolved(estimator: Any) -> None:
    found = runs.plain_params(estimator.get_params())
    assert found["template"] == AG_NEWS.template
    assert json.loads(json.dumps(found)) == found
    assert not {"task", "progress"} & set(found)


def test_a_renamed_parameter_is_the_same_parameter(
    tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "ALIASES", {"old_strategy": "strategy"})
    run = _only(make=lambda seed: DummyClassifier())
    record = runs.execute(run, tiny_news)
    params = dict(record.params)
    params["old_strategy"] = params.pop("strategy")
    earlier = record.model_copy(update={"params": params})
    assert runs.is_current(run, tiny_news, [earlier])
    params["old_strategy"] = "uniform"
    assert not runs.is_current(run, tiny_news, [earlier])
    assert runs.plain_params({"classifier__old_strategy": 1}) == {
        "classifier__strategy": 1
    }


# ---- a process of its own ----


def test_it_returns_what_the_function_returns() -> None:
    assert "pytest" in sys.modules
    assert in_own_process(os.getpid) != os.getpid()
    assert in_own_process(json.dumps, {"b": 1, "a": 2}, sort_keys=True) == (
        '{"a": 2, "b": 1}'
    )


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="factorial"):
        in_own_process(math.factorial, -1)


def test_a_process_that_was_ended_is_told_from_an_error() -> None:
    with pytest.raises(MemoryError, match="raise_signal was ended by the system"):
        in_own_process(signal.raise_signal, signal.SIGKILL)


# ---- the command that trains ----


@pytest.fixture
def news(tiny_news: DatasetDict, tmp_path: Path) -> Path:
    folder = tmp_path / "news"
    (folder / "data").mkdir(parents=True)
    for split, rows in tiny_news.items():
        rows.to_parquet(folder / "data" / f"{split}-00000.parquet")
    return folder


@pytest.fixture
def config(news: Path, tiny_llama: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    content = {
        "output": str(tmp_path / "model"),
        "preset": "cpu",
        "data": str(news),
        "params": {
            "model": str(tiny_llama),
            "dtype": "float32",
            "device": "cpu",
            "batch_size": 8,
            "epochs": 2,
            "progress": False,
        },
    }
    file.write_text(yaml.safe_dump(content))
    return file


def changed(file: Path, **fields: Any) -> Path:
    content = yaml.safe_load(file.read_text())
    content["params"] |= fields.pop("params", {})
    file.write_text(yaml.safe_dump({**content, **fields}))
    return file


def launch(file: Path, output: Path, *how: str) -> None:
    environment = {
        **os.environ,
        "CHAPTERLIB_CACHE": str(output.with_name(f"{output.name}-cache")),
        "OMP_NUM_THREADS": "1",
        # Rendezvous and gloo stay on this machine.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *how,
        "--main_process_ip=127.0.0.1",
        f"--main_process_port={port}",
        "-m",
        "chapterlib",
        "train",
        f"--config={file}",
        f"--output={output}",
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("saved in") == 1


ALONE = ("--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no")
TWO = ("--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no")


@pytest.mark.slow
def test_two_processes_end_where_one_does(config: Path, tmp_path: Path) -> None:
    for name, how in (("one", ALONE), ("two", TWO)):
        launch(config, tmp_path / name, *how)
    one, two = (
        load_file(tmp_path / name / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert set(one) == set(two)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-4, rtol=1e-3)
    histories = [
        json.loads((tmp_path / name / "chapterlib.json").read_text())["history"]
        for name in ("one", "two")
    ]
    losses = [[row["loss"] for row in history] for history in histories]
    torch.testing.assert_close(*map(torch.tensor, losses), atol=1e-4, rtol=1e-3)


def test_the_command_trains_measures_and_saves(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(config, train_per_class=5, test_per_class=2, seed=3)
    runs.train(read_config(config))
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert f"saved in {tmp_path / 'model'}" in out
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| measured on | `8 test rows of " in card
    assert "| trained on | `20 train rows of " in card
    loaded = FinetunedClassifier.load(
        tmp_path / "model", model=yaml.safe_load(config.read_text())["params"]["model"]
    )
    assert loaded.seed == 3


def test_every_process_but_the_first_is_silent(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "is_main", lambda: False)
    assert runs.train(read_config(config)) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset: cpu", "output: Field required"),
        ("output: x\nepochs: 3", "epochs: Extra inputs"),
        ("output: x\ntrain_per_class: 0", "train_per_class: .* greater than 0"),
        ("- a list", "no YAML mapping"),
        ("output: [", "no YAML mapping"),
    ],
)
def test_a_bad_configuration_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("written", ["1e-4", "1E-04", "0.0001", "1.0e-4"])
def test_a_number_in_the_notation_of_science_is_one(
    written: str, tmp_path: Path
) -> None:
    text = f"output: x\nparams:\n  learning_rate: {written}\n  model: 1e-4x\n"
    (tmp_path / "c.yaml").write_text(text)
    params = read_config(tmp_path / "c.yaml").params
    assert params == {"learning_rate": 0.0001, "model": "1e-4x"}


def test_a_parameter_out_of_range_is_named(config: Path) -> None:
    with pytest.raises(ConfigError, match="params: warmup is 100: give a share"):
        runs.train(read_config(changed(config, params={"warmup": 100})))


def test_an_unknown_parameter_or_file_is_named(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params: .*'rank'"):
        runs.train(read_config(changed(config, params={"rank": 3})))
    with pytest.raises(ConfigError, match="no preset 'tpu'"):
        runs.train(read_config(changed(config, preset="tpu")))
    with pytest.raises(ConfigError, match=r"that is shipped \(cpu.yaml, .*llama3-8b"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["cpu.yaml", "llama3-8b.yaml", "llama3-8b-fsdp.yaml"])
def test_what_is_shipped_builds(name: str) -> None:
    found = read_config(name)
    made = FinetunedClassifier(**preset(found.preset, **found.params))
    assert made.epochs == 3
    if "llama" in name:
        assert (made.r, made.alpha, made.dropout) == (16, 8, 0.05)


def test_the_fsdp_file_is_one_that_accelerate_reads() -> None:
    found: Any = load_config_from_file(str(CONFIGS / "fsdp.yaml"))
    assert found.fsdp_config["fsdp_version"] == 2
    assert found.mixed_precision == "bf16"
