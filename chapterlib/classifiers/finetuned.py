"""Finetuning: a language model with a classification head, trained on texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from chapterlib.models.sizes import ATTENTION, Method
from chapterlib.tasks.task import AG_NEWS, Task, check_labels, check_texts
from chapterlib.training import adapters, loop, saving
from chapterlib.training.trainer import explained


@dataclass(eq=False, repr=False)
class FinetunedClassifier(ClassifierMixin, BaseEstimator):
    """A language model with a classification head, finetuned on labeled texts.

    The head reads the state of the last token, after everything else was read. It is
    the plain sequence classifier of ``transformers``, so what `save` and `merge` write
    works without this package.

    Parameters
    ----------
    method : {"lora", "qlora", "full", "head"}
        Train low-rank adapters; the same on weights in 4 bit; every weight; or nothing
        but the head, which the others train as well.
    model : str or path, optional
        As for `models.load`.
    template : str, optional
        What the model reads, with ``{text}`` where the text goes; by default the
        task's.
    max_length : int
        Tokens of a text that are read; the rest is cut off. The template is not.
    r, alpha, dropout, target_modules
        Of the adapters, as in `peft.LoraConfig`.
    first_layer : int or float
        Layers below it stay as they are; a float is a share of the layers.
    head_init : {"random", "probe"}
        "probe" starts from a cross-validated logistic regression on the states that
        the head will read.
    learning_rate, weight_decay : float
        Of AdamW.
    schedule : str
        How the rate falls: "linear", "cosine", "constant" …
    warmup : float
        Share of the steps in which the rate rises.
    batch_size, accumulate : int
        Rows of a pass, over all processes; passes of a step.
    epochs : float
    validation : float
        Share of the rows that is held out to choose the best epoch by accuracy; 0
        trains on all and keeps the last epoch.
    patience : int, optional
        Stop after so many epochs without a better one; needs `validation`.
    group_by_length : bool
        Put rows of like length into a batch: next to no padding.
    cache_prefix : bool or path
        Compute the frozen layers below `first_layer` once a row, and keep their
        states in this folder, or under the setting ``CHAPTERLIB_CACHE``.
    gradient_checkpointing : bool
        Less memory for more time.
    compile_model : bool
        By `torch.compile`, which pays in runs of many thousand rows; it leaves
        `cache_prefix` unused.
    label_names : sequence of str, optional
        Name of each class id, where it is not the task's.
    checkpoints : path, optional
        Where an unfinished run is kept; by default a folder of its own in the cache.
    checkpoint_steps : int, optional
        Save every so many steps as well as after every epoch.
    resume : bool
        Go on with the same run where it was interrupted.
    device, dtype : optional
        By default the settings', else what is fastest here.
    seed, progress, task

    Attributes
    ----------
    classes_ : ndarray [k]
        The labels seen in training, in rising order.
    network_, tokenizer_
        The trained model, as ``transformers`` and ``peft`` know it.
    history_ : list of dict
        The loss curve: "step", "epoch", and "loss" or "eval_loss", "eval_accuracy".
    trainable_parameters_, size_bytes_ : int
        Numbers that were trained, and the bytes that they take.
    cut_rows_ : int
        Training texts longer than `max_length`.
    resumed_from_ : int
        The step at which an interrupted run was taken up again; 0 for a new one.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021,
    arXiv:2106.09685. Dettmers et al., "QLoRA: Efficient Finetuning of Quantized
    LLMs", 2023, arXiv:2305.14314.

    Examples
    --------
    >>> from chapterlib import FinetunedClassifier, Task, training
    >>> task = Task("Reviews", ("negative", "positive"), item="review", kind="film")
    >>> model = FinetunedClassifier(**training.preset("cpu"), task=task)
    >>> model.fit(texts, labels).predict(["I left at half time"])  # doctest: +SKIP
    array([0])
    """

    method: Method = "lora"
    model: str | Path | None = None
    template: str | None = None
    max_length: int = 128
    r: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: Sequence[str] = ATTENTION
    first_layer: float = 0
    head_init: Literal["random", "probe"] = "random"
    learning_rate: float = 4e-4
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 0.0
    batch_size: int = 16
    accumulate: int = 1
    epochs: float = 3
    validation: float = 0.0
    patience: int | None = None
    group_by_length: bool = True
    cache_prefix: bool | str | Path = True
    gradient_checkpointing: bool = False
    compile_model: bool = False
    label_names: Sequence[str] | None = None
    checkpoints: str | Path | None = None
    checkpoint_steps: int | None = None
    resume: bool = True
    seed: int = 0
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    progress: bool = True
    task: Task = AG_NEWS

    def fit(self, texts: Iterable[str], labels: Sequence[int]) -> FinetunedClassifier:
        """Train on labeled texts, or finish the same run that was interrupted.

        `labels` are class ids, one a text, of at least two classes.

        Raises
        ------
        ValueError
            If texts, labels or a parameter are of no use; the message says which.
        TrainingError
            If the loss is no number any more, memory runs out, or the same run is
            under way in another process.
        """
        texts = check_texts(texts)
        classes, targets = check_labels(texts, labels)
        names = self.task.label_names if self.label_names is None else self.label_names
        if classes[-1] >= len(names):
            raise ValueError(
                f"a label is {classes[-1]}, but there are {len(names)} names "
                f"({', '.join(names)}): pass the task of these labels as task=, or "
                "name every class in label_names"
            )
        trained = loop.run(self._options(), texts, targets, [names[i] for i in classes])
        return self._keep(classes, trained)

    def decision_function(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """Logits, in the order of ``classes_``: shape [n, k]."""
        check_is_fitted(self)
        with explained("predicting"), loop.arithmetic(self._options()):
            return adapters.logits_of(
                self.network_, self.encoder_(texts), progress=self.progress
            )

    def predict_proba(self, texts: Iterable[str]) -> npt.NDArray[np.float64]:
        """Probability of each class, in the order of ``classes_``: shape [n, k]."""
        logits = self.decision_function(texts).astype(np.float64)
        return np.asarray(softmax(logits, axis=1), np.float64)

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Most probable class id of each text: shape [n]."""
        best = self.decision_function(texts).argmax(1)
        return np.asarray(self.classes_[best], np.int64)

    def save(self, folder: str | Path, scores: Mapping[str, Any] | None = None) -> Path:
        """Write adapters or weights, head, tokenizer, task, template, model card.

        The folder, which is made and returned, is one that ``peft`` and
        ``transformers`` read as well. `scores` are what was measured, for the model
        card: ``{"accuracy": 0.91}``.
        """
        return saving.save(Path(folder).expanduser(), *self._described(), scores)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> FinetunedClassifier:
        """Read a folder that `save` wrote, ready to predict.

        Parameters
        ----------
        folder : path
        model : str or path, optional
            The base of the adapters, where it was a local folder.
        device, dtype : optional
            As for `models.load`. Weights that were trained whole stay in float32;
            `dtype` is then what they compute in.

        Raises
        ------
        SavedModelError
            If the folder holds no whole classifier, or the base is another model.
        """
        known, trained = saving.load(
            Path(folder).expanduser(), model=model, device=device, dtype=dtype
        )
        return cls(**known["params"])._keep(np.array(known["classes"]), trained)

    def merge(
        self,
        folder: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
    ) -> FinetunedClassifier:
        """Fold the adapters into the weights: a plain model, as fast as the base.

        This classifier stays as it is. The merged one is saved in `folder`, if given.
        With float32 as `dtype` its logits agree to 1e-4; bf16 and fp16 round the sum
        of base and adapter. From 4 bit, the weights are merged as they were rounded:
        quantizing the result again would round it once more.
        """
        trained, _ = self._described()
        new = saving.merge(trained, self.method, device=self.device, dtype=dtype)
        merged = clone(self).set_params(dtype=dtype)._keep(self.classes_, new)
        if folder is not None:
            merged.save(folder)
        return merged

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = self.get_params(deep=False)
        if options["template"] is None:
            options["template"] = self.task.template
        return options

    def _keep(
        self, classes: npt.NDArray[np.int64], trained: loop.Trained
    ) -> FinetunedClassifier:
        """Take over all that was trained, as ``network_`` and so on."""
        self.classes_ = classes
        for name, value in trained._asdict().items():
            setattr(self, f"{name}_", value)
        return self

    def _described(self) -> tuple[loop.Trained, dict[str, Any]]:
        check_is_fitted(self)
        kept = (getattr(self, f"{name}_") for name in loop.Trained._fields)
        trained = loop.Trained(*kept)
        known = saving.describe(trained, self._options(), self.classes_, self.task)
        return trained, known
