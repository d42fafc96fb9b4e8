"""Few labels, no training: demonstrations in a prompt, and a vote of neighbors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting.examples import HiddenStateEmbeddings, NearestExamples
from chapterlib.tasks.task import AG_NEWS, Task, check_texts

Choice = Literal["all", "nearest"]
Doubles = npt.NDArray[np.float64]


@dataclass(eq=False, repr=False)
class FewShotScorer(ClassifierMixin, BaseEstimator):
    """Score labels after demonstrations that are taken from the training rows.

    Parameters
    ----------
    scorer : LabelScorer, optional
        Task, template, verbalizers, calibration and model. It is copied, and the copy
        is given the demonstrations. By default ``LabelScorer(task=task)``.
    choose : {"all", "nearest"}
        Every text is preceded by all training rows, in their order; or by those most
        like it, the nearest last.
    k : int
        How many are nearest, if there are as many.
    task : Task
        What is told apart, where no scorer says so.

    References
    ----------
    Brown et al., "Language models are few-shot learners", 2020, arXiv:2005.14165. Liu
    et al., "What makes good in-context examples for GPT-3?", 2022, arXiv:2101.06804.
    """

    scorer: LabelScorer | None = None
    _: KW_ONLY
    choose: Choice = "all"
    k: int = 4
    task: Task = AG_NEWS

    def fit(self, texts: Iterable[str], labels: Sequence[int]) -> FewShotScorer:
        """Keep the rows as demonstrations, or to choose demonstrations from."""
        if self.choose not in ("all", "nearest"):
            raise ValueError(f"choose is {self.choose!r}: take 'all' or 'nearest'")
        rows = _solved_rows(texts, labels, self.k)
        scorer = clone(self.scorer or LabelScorer(task=self.task))
        chosen: Any = rows
        if self.choose == "nearest":
            chosen = _nearest(rows, self.k, scorer)
        self.scorer_ = scorer.set_params(demonstrations=chosen)
        self.classes_ = scorer.classes_
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        check_is_fitted(self)
        return self.scorer_.predict(texts)

    def predict_proba(self, texts: Iterable[str]) -> Doubles:
        """Probability of each class: shape [n, classes]."""
        check_is_fitted(self)
        return self.scorer_.predict_proba(texts)


@dataclass(eq=False, repr=False)
class NeighborVote(ClassifierMixin, BaseEstimator):
    """Let the nearest training rows vote, and weigh their vote with the model's score.

    A class's share of the votes, each as heavy as its cosine, is an estimate of its
    probability; what the model says without any demonstration is another. The two are
    multiplied, the second after it was raised to a power.

    Parameters
    ----------
    scorer : LabelScorer, optional
        For the model's own scores; by default ``LabelScorer(task=task)``.
    k : int
        How many rows vote, if there are as many.
    weight : float
        The power: 0 leaves the decision to the neighbors, and the model only reads.
    smoothing : float
        Votes that every class has from the start, so that none is impossible. The
        defaults of these three were chosen on training rows of AG News.
    task : Task
        What is told apart, where no scorer says so.

    Attributes
    ----------
    neighbors_ : NearestExamples
        The training rows.
    scorer_ : LabelScorer
        A copy of `scorer`.

    Notes
    -----
    After CARP (Sun et al. 2023, arXiv:2305.08377), where several prompts with neighbors
    as demonstrations vote. Here the neighbors themselves do: a small model copies a
    demonstration's label rather than learn from it.
    """

    scorer: LabelScorer | None = None
    _: KW_ONLY
    k: int = 16
    weight: float = 0.3
    smoothing: float = 0.3
    task: Task = AG_NEWS

    def fit(self, texts: Iterable[str], labels: Sequence[int]) -> NeighborVote:
        """Embed the rows that will vote."""
        if self.weight < 0 or self.smoothing <= 0:
            raise ValueError(
                f"weight is {self.weight} and smoothing {self.smoothing}: the one must "
                "not be negative, the other must be positive"
            )
        rows = _solved_rows(texts, labels, self.k)
        self.scorer_ = clone(self.scorer or LabelScorer(task=self.task))
        self.classes_ = self.scorer_.classes_
        if strange := {row["label"] for row in rows} - set(self.classes_.tolist()):
            raise ValueError(f"no verbalizers for the labels {sorted(strange)}")
        self.neighbors_ = _nearest(rows, self.k, self.scorer_)
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        return np.asarray(self.predict_proba(texts).argmax(1))

    def predict_proba(self, texts: Iterable[str]) -> Doubles:
        """Probability of each class: shape [n, classes]."""
        check_is_fitted(self)
        if not (texts := check_texts(texts)):
            return np.zeros((0, len(self.classes_)))
        rows, cosines = self.neighbors_.neighbors(texts)
        labels = np.asarray(self.neighbors_.labels)[rows]
        heavy = np.clip(cosines, 0, None)
        votes = np.stack(
            [np.where(labels == c, heavy, 0).sum(1) for c in self.classes_], axis=1
        )
        scores = np.log(votes + self.smoothing)
        if self.weight:
            scores = scores + self.weight * self.scorer_.predict_log_proba(texts)
        return np.exp(log_softmax(scores, axis=1))


def _solved_rows(
    texts: Iterable[str], labels: Iterable[int], k: int
) -> list[dict[str, Any]]:
    texts, labels = check_texts(texts), list(labels)
    if len(texts) != len(labels) or not len(texts):
        raise ValueError(
            f"{len(texts)} texts and {len(labels)} labels: give one label a text, and "
            "at least one text"
        )
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")
    return [
        {"text": text, "label": int(label)}
        for text, label in zip(texts, labels, strict=True)
    ]


def _nearest(
    rows: list[dict[str, Any]], k: int, scorer: LabelScorer
) -> NearestExamples:
    names = ("model", "max_length", "device", "dtype", "cache", "progress")
    options = {name: getattr(scorer, name) for name in names}
    texts = [row["text"] for row in rows]
    return NearestExamples(
        texts,
        [row["label"] for row in rows],
        min(k, len(rows)),
        HiddenStateEmbeddings(texts, template=scorer.task.template, **options),
    )
