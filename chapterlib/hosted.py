"""Methods that ask a hosted chat model: part of the ladder where a reader has a key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from chapterlib import llms
from chapterlib.budget import Usage
from chapterlib.inputs import check_labels, check_texts
from chapterlib.methods import Method
from chapterlib.parsers import Answer
from chapterlib.prompting import PromptClassifier
from chapterlib.prompts import Demonstration, few_shot

# Demonstrations a class, as in the chapter that this book grows from.
DEMONSTRATIONS = 10


class FewShotPrompt(ClassifierMixin, BaseEstimator):
    """A prompted chat model that is shown every row it was fitted on.

    Parameters
    ----------
    classifier : PromptClassifier, optional
        Its prompt is replaced; by default that of the settings' chat model.
    seed : int
        Of the order in which the rows are shown.

    Attributes
    ----------
    classes_ : ndarray [k]
        The class ids that were seen.
    classifier_ : PromptClassifier
        With the demonstrations in its prompt.

    References
    ----------
    Brown et al., "Language models are few-shot learners", 2020, arXiv:2005.14165.

    Examples
    --------
    >>> from chapterlib.hosted import FewShotPrompt
    >>> shown = FewShotPrompt().fit(texts, labels)
    >>> shown.predict(["Shares fell on Friday"])  # doctest: +SKIP
    array([2])
    """

    def __init__(
        self, classifier: PromptClassifier | None = None, seed: int = 0
    ) -> None:
        self.classifier = classifier
        self.seed = seed

    def fit(self, texts: Sequence[str], labels: Sequence[int]) -> FewShotPrompt:
        """Write the prompt; nothing is learned, and nothing is asked yet.

        Parameters
        ----------
        texts : sequence of str, length n
        labels : sequence of int, length n
            Class ids of AG News.

        Returns
        -------
        FewShotPrompt
            Itself.

        Raises
        ------
        ValueError
            If a text is empty, or a label is none.
        """
        check_texts(texts)
        self.classes_, _ = check_labels(texts, labels)
        order = np.random.default_rng(self.seed).permutation(len(texts)).tolist()
        shown = [Demonstration(texts[i], int(labels[i])) for i in order]
        base = self.classifier or PromptClassifier()
        self.classifier_ = clone(base).set_params(prompt=few_shot(shown))
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Class id of each text, -1 where there is no answer: shape [n].

        Raises and warns as `PromptClassifier.predict_answers`.
        """
        check_is_fitted(self)
        return self.classifier_.predict(texts)

    @property
    def answers_(self) -> list[Answer]:
        """Of the last prediction, one a text."""
        return self.classifier_.answers_

    @property
    def usage_(self) -> Usage:
        """Requests and tokens of the last prediction."""
        return self.classifier_.usage_


def hosted_methods() -> tuple[Method, ...]:
    """Methods that ask the hosted model which the settings point to.

    Returns
    -------
    tuple of Method
        Zero-shot and few-shot prompting, under slugs that name the model, so that
        records of several models stand side by side. Empty where no key and no address
        is set: then nothing leaves this machine.

    Raises
    ------
    LLMError
        If what is set is of no use; the message names the setting.

    Notes
    -----
    All rows go to the host, and each token is paid for: the setting ``budget_usd`` or
    ``budget_tokens`` bounds every run. What one run has paid for is kept, and the next
    one goes on from there.
    """
    provider = llms.choose_provider()
    if provider == "local":
        return ()
    client: Any = llms.chat_model(provider)
    model: str = client.model_name
    short = model.rpartition("/")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-")
    return (
        Method(
            f"hosted-zero-shot-{slug}",
            f"Zero-shot prompt, {short}",
            lambda seed: PromptClassifier(provider),
            served_as=model,
            asks=True,
            budgets=(0,),
        ),
        Method(
            f"hosted-few-shot-{slug}",
            f"Few-shot prompt, {short}",
            lambda seed: FewShotPrompt(PromptClassifier(provider), seed=seed),
            served_as=model,
            asks=True,
            budgets=(DEMONSTRATIONS,),
        ),
    )
