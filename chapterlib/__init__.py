"""The helper package of the book *Finetuning Large Language Models*.

What a chapter needs is a name of this package, loaded on first use::

    from chapterlib import ProbeClassifier, metrics, tasks

`prompts` is the room `chapterlib.prompting` and `records` the room
`chapterlib.reporting`, under the names that readers know them by.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chapterlib._logging import hide_known_noise

if TYPE_CHECKING:
    from chapterlib import (
        metrics,
        models,
        plots,
        prompting as prompts,
        reporting as records,
        tasks,
        training,
    )
    from chapterlib.classifiers import (
        FinetunedClassifier,
        LabelScorer,
        NeighborVote,
        ProbeClassifier,
        PromptClassifier,
    )
    from chapterlib.prompting import parsers
    from chapterlib.reporting import costs
    from chapterlib.settings import get_settings
    from chapterlib.tasks import AG_NEWS, Task

__version__ = "0.1.0"

__all__ = [
    "AG_NEWS",
    "FinetunedClassifier",
    "LabelScorer",
    "NeighborVote",
    "ProbeClassifier",
    "PromptClassifier",
    "Task",
    "costs",
    "get_settings",
    "metrics",
    "models",
    "parsers",
    "plots",
    "prompts",
    "records",
    "tasks",
    "training",
]

_MODULES = {
    "costs": "reporting.costs",
    "metrics": "metrics",
    "models": "models",
    "parsers": "prompting.parsers",
    "plots": "plots",
    "prompts": "prompting",
    "records": "reporting",
    "tasks": "tasks",
    "training": "training",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"chapterlib.{_MODULES[name]}")
    if name == "get_settings":
        return import_module("chapterlib.settings").get_settings
    if name in ("AG_NEWS", "Task"):
        return getattr(import_module("chapterlib.tasks"), name)
    if name in __all__:
        return getattr(import_module("chapterlib.classifiers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


hide_known_noise()
