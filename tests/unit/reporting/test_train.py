"""The command: checked configurations, and processes that agree with one alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import DatasetDict
from safetensors.torch import load_file

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.reporting import runs
from chapterlib.reporting.runs import main
from chapterlib.training.presets import CONFIGS, ConfigError, read_config


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
    main(["train", f"--config={config}"])
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


def test_an_unknown_parameter_or_file_is_named(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params: .*'rank'"):
        main(["train", f"--config={changed(config, params={'rank': 3})}"])
    with pytest.raises(ConfigError, match=r"that is shipped \(cpu.yaml, .*llama3-8b"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["cpu.yaml", "llama3-8b.yaml", "llama3-8b-fsdp.yaml"])
def test_what_is_shipped_builds(name: str) -> None:
    found = read_config(name)
    from chapterlib.training.presets import preset

    made = FinetunedClassifier(**preset(found.preset, **found.params))
    assert made.epochs == 3
    if "llama" in name:
        assert (made.r, made.alpha, made.dropout) == (16, 8, 0.05)


def test_the_fsdp_file_is_one_that_accelerate_reads() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found: Any = load_config_from_file(str(CONFIGS / "fsdp.yaml"))
    assert found.fsdp_config["fsdp_version"] == 2
    assert found.mixed_precision == "bf16"
