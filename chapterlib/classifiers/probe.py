"""Hidden states of a frozen language model as features, and a probe upon them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from chapterlib.models.hidden_states import STRENGTHS, Pooling, embed, fit_probe
from chapterlib.tasks.task import AG_NEWS, Task, check_labels, check_texts


@dataclass(eq=False, repr=False)
class ProbeClassifier(ClassifierMixin, BaseEstimator):
    """Logistic regression on standardized hidden states of a frozen model.

    The strength of the regularization is chosen by cross-validation on the training
    rows; of equally good ones, and where a class has one row, the strongest.

    Parameters
    ----------
    model, layer, pooling, max_length, device, dtype, cache, progress
        As for `models.embed`; the vectors of several layers are put one after the
        other. The defaults were chosen by cross-validation on AG News.
    template : str, optional
        What the model reads, with ``{text}`` where the text goes; by default the
        task's.
    Cs : sequence of float
        Inverse strengths of the L2 penalty to choose from.
    cv : int
        Number of folds, at most.
    scoring : str
        What the folds are judged by: "accuracy", or "neg_log_loss" for probabilities
        closer to the truth.
    seed : int
        Of the split into folds.
    task : Task
        What is told apart.

    Attributes
    ----------
    classes_ : ndarray [k]
        The labels seen in training, in rising order.
    C_, pipeline_ : float, Pipeline
        The strength chosen; the fitted scaler and regression.

    References
    ----------
    Alain and Bengio, "Understanding intermediate layers using linear classifier
    probes", 2016, arXiv:1610.01644.

    Examples
    --------
    >>> from chapterlib import ProbeClassifier
    >>> probe = ProbeClassifier().fit(texts, labels)  # doctest: +SKIP
    >>> probe.predict(["Shares fell on Friday"])  # doctest: +SKIP
    array([2])
    """

    model: str | Path | None = None
    layer: int | Sequence[int] = -1
    pooling: Pooling = "both"
    template: str | None = None
    max_length: int = 128
    Cs: Sequence[float] = STRENGTHS
    cv: int = 5
    scoring: str = "accuracy"
    seed: int = 0
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    cache: bool = True
    progress: bool = True
    _: KW_ONLY
    task: Task = AG_NEWS

    def fit(self, texts: Iterable[str], labels: Sequence[int]) -> ProbeClassifier:
        """Embed the texts and fit the regression on ids of two classes or more."""
        texts = check_texts(texts)
        self.classes_, targets = check_labels(texts, labels)
        self.pipeline_, self.C_ = fit_probe(
            self._embed(texts),
            self.classes_[targets],
            strengths=self.Cs,
            folds=self.cv,
            scoring=self.scoring,
            seed=self.seed,
        )
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        check_is_fitted(self)
        return np.asarray(self.pipeline_.predict(self._embed(texts)), np.int64)

    def predict_proba(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        """Probability of each class, in the order of ``classes_``: shape [n, k]."""
        check_is_fitted(self)
        return np.asarray(self.pipeline_.predict_proba(self._embed(texts)), np.float64)

    def _embed(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        options: dict[str, Any] = self.get_params()
        for name in ("Cs", "cv", "scoring", "seed", "task"):
            options.pop(name)
        if self.template is None:
            options["template"] = self.task.template
        vectors = embed(texts, **options)
        # In float64 the solver needs fewer steps.
        return vectors.reshape(len(vectors), -1).astype(np.float64)
