"""`PromptClassifier`: a prompted chat model as an estimator that loses no text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import numpy.typing as npt
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted

from chapterlib.prompting import chat_models, prompts
from chapterlib.prompting.budget import BudgetExceeded, Meter, Usage, longest_reply
from chapterlib.prompting.parsers import Answer, label_ids
from chapterlib.prompting.prompts import Demonstration, few_shot
from chapterlib.prompting.requests import ask
from chapterlib.settings import get_settings
from chapterlib.tasks.task import AG_NEWS, Task, check_labels, check_texts


@dataclass(eq=False, repr=False)
class PromptClassifier(ClassifierMixin, BaseEstimator):
    """Classify texts by asking a chat model about several of them a request.

    Batches go through ``prompt | llm``, several at once. Each text whose label can't
    be read from the reply is asked about again, alone; then its verdict stands. Every
    text gets exactly one `Answer`, and no label is made up.

    Parameters
    ----------
    llm : Runnable or str, optional
        A LangChain chat model, also with arguments bound to it, or the provider that
        `chat_model` shall take; by default the one that the settings choose.
    prompt : ChatPromptTemplate, optional
        With the one variable `articles`; by default `zero_shot` of the task.
    task : Task
        Knows the labels.
    batch_size, max_concurrency : int
        Texts a request; requests at once.
    retries : int
        How often a text without a label is asked about again, alone. After a reply
        about it alone that could not be read the prompt says so, for the same words
        would bring the same reply.
    constrained : bool
        Whether the server shall hold the reply to the JSON schema of the answers,
        which llama.cpp, vLLM, OpenAI and Together can.
    max_tokens : int, optional
        The longest reply, by default what the model was made with. A label takes some
        20 tokens; a model that rambles is stopped here.
    budget_tokens, budget_usd : optional
        What one call of `predict` may use at most; cached replies cost nothing. By
        default the settings of these names.
    price_prompt, price_completion : float, optional
        US dollars for a million tokens, needed for `budget_usd`; by default the
        settings of these names.
    progress : bool
        Whether to show a bar where there is a terminal or notebook.

    Attributes
    ----------
    answers_, usage_ : list of Answer, Usage
        Of the last prediction, finished or stopped by the budget.

    Notes
    -----
    Nothing is learned: `fit` checks its arguments alone. Replies are kept by the
    model's own cache, request by request as they arrive: a run that was killed or
    stopped by its budget goes on where it was when it is started again with the same
    texts, prompt, model and batch size. Texts that occur twice are asked about once.
    """

    llm: Runnable | chat_models.Provider | None = None
    prompt: ChatPromptTemplate | None = None
    _: KW_ONLY
    task: Task = AG_NEWS
    batch_size: int = 10
    max_concurrency: int = 8
    retries: int = 1
    constrained: bool = False
    max_tokens: int | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    price_prompt: float | None = None
    price_completion: float | None = None
    progress: bool = True

    def fit(
        self, texts: Sequence[str] | None = None, labels: Sequence[int] | None = None
    ) -> PromptClassifier:
        """Do nothing: the model was trained by others, the prompt is written by you."""
        return self

    def predict_answers(self, texts: Iterable[str]) -> list[Answer]:
        """Ask about each text, which may come as a column of a `Dataset`.

        One answer a text, in order; `article` is the row, counted from 1.

        Raises
        ------
        ValueError
            If there are no texts, or one is empty or no str; the message names it.
        BudgetExceeded
            Before the request that might pass the budget. Its `answers` hold what was
            done, and the cache keeps it.
        LLMError
            If no request can succeed: a wrong key, an unknown model.

        Warns
        -----
        RuntimeWarning
            If texts have no answer because their requests failed.
        """
        rows = check_texts(texts, halves=True)
        if not rows:
            raise ValueError("there are no texts: give one or more")
        for name in ("batch_size", "max_concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}: give 0 or more")
        distinct = {text: i for i, text in enumerate(dict.fromkeys(rows))}
        llm = self.llm
        free = False
        if llm is None or isinstance(llm, str):
            free = (llm or chat_models.choose_provider()) == "local"
            llm = chat_models.chat_model(llm)
        if self.max_tokens is not None:
            llm = llm.bind(max_tokens=self.max_tokens)
        meter = self._meter(llm, free)

        def of_rows(answers: list[Answer]) -> list[Answer]:
            found = (answers[distinct[text]] for text in rows)
            return [
                answer.model_copy(update={"article": row})
                for row, answer in enumerate(found, start=1)
            ]

        try:
            answers = ask(
                llm,
                self.prompt or prompts.zero_shot(self.task),
                list(distinct),
                task=self.task,
                meter=meter,
                batch_size=self.batch_size,
                max_concurrency=self.max_concurrency,
                retries=self.retries,
                constrained=self.constrained,
                progress=self.progress,
            )
            self.answers_ = of_rows(answers)
        except BudgetExceeded as stop:
            stop.answers = self.answers_ = of_rows(stop.answers)
            raise
        finally:
            self.usage_ = meter.usage
        return self.answers_

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Class id of each text, -1 without an answer: [n]; as `predict_answers`."""
        return label_ids(self.predict_answers(texts))

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """The class ids."""
        return np.arange(len(self.task.labels))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> PromptClassifier:
        # scikit-learn would copy the model deeply: its connections can't be copied.
        return type(self)(**self.get_params(deep=False))

    def _meter(self, llm: Runnable, free: bool) -> Meter:
        settings = get_settings()
        tokens, usd = self.budget_tokens, self.budget_usd
        prompt, completion = self.price_prompt, self.price_completion
        if prompt is None and completion is None:
            prompt, completion = settings.price_prompt, settings.price_completion
        prices = (0.0, 0.0) if free else None
        if prompt is not None and completion is not None:
            prices = prompt, completion
        return Meter(
            tokens=settings.budget_tokens if tokens is None else tokens,
            usd=settings.budget_usd if usd is None else usd,
            prices=prices,
            max_tokens=longest_reply(llm),
        )


@dataclass(eq=False, repr=False)
class FewShotPrompt(ClassifierMixin, BaseEstimator):
    """A prompted chat model that is shown every row it was fitted on, in random order.

    `classifier_` is a copy of the classifier, by default that of the settings' chat
    model, with the rows in its prompt (Brown et al. 2020, arXiv:2005.14165).
    """

    classifier: PromptClassifier | None = None
    seed: int = 0

    def fit(self, texts: Iterable[str], labels: Sequence[int]) -> FewShotPrompt:
        """Write the prompt; nothing is learned, and nothing is asked yet.

        `texts` and `labels` (class ids of the classifier's task) have length n. Raises
        ValueError if a text is empty, or a label is none.
        """
        texts = check_texts(texts)
        self.classes_, targets = check_labels(texts, labels)
        order = np.random.default_rng(self.seed).permutation(len(texts))
        ids = self.classes_[targets].tolist()
        shown = [Demonstration(texts[i], ids[i]) for i in order]
        base = self.classifier or PromptClassifier()
        self.classifier_ = clone(base).set_params(
            prompt=few_shot(shown, task=base.task)
        )
        return self

    def predict(self, texts: Iterable[str]) -> npt.NDArray[np.int64]:
        """Class id of each text, -1 where there is no answer: shape [n]."""
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
