"""What a record keeps of a fitted estimator: parameters, weights, accounts, time."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from sklearn.pipeline import Pipeline

from chapterlib import llms


def plain_params(params: dict[str, Any]) -> dict[str, Any]:
    """Keep the parameters that JSON can hold; the rest are steps listed by name.

    Parameters
    ----------
    params : dict
        Of an estimator's `get_params`.
    """
    simple = (bool, int, float, str, list, tuple, dict, type(None))
    kept = {
        name: value
        for name, value in sorted(params.items())
        if isinstance(value, simple)
        and value == value  # scikit-learn's error_score is NaN
        and name != "estimator__steps"
        and name.split("__")[-1] != "progress"
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept))  # lists for tuples, all deep
    return plain


@contextmanager
def without_earlier_work(estimator: Any) -> Iterator[None]:
    """Let a run find nothing that an earlier one kept, so that it is timed whole.

    Parameters
    ----------
    estimator
        With `cache_prefix` where it keeps states of frozen layers, or with ``"local"``
        as its `llm`, whose replies are kept; any other is left alone, a hosted model
        too: its replies were paid for.
    """
    params = estimator.get_params(deep=False)
    with TemporaryDirectory(prefix="chapterlib-run-") as folder:
        fresh: dict[str, Any] = {}
        if params.get("cache_prefix"):
            fresh = {"cache_prefix": folder}
        elif params.get("llm") == "local":
            model = llms.chat_model("local", cache=False)
            fresh = {"llm": model, "price_prompt": 0.0, "price_completion": 0.0}
        estimator.set_params(**fresh)
        try:
            yield
        finally:
            estimator.set_params(**{name: params[name] for name in fresh})


def accounting(estimator: Any) -> dict[str, Any]:
    """Tell what became of each article, and what it took, after a prediction."""
    return {
        "articles": dict(Counter(answer.verdict for answer in estimator.answers_)),
        "usage": dataclasses.asdict(estimator.usage_),
    }


def weights(estimator: Any) -> tuple[int, int]:
    """Count the numbers that training set, and the bytes of what has to be kept."""
    if hasattr(estimator, "trainable_parameters_"):
        return estimator.trainable_parameters_, estimator.size_bytes_
    fitted = getattr(estimator, "best_estimator_", estimator)
    fitted = getattr(fitted, "pipeline_", fitted)
    final = fitted[-1] if isinstance(fitted, Pipeline) else fitted
    parts = (getattr(final, name, None) for name in ("coef_", "intercept_"))
    count = sum(int(part.size) for part in parts if part is not None)
    return count, len(pickle.dumps(fitted))


def whole_time(seconds: float, estimator: Any) -> float:
    """Reckon the time of a training that was taken up again from the part run here.

    Parameters
    ----------
    seconds : float
        That this part took.
    estimator
        With `resumed_from_` and `history_` where it trains in steps.
    """
    before = getattr(estimator, "resumed_from_", 0)
    if not before:
        return seconds
    steps = estimator.history_[-1]["step"]
    return seconds * steps / max(steps - before, 1)
