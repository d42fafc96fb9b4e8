"""Classify by likelihood: the label that the model expects after the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
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
from chapterlib.models.likelihood import with_one_ending, word_scores
from chapterlib.prompting.examples import completion_prompts
from chapterlib.tasks.task import AG_NEWS, Task, check_template, check_texts

Calibration = Literal["none", "content-free", "batch"]
Doubles = npt.NDArray[np.float64]
Words = str | Sequence[str]

# Texts that say nothing, after Zhao et al. (2021).
CONTENT_FREE = ("N/A", "[MASK]", "...")


@dataclass(eq=False, repr=False)
class LabelScorer(ClassifierMixin, BaseEstimator):
    """Take the label whose verbalizer the model finds most likely after the text.

    Nothing is generated, so there is nothing to parse and no answer can be missing.

    Parameters
    ----------
    model : str or path, optional
        As for `models.load`.
    template : str, optional
        What the model reads, with ``{text}`` where the text goes; by default the
        task's. The verbalizer comes next, after a space.
    verbalizers : sequence, optional
        A word for each class, in the order of the class ids; or several words for a
        class, whose probabilities are averaged. By default the task's. Where one
        begins another ("card", "card arrival"), a line break ends all of them.
    calibration : {"none", "content-free", "batch"}
        What the probability of a class is divided by: nothing; its mean probability
        after texts without content (Zhao et al. 2021); or its mean over the texts that
        are predicted together (Zhou et al. 2024). With the last one a prediction
        changes with its company, and the classes should be about equally frequent.
    demonstrations : sequence or BaseExampleSelector, optional
        Solved examples to read first, in this order: mappings or objects with "text"
        and "label" (a class id or name). A selector of LangChain chooses them for each
        text: it is asked with ``{"text": text}``.
    separator : str
        What stands between examples.
    max_length : int
        Tokens that are read of each text; the rest is cut off.
    batch_tokens, device, dtype, cache, progress
        As for `models.embed`.
    task : Task
        What is told apart.

    References
    ----------
    Zhao et al., "Calibrate before use", ICML 2021, arXiv:2102.09690. Zhou et al.,
    "Batch calibration", ICLR 2024, arXiv:2309.17249.
    """

    model: str | Path | None = None
    template: str | None = None
    verbalizers: Sequence[Words] | None = None
    calibration: Calibration = "none"
    demonstrations: Sequence[Any] | BaseExampleSelector | None = None
    separator: str = "\n\n"
    max_length: int = 128
    batch_tokens: int = 2048
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    cache: bool = True
    progress: bool = True
    _: KW_ONLY
    task: Task = AG_NEWS

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """Class ids: the places of the verbalizers."""
        return np.arange(len(self._groups))

    @property
    def words(self) -> list[str]:
        """Verbalizers of all classes as they follow a prompt, space included."""
        return [self._space + word for words in self._groups for word in words]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, texts: Any = None, labels: Any = None) -> LabelScorer:
        """Learn nothing: it is here because every estimator has it."""
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        return np.asarray(self.classes_[self.decision_function(texts).argmax(1)])

    def predict_proba(self, texts: Iterable[str]) -> Doubles:
        """Probability of each class among the classes: shape [n, classes]."""
        return np.exp(self.predict_log_proba(texts))

    def predict_log_proba(self, texts: Iterable[str]) -> Doubles:
        """Log of `predict_proba`: shape [n, classes]."""
        return np.asarray(log_softmax(self.decision_function(texts), axis=1))

    def decision_function(self, texts: Iterable[str]) -> Doubles:
        """Log-probability of each class, calibrated: shape [n, classes], in nats.

        Only differences between classes mean something after a calibration. ValueError
        if a text is no str or empty, or a batch of one is to be calibrated on itself.
        """
        texts = check_texts(texts)
        self._check(len(texts))
        if not texts:
            return np.zeros((0, len(self.classes_)))
        nothing = CONTENT_FREE if self.calibration == "content-free" else ()
        tokenizer = self._tokenizer()
        rows = self._prompts(texts, tokenizer, nothing)
        words = with_one_ending(self.words, tokenizer, rows[0][0])
        scores = self._scores([row[0] for row in rows], words)
        if self.calibration == "none":
            return scores
        expected = scores[None]
        if nothing:
            # Where each text has demonstrations of its own, it has its own prior.
            free = self._scores([p for row in rows for p in row[1:]], words)
            expected = free.reshape(len(rows), len(nothing), -1)
        return scores - (logsumexp(expected, axis=1) - np.log(expected.shape[1]))

    def prompts(self, texts: Iterable[str]) -> list[str]:
        """Show what the model reads for each text; a verbalizer would come next."""
        return [row[0] for row in self._prompts(check_texts(texts), self._tokenizer())]

    def _prompts(
        self, texts: Sequence[str], tokenizer: Any, others: Sequence[str] = ()
    ) -> list[list[str]]:
        """Prompts of each text and of the others behind its demonstrations."""
        return completion_prompts(
            texts,
            tokenizer,
            self.demonstrations,
            task=self.task,
            template=self._template,
            endings=[self._space + words[0] for words in self._groups],
            separator=self.separator,
            max_length=self.max_length,
            others=others,
        )

    def _scores(self, prompts: Sequence[str], words: Sequence[str]) -> Doubles:
        """Log-probability of each class among the classes: shape [n, classes]."""
        found = word_scores(
            prompts,
            words,
            model=self.model,
            batch_tokens=self.batch_tokens,
            device=self.device,
            dtype=self.dtype,
            cache=self.cache,
            progress=self.progress,
        ).astype(np.float64)
        ends = np.cumsum([len(group) for group in self._groups])
        parts = np.split(found, ends[:-1], axis=1)
        means = [logsumexp(p, axis=1) - np.log(p.shape[1]) for p in parts]
        return np.asarray(log_softmax(np.stack(means, axis=1), axis=1))

    def _tokenizer(self) -> Any:
        source = loading.resolve(self.model)
        return AutoTokenizer.from_pretrained(source.location, revision=source.revision)

    @property
    def _template(self) -> str:
        return self.task.template if self.template is None else self.template

    @property
    def _groups(self) -> list[list[str]]:
        """Words of each class."""
        given = self.verbalizers
        given = task_words(self.task) if given is None else given
        return [[words] if isinstance(words, str) else list(words) for words in given]

    @property
    def _space(self) -> str:
        return "" if self._template[-1:].isspace() else " "

    def _check(self, n: int) -> None:
        check_template(self._template, self.max_length)
        if self.calibration not in ("none", "content-free", "batch"):
            raise ValueError(
                f"calibration is {self.calibration!r}: choose 'none', 'content-free' "
                "or 'batch'"
            )
        if self.calibration == "batch" and n == 1:
            raise ValueError(
                "batch calibration compares texts with each other, and this is one "
                "alone: predict many at once, or choose calibration='content-free'"
            )
        groups = self._groups
        if len(groups) < 2 or not all(group and all(group) for group in groups):
            raise ValueError(
                "verbalizers needs a word, or several, for each of at least two classes"
            )


def task_words(task: Task) -> list[Words]:
    """Verbalizers of a task as `LabelScorer` takes and records them: one is a str."""
    return [words[0] if len(words) == 1 else words for words in task.verbalizers]
