"""Classify by likelihood: the label that the model expects after the article."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from langchain_core.example_selectors import BaseExampleSelector
from scipy.special import log_softmax, logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from transformers import AutoTokenizer

from chapterlib.models import loading
from chapterlib.models.hidden_states import TEMPLATE
from chapterlib.models.likelihood import word_scores
from chapterlib.prompting.examples import completion_prompts, read_ahead
from chapterlib.tasks.task import check_template, check_texts

Calibration = Literal["none", "content-free", "batch"]
Doubles = npt.NDArray[np.float64]

# One word a class, in the order of the labels: common words, one token each.
VERBALIZERS = ("politics", "sports", "business", "technology")
# Texts that say nothing, after Zhao et al. (2021).
CONTENT_FREE = ("N/A", "[MASK]", "...")


class LabelScorer(ClassifierMixin, BaseEstimator):
    """Take the label whose verbalizer the model finds most likely after the article.

    Nothing is generated, so there is nothing to parse and no answer can be missing.

    Parameters
    ----------
    model : str or path, optional
        As for `models.load`.
    template : str
        What the model reads, with ``{text}`` where the article goes. The verbalizer
        comes next, after a space.
    verbalizers : sequence
        A word for each class, in the order of the class ids; or several words for a
        class, whose probabilities are averaged.
    calibration : {"none", "content-free", "batch"}
        What the probability of a class is divided by: nothing; its mean probability
        after texts without content (Zhao et al. 2021); or its mean probability over
        the texts that are predicted together (Zhou et al. 2024). The last one looks
        at the other texts, though at none of their labels, so a prediction changes
        with its company; it takes the classes to be about equally frequent, and one
        text alone can't be predicted.
    demonstrations : sequence or BaseExampleSelector, optional
        Solved examples to read first, in this order: mappings with "text" and "label"
        (a class id or name), or objects with these attributes. A selector of
        LangChain chooses them for each text: it is asked with ``{"text": text}``.
    separator : str
        What stands between examples.
    max_length : int
        Tokens that are read of each article; the rest is cut off.
    batch_tokens : int
        Tokens in a batch, padding included.
    device, dtype : optional
        By default those of `devices.pick_device` and `devices.pick_dtype`.
    cache : bool
        Keep scores on disk, under the setting ``CHAPTERLIB_CACHE``, keyed by model,
        prompt and word.
    progress : bool
        Show a progress bar while the model runs.

    References
    ----------
    Zhao et al., "Calibrate before use", ICML 2021, arXiv:2102.09690. Zhou et al.,
    "Batch calibration", ICLR 2024, arXiv:2309.17249.

    Examples
    --------
    >>> from chapterlib import LabelScorer
    >>> LabelScorer().predict(["Shares fell on Friday"])  # doctest: +SKIP
    array([2])
    """

    def __init__(
        self,
        model: str | Path | None = None,
        template: str = TEMPLATE,
        verbalizers: Sequence[str | Sequence[str]] = VERBALIZERS,
        calibration: Calibration = "none",
        demonstrations: Sequence[Any] | BaseExampleSelector | None = None,
        separator: str = "\n\n",
        max_length: int = 128,
        batch_tokens: int = 2048,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        cache: bool = True,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.template = template
        self.verbalizers = verbalizers
        self.calibration = calibration
        self.demonstrations = demonstrations
        self.separator = separator
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self.device = device
        self.dtype = dtype
        self.cache = cache
        self.progress = progress

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """Class ids: the places of the verbalizers."""
        return np.arange(len(self.verbalizers))

    @property
    def words(self) -> list[str]:
        """Verbalizers of all classes as they follow a prompt, space included."""
        return [self._space + word for words in self._groups() for word in words]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, texts: Any = None, labels: Any = None) -> LabelScorer:
        """Learn nothing: it is here because every estimator has it."""
        return self

    def predict(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        return np.asarray(self.classes_[self.decision_function(texts).argmax(1)])

    def predict_proba(self, texts: Sequence[str]) -> Doubles:
        """Probability of each class among the classes: shape [n, classes]."""
        return np.exp(self.predict_log_proba(texts))

    def predict_log_proba(self, texts: Sequence[str]) -> Doubles:
        """Log of `predict_proba`: shape [n, classes]."""
        return np.asarray(log_softmax(self.decision_function(texts), axis=1))

    def decision_function(self, texts: Sequence[str]) -> Doubles:
        """Log-probability of each class, calibrated: shape [n, classes], in nats.

        Only differences between classes mean something after a calibration.

        Raises
        ------
        ValueError
            If a text is no str or empty, an option is out of range, or a batch of one
            text is to be calibrated on itself.
        ModelError
            If the model can't be found.
        """
        self._check(texts)
        scores = log_softmax(self._scores(self.prompts(texts)), axis=1)
        if self.calibration == "none" or not len(texts):
            return np.asarray(scores)
        if self.calibration == "batch":
            expected = scores[None]
        else:
            expected = log_softmax(self._content_free(texts), axis=2)
        return scores - (logsumexp(expected, axis=1) - np.log(expected.shape[1]))

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Show what the model reads for each text; a verbalizer would come next."""
        if isinstance(self.demonstrations, BaseExampleSelector):
            read_ahead(self.demonstrations, texts)
        return self._prompts(list(texts), [self._chosen(text) for text in texts])

    def _prompts(
        self, texts: Sequence[str], chosen: Sequence[Sequence[Any]]
    ) -> list[str]:
        return completion_prompts(
            texts,
            chosen,
            AutoTokenizer.from_pretrained(loading.resolve(self.model).location),
            template=self.template,
            endings=[self._space + words[0] for words in self._groups()],
            separator=self.separator,
            max_length=self.max_length,
        )

    def _groups(self) -> list[list[str]]:
        return [[w] if isinstance(w, str) else list(w) for w in self.verbalizers]

    @property
    def _space(self) -> str:
        return "" if self.template[-1:].isspace() else " "

    def _chosen(self, text: str) -> list[Any]:
        given = self.demonstrations
        if given is None:
            return []
        if isinstance(given, BaseExampleSelector):
            return list(given.select_examples({"text": text}))
        return list(given)

    def _content_free(self, texts: Sequence[str]) -> Doubles:
        """Scores after nothing: shape [1, m, classes], or [n, m, classes]."""
        one = not isinstance(self.demonstrations, BaseExampleSelector)
        # Where each text has demonstrations of its own, it has its own prior.
        heads = [self._chosen(text) for text in (texts[:1] if one else texts)]
        m = len(CONTENT_FREE)
        chosen = [head for head in heads for _ in CONTENT_FREE]
        found = self._scores(self._prompts(CONTENT_FREE * len(heads), chosen))
        return found.reshape(len(heads), m, -1)

    def _scores(self, prompts: Sequence[str]) -> Doubles:
        """Log of the mean probability of each class's words: shape [n, classes]."""
        groups = self._groups()
        found = word_scores(
            prompts,
            self.words,
            model=self.model,
            batch_tokens=self.batch_tokens,
            device=self.device,
            dtype=self.dtype,
            cache=self.cache,
            progress=self.progress,
        ).astype(np.float64)
        ends = np.cumsum([len(words) for words in groups])
        parts = np.split(found, ends[:-1], axis=1)
        means = [logsumexp(p, axis=1) - np.log(p.shape[1]) for p in parts]
        return np.stack(means, axis=1)

    def _check(self, texts: Sequence[str]) -> None:
        check_texts(texts)
        check_template(self.template, self.max_length)
        if self.calibration not in ("none", "content-free", "batch"):
            raise ValueError(
                f"calibration is {self.calibration!r}: choose 'none', 'content-free' "
                "or 'batch'"
            )
        if self.calibration == "batch" and len(texts) == 1:
            raise ValueError(
                "batch calibration compares texts with each other, and this is one "
                "alone: predict many at once, or choose calibration='content-free'"
            )
        if len(self.verbalizers) < 2 or not all(self.verbalizers):
            raise ValueError(
                "verbalizers needs a word, or several, for each of at least two classes"
            )
