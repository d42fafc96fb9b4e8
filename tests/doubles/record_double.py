"""A record of eight made-up test rows, for tests of records and tables."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np

from chapterlib.reporting import records

Y_TRUE = [0, 1, 2, 3, 0, 1, 2, 3]
Y_PRED = [0, 1, 2, 3, 0, 1, 3, -1]
DATA: dict[str, Any] = {
    "name": "AG News",
    "origin": "folder",
    "train_fingerprint": "0123456789abcdef",
    "test_fingerprint": "fedcba9876543210",
    "n_train": 32,
    "n_test": 8,
    "labels_used": 32,
    "per_class": 8,
    "label_names": ["World", "Sports", "Business", "Sci/Tech"],
}


def make(
    y_pred: Sequence[int] = Y_PRED,
    *,
    data: dict[str, Any] | None = None,
    level: float = 0.95,
    **fields: Any,
) -> records.RunRecord:
    """Make a record; `data` and `fields` are what differs."""
    values: dict[str, Any] = {
        "method": "probe",
        "title": "Probe",
        "model": "embedded",
        "model_sha256": "ab" * 32,
        "data": DATA | (data or {}),
        "seed": 0,
        "params": {"layers": (4, 8), "C": np.float64(0.5)},
        "fit_seconds": 1.5,
        "predict_seconds": 0.25,
        "peak_memory_bytes": 10**9,
        "trainable_parameters": 2308,
        "size_bytes": 9232,
        "created": datetime.date(2026, 11, 23),
    }
    return records.RunRecord.from_predictions(
        Y_TRUE, y_pred, level=level, **(values | fields)
    )
