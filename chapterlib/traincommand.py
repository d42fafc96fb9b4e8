"""The command that finetunes by a configuration file, in one process or in many."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from chapterlib import data, metrics, models, records
from chapterlib.finetuning import is_main
from chapterlib.presets import preset
from chapterlib.training import FinetunedClassifier

__all__ = ["ConfigError", "RunConfig", "main", "read_config", "run"]

CONFIGS = Path(__file__).parent / "data_files" / "training"


class ConfigError(ValueError):
    """A configuration file that can't be used."""


class RunConfig(BaseModel):
    """What a configuration file may say.

    Attributes
    ----------
    output : pathlib.Path
        Folder for the finetuned model; a relative one is taken from where the command
        runs.
    preset : str or None
        As for `presets.preset`; by default that of the tier.
    params : dict
        Parameters of `training.FinetunedClassifier` that differ from the preset.
    data : str or None
        As for `data.load_ag_news`.
    train_per_class, test_per_class : int or None
        Rows a class; None takes them all.
    seed : int
        Of the draw of rows and of the training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: Path
    preset: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    data: str | None = None
    train_per_class: PositiveInt | None = None
    test_per_class: PositiveInt | None = None
    seed: int = 0


def read_config(path: str | Path) -> RunConfig:
    """Read and check a configuration file.

    Parameters
    ----------
    path : path
        A YAML file; a name without a folder may be one that is shipped:
        "llama3-8b.yaml", "cpu.yaml".

    Raises
    ------
    ConfigError
        If there is no such file, or a field is unknown or of no use.
    """
    file = Path(path).expanduser()
    if (
        not file.is_file()
        and (CONFIGS / file.name).is_file()
        and file.name == str(path)
    ):
        file = CONFIGS / file.name
    try:
        return RunConfig(**(yaml.safe_load(file.read_text(encoding="utf-8")) or {}))
    except FileNotFoundError:
        shipped = ", ".join(sorted(f.name for f in CONFIGS.glob("*.yaml")))
        raise ConfigError(
            f"there is no file {file}: name one, or one that is shipped ({shipped})"
        ) from None
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{file} is no YAML mapping: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"{file}: {wrong}") from error


def run(config: RunConfig) -> records.RunRecord | None:
    """Train, measure on the test rows, and save model and card.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    RunRecord or None
        None in every process but the first.
    """
    ds = data.load_ag_news(config.data)
    train, test = ds["train"], ds["test"]
    if config.train_per_class is not None:
        train = data.balanced_sample(train, config.train_per_class, seed=config.seed)
    if config.test_per_class is not None:
        test = data.balanced_sample(test, config.test_per_class, seed=config.seed)
    options = preset(config.preset, **{"seed": config.seed, **config.params})
    try:
        classifier = FinetunedClassifier(**options)
    except TypeError as error:
        raise ConfigError(f"params: {error}") from error
    with records.measure() as fitting:
        classifier.fit(list(train["text"]), list(train["label"]))
    if not is_main():
        return None
    with records.measure() as predicting:
        predicted = classifier.predict(list(test["text"]))
    source = models.resolve(classifier.model)
    record = records.RunRecord.from_predictions(
        test["label"],
        predicted,
        method=classifier.method,
        title=f"Finetuned ({classifier.method})",
        model=source.name,
        model_sha256=source.sha256,
        data=records.DataUsed.of(
            data.describe(ds),
            train=train,
            test=test,
            per_class=config.train_per_class,
        ),
        seed=config.seed,
        params={name: repr(value) for name, value in sorted(options.items())},
        fit_seconds=fitting.seconds,
        predict_seconds=predicting.seconds,
        peak_memory_bytes=max(fitting.peak_bytes, predicting.peak_bytes),
        peak_gpu_bytes=fitting.peak_gpu_bytes,
        trainable_parameters=classifier.trainable_parameters_,
        size_bytes=classifier.size_bytes_,
    )
    folder = classifier.save(config.output, record)
    print(metrics.evaluate(test["label"], predicted, test.features["label"].names))
    print(f"saved in {folder}")
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Finetune from the command line: ``--config run.yaml [--output folder]``."""
    parser = argparse.ArgumentParser(
        prog="python -m chapterlib.training", description=__doc__
    )
    parser.add_argument("--config", required=True, help="a YAML file")
    parser.add_argument("--output", type=Path, help="another folder for the model")
    options = parser.parse_args(arguments)
    config = read_config(options.config)
    if options.output is not None:
        config = config.model_copy(update={"output": options.output})
    try:
        run(config)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
