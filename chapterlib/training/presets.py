"""Named recipes of finetuning: what was set, for which machine, in one place."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from chapterlib.settings import data_file, get_settings


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as it is since version 1.2."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+$", re.I), None
)


def _read(file: Path) -> Any:
    return yaml.load(file.read_text(encoding="utf-8"), Loader)


PRESETS: Mapping[str, Mapping[str, Any]] = _read(data_file("presets.yaml"))
# Which recipe fits which tier of the settings.
TIER_PRESETS: Mapping[str, str] = {"cpu": "cpu", "t4": "t4", "gpu": "llama3-8b"}


def preset(name: str | None = None, **changes: Any) -> dict[str, Any]:
    """Parameters of a recipe, for ``FinetunedClassifier(**preset("cpu"))``.

    `name` is "llama3-8b", "cpu" or "t4", by default the one that fits the setting
    ``CHAPTERLIB_TIER``; `changes` are parameters that differ from it. ValueError if
    there is no such recipe.

    Examples
    --------
    >>> preset("llama3-8b", epochs=1)["learning_rate"]
    0.0001
    """
    if name is None:
        name = TIER_PRESETS[get_settings().tier]
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return {**copy.deepcopy(PRESETS[name]), **changes}


CONFIGS = data_file("training")


class ConfigError(ValueError):
    """A configuration file that can't be used."""


class RunConfig(BaseModel):
    """What a configuration file may say.

    `params` of `FinetunedClassifier` differ from the `preset`; `data` is as for
    `Task.load`; None rows per class are all.
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
    """Read and check a YAML file; a bare name may be a shipped one: "cpu.yaml".

    Raises ConfigError if there is no such file, or a field is unknown or of no use.
    """
    file = Path(path).expanduser()
    if not file.is_file() and file.name == str(path):
        file = CONFIGS / file.name
    try:
        return RunConfig(**(_read(file) or {}))
    except FileNotFoundError:
        shipped = ", ".join(sorted(f.name for f in CONFIGS.glob("*.yaml")))
        raise ConfigError(
            f"there is no file {path}: name one, or one that is shipped ({shipped})"
        ) from None
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{file} is no YAML mapping: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"{file}: {wrong}") from error
