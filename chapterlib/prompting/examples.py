"""Solved examples for a prompt: what counts as one, and how to choose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from langchain_core.embeddings import Embeddings
from langchain_core.example_selectors import BaseExampleSelector
from transformers import PreTrainedTokenizerBase

from chapterlib.models.hidden_states import embed
from chapterlib.tasks.task import LABELS, label_to_id


class Example(NamedTuple):
    """A text and its class id."""

    text: str
    label: int


def as_example(given: Any) -> Example:
    """Read a demonstration in whatever form it comes.

    Parameters
    ----------
    given : mapping or object
        With "text" and "label" as keys or attributes; the label is a class id or a
        spelling that `label_to_id` knows.

    Raises
    ------
    ValueError
        If there is no text, or no such label.
    """
    if isinstance(given, Mapping):
        text, label = given.get("text"), given.get("label")
    else:
        text, label = getattr(given, "text", None), getattr(given, "label", None)
    if isinstance(label, str):
        label = label_to_id(label)
    if not isinstance(text, str) or not isinstance(label, int | np.integer):
        raise ValueError(
            f"the demonstration {given!r} lacks a 'text', or a 'label' that is a class "
            f"id or one of {', '.join(LABELS)}"
        )
    return Example(text, int(label))


def completion_prompts(
    texts: Sequence[str],
    chosen: Sequence[Sequence[Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    endings: Sequence[str],
    separator: str,
    max_length: int,
) -> list[str]:
    """Write prompts that a model goes on with: solved examples, then the text.

    Parameters
    ----------
    texts : sequence of str, length n
    chosen : sequence of sequences, length n
        The demonstrations that each text is preceded by.
    tokenizer
        Counts the tokens of articles.
    template : str
        With ``{text}`` where an article goes.
    endings : sequence of str
        What a solved example of each class ends with.
    separator : str
        What stands after a solved example.
    max_length : int
        Tokens of an article that stay; the rest is cut off.

    Raises
    ------
    ValueError
        If a demonstration lacks its text or has a label without an ending.
    """
    rows = [[as_example(given) for given in row] for row in chosen]
    strange = {label for row in rows for _, label in row} - set(range(len(endings)))
    if strange:
        raise ValueError(
            f"demonstrations have the labels {sorted(strange)}, and there are "
            f"verbalizers for 0 to {len(endings) - 1}: give each class its word"
        )
    solved = [text for row in rows for text, _ in row]
    articles = list(dict.fromkeys([*solved, *texts]))
    cut = dict(zip(articles, _cut(articles, tokenizer, max_length), strict=True))
    # Not str.format: an article or a template may hold braces of its own.
    filled = {text: template.replace("{text}", cut[text]) for text in articles}
    heads = [
        "".join(filled[text] + endings[label] + separator for text, label in row)
        for row in rows
    ]
    return [head + filled[text] for head, text in zip(heads, texts, strict=True)]


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

    Parameters
    ----------
    reference : sequence of str, optional
        Texts over which each number of the vectors is brought to mean 0 and standard
        deviation 1. Without it a few numbers that are large in every text decide
        which texts count as similar.
    pooling, **options
        As for `features.embed`.

    Examples
    --------
    >>> from chapterlib.prompting import HiddenStateEmbeddings
    >>> vectors = HiddenStateEmbeddings()  # doctest: +SKIP
    >>> len(vectors.embed_query("Rain stops play"))  # doctest: +SKIP
    576
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

    It picks what LangChain's ``SemanticSimilarityExampleSelector`` over an
    ``InMemoryVectorStore`` would, from one matrix that is made once.

    Parameters
    ----------
    texts, labels : sequences of length n
        The examples to choose from.
    k : int
        How many to choose.
    embeddings : HiddenStateEmbeddings, optional
        By default one that is standardized over the texts.
    nearest_last : bool
        Whether the most similar one stands last, next to the text in question.

    Raises
    ------
    ValueError
        If the lengths differ or k is out of range.
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
        """Add one more example to choose from."""
        text, label = as_example(example)
        self.texts.append(text)
        self.labels.append(label)
        vector = _unit(self.embeddings.matrix([text]))
        self._units = np.concatenate([self._units, vector])

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """Return the k examples most like ``input_variables["text"]``."""
        rows, _ = self.neighbors([input_variables["text"]])
        order = rows[0][::-1] if self.nearest_last else rows[0]
        return [{"text": self.texts[i], "label": int(self.labels[i])} for i in order]

    def neighbors(
        self, texts: Sequence[str]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Find the k nearest examples of many texts.

        Returns
        -------
        rows : ndarray of int, shape [n, k]
            Places among the examples, the nearest first.
        cosines : ndarray of float32, shape [n, k]
        """
        cosines = _unit(self.embeddings.matrix(texts)) @ self._units.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, : self.k]
        return rows, np.take_along_axis(cosines, rows, axis=1)


def read_ahead(selector: BaseExampleSelector, texts: Sequence[str]) -> None:
    """Embed texts in one pass, which their selector would embed one by one.

    Parameters
    ----------
    selector : BaseExampleSelector
        `NearestExamples`, or one of LangChain's over a vector store, that works with
        `HiddenStateEmbeddings`; any other is left alone.
    texts : sequence of str
    """
    owner = getattr(selector, "vectorstore", selector)
    embeddings = getattr(owner, "embeddings", None)
    if isinstance(embeddings, HiddenStateEmbeddings):
        embeddings.matrix(texts)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
