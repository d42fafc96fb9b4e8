"""Solved examples for a prompt: what counts as one, and how to choose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings
from langchain_core.example_selectors import BaseExampleSelector
from transformers import PreTrainedTokenizerBase

from chapterlib.models.hidden_states import embed
from chapterlib.tasks.task import Task


def as_demonstration(given: Any, task: Task) -> tuple[str, int]:
    """Read text and class id of a `Demonstration`, or of whatever has both.

    That is a mapping or an object with "text" and "label": a class id or a name.
    """
    if isinstance(given, Mapping):
        text, label = given.get("text"), given.get("label")
    else:
        text, label = getattr(given, "text", None), getattr(given, "label", None)
    if isinstance(label, str):
        label = task.parse(label)
    if not isinstance(text, str) or not isinstance(label, int | np.integer):
        raise ValueError(
            f"the demonstration {given!r} lacks a 'text', or a 'label' that is a class "
            f"id or one of {', '.join(task.said)}"
        )
    return text, int(label)


def completion_prompts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Any] | BaseExampleSelector | None = None,
    *,
    task: Task,
    template: str,
    endings: Sequence[str],
    separator: str,
    max_length: int,
    others: Sequence[str] = (),
) -> list[list[str]]:
    """Write prompts that a model goes on with: solved examples, then a text.

    Behind the demonstrations of each text stand that text and, in prompts of their own,
    the `others`: n rows of 1 + len(others). `endings` follow a solved example.
    """
    chosen = _chosen(texts, demonstrations, task)
    strange = {label for row in chosen for _, label in row} - set(range(len(endings)))
    if strange:
        raise ValueError(
            f"demonstrations have the labels {sorted(strange)}, and there are "
            f"verbalizers for 0 to {len(endings) - 1}: give each class its word"
        )
    solved = [text for row in chosen for text, _ in row]
    every = list(dict.fromkeys([*solved, *texts, *others]))
    cut = dict(zip(every, _cut(every, tokenizer, max_length), strict=True))
    # Not str.format: a text or a template may hold braces of its own.
    filled = {text: template.replace("{text}", cut[text]) for text in every}
    heads = [
        "".join(filled[text] + endings[label] + separator for text, label in row)
        for row in chosen
    ]
    return [
        [head + filled[asked] for asked in (text, *others)]
        for head, text in zip(heads, texts, strict=True)
    ]


def _chosen(
    texts: Sequence[str],
    demonstrations: Sequence[Any] | BaseExampleSelector | None,
    task: Task,
) -> list[list[tuple[str, int]]]:
    """Texts and class ids of the demonstrations of each text."""
    if not isinstance(demonstrations, BaseExampleSelector):
        same = [as_demonstration(given, task) for given in demonstrations or ()]
        return [same] * len(texts)
    # A selector asks for one text at a time: embed all in one pass ahead of it.
    owner = getattr(demonstrations, "vectorstore", demonstrations)
    embeddings = getattr(owner, "embeddings", None)
    if isinstance(embeddings, HiddenStateEmbeddings):
        embeddings.matrix(texts)
    return [
        [as_demonstration(given, task) for given in found]
        for found in (demonstrations.select_examples({"text": t}) for t in texts)
    ]


def _cut(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[str]:
    if not texts:
        return []
    spans = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
    ).offset_mapping
    return [text[: span[-1][1]] for text, span in zip(texts, spans, strict=True)]


class HiddenStateEmbeddings(Embeddings):
    """The book's hidden-state vectors in the interface of LangChain.

    Over the `reference` texts each number is brought to mean 0 and standard deviation
    1: else a few that are large in every text decide which texts count as similar. The
    `options` are those of `models.embed`; here "last" is the default of pooling.
    """

    def __init__(self, reference: Sequence[str] = (), **options: Any) -> None:
        self.options = {"pooling": "last", **options}
        # A query a time would find the disk slow, and the model slower.
        self._known: dict[str, npt.NDArray[np.float32]] = {}
        self._mean: Any = 0.0
        self._spread: Any = 1.0
        if len(reference):
            vectors, self._known = self.matrix(reference), {}
            spread = vectors.std(0)
            self._mean, self._spread = vectors.mean(0), np.where(spread, spread, 1)

    def matrix(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of many texts in one pass: shape [n, d]."""
        missing = [t for t in dict.fromkeys(texts) if t not in self._known]
        if missing:
            vectors = embed(missing, **self.options)
            scaled = (vectors - self._mean) / self._spread
            self._known.update(zip(missing, scaled, strict=True))
        return np.array([self._known[text] for text in texts])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of many texts; a later `embed_query` of one of them is free."""
        return self.matrix(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Vector of one text."""
        return self.matrix([text])[0].tolist()


class NearestExamples(BaseExampleSelector):
    """Choose the solved examples that are most like a text, by cosine.

    As LangChain's ``SemanticSimilarityExampleSelector`` over an ``InMemoryVectorStore``
    does, but from one matrix that is made once.

    Parameters
    ----------
    texts, labels, k
        The n examples to choose from, and how many to choose.
    embeddings : HiddenStateEmbeddings, optional
        By default standardized over the texts, with the template of `models.embed`.
    nearest_last : bool
        Whether the most similar one stands last, next to the text in question.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[int],
        k: int,
        embeddings: HiddenStateEmbeddings | None = None,
        *,
        nearest_last: bool = True,
    ) -> None:
        if len(texts) != len(labels):
            raise ValueError(f"{len(texts)} texts, but {len(labels)} labels")
        if not 1 <= k <= len(texts):
            raise ValueError(f"k is {k}: choose from 1 to {len(texts)} examples")
        self.texts, self.labels, self.k = list(texts), list(labels), k
        self.embeddings = embeddings or HiddenStateEmbeddings(self.texts)
        self.nearest_last = nearest_last
        self._units = _unit(self.embeddings.matrix(self.texts))

    def add_example(self, example: dict[str, Any]) -> None:
        """Add a text with its class id to choose from."""
        self.texts.append(example["text"])
        self.labels.append(int(example["label"]))
        self._units = _unit(self.embeddings.matrix(self.texts))

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """Return the k examples most like ``input_variables["text"]``."""
        rows, _ = self.neighbors([input_variables["text"]])
        order = rows[0][::-1] if self.nearest_last else rows[0]
        return [{"text": self.texts[i], "label": int(self.labels[i])} for i in order]

    def neighbors(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Places of each text's nearest examples, and their cosines: each [n, k]."""
        cosines = _unit(self.embeddings.matrix(texts)) @ self._units.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]
        return rows, np.take_along_axis(cosines, rows, axis=1)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
