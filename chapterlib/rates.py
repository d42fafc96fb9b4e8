"""How fast this machine is now, measured without the caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import DatasetDict

from chapterlib import features, models, records
from chapterlib.likelihood import log_likelihoods, word_tokens
from chapterlib.wordscores import TAIL

EMBEDDED_ROWS = 256
SCORED_ROWS = 64


def embedding_rate(ds: DatasetDict) -> float:
    """Rows a second of `features.embed` on this machine now, without the cache."""
    texts = list(ds["train"]["text"])[:EMBEDDED_ROWS]
    with records.measure() as cost:
        features.embed(texts, cache=False, progress=False)
    return len(texts) / cost.seconds


def scoring_rate(estimator: Any, texts: Sequence[str]) -> float:
    """Rows a second of a fitted estimator's `LabelScorer`, once its model is loaded.

    Parameters
    ----------
    estimator : LabelScorer, or an estimator that holds one as `scorer_`
    texts : sequence of str
        The first of them are timed.
    """
    scorer = getattr(estimator, "scorer_", estimator)
    prompts = scorer.prompts(list(texts)[:SCORED_ROWS])
    tokenizer, network = models.load(
        "generate", scorer.model, device=scorer.device, dtype=scorer.dtype
    )
    words = [word_tokens(tokenizer, prompts[0][-TAIL:], w) for w in scorer.words]
    with records.measure() as cost:
        for _ in log_likelihoods(
            prompts, words, tokenizer, network, batch_tokens=scorer.batch_tokens
        ):
            pass
    return len(prompts) / cost.seconds
