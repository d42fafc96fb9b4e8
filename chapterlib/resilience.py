"""Keep a run of training safe: clear errors, own randomness, whole checkpoints."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

MEMORY = (
    "out of memory while {what}: halve batch_size and double accumulate (the result "
    "stays the same), lower max_length, set gradient_checkpointing=True, or take "
    "method='qlora' or a smaller model"
)


class TrainingError(RuntimeError):
    """Training can't go on; the message says what to change."""


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, or None.

    The state of the trainer is the last file of a checkpoint: where it is missing or
    cut off, the process was killed while saving.
    """
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text())
            found.append((int(state["global_step"]), path))
        except (OSError, ValueError, KeyError):
            continue
    return max(found)[1] if found else None


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn running out of memory in the block into an error with its remedies."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrainingError(MEMORY.format(what=what)) from error
    except RuntimeError as error:
        words = str(error).lower()
        if "not enough memory" in words or "can't allocate memory" in words:
            raise TrainingError(MEMORY.format(what=what)) from error
        raise


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the block, and leave every generator outside of it as it was."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
