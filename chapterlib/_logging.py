"""Silence for libraries that print more than a reader can use."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def hide_known_noise() -> None:
    """Drop a line that ``bitsandbytes`` logs when a CPU lacks an optional kernel.

    It looks like an error to readers, and nothing that this package does needs it.
    """
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.addFilter(lambda line: "gemm_4bit_forward" not in str(line.msg))


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the log lines, warnings and bars of ``transformers`` and its kin.

    Errors still pass, and what was set before is set again afterwards.
    """
    from transformers.utils import logging as transformers_logging

    names = ("transformers", "huggingface_hub", "bitsandbytes", "torch")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
