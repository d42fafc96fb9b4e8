"""What is classified: labels and their spellings; checks of texts and labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

LABEL_NAMES = ("World", "Sports", "Business", "Sci/Tech")
# As the prompts spell them: "Sci/Tech" is the data set's jargon.
LABELS = (*LABEL_NAMES[:3], "Science/Technology")
LABEL_TO_ID: Mapping[str, int] = MappingProxyType(
    {name.lower(): i for i, name in enumerate(LABEL_NAMES[:3])}
    | {"sport": 1}
    | {f"{a} {b}": 3 for a in ("sci", "science") for b in ("tech", "technology")}
    | {"scitech": 3}
)
"""Class id of each normalized spelling of a label (see `label_to_id`)."""


def label_to_id(text: str) -> int | None:
    """Return the class id that a label stands for.

    Parameters
    ----------
    text : str
        Case, white space, punctuation around it and the way that "Sci/Tech" is joined
        do not matter.

    Returns
    -------
    int or None
        None if it is none of the four.

    Examples
    --------
    >>> [label_to_id(t) for t in ("sci/tech", "**Science & Technology**", "Weather")]
    [3, 3, None]
    """
    # No label is that long, with whatever stands around it.
    return LABEL_TO_ID.get(normalized(text)) if len(text) <= 60 else None


def normalized(text: str) -> str:
    """Return the lower-case words of a label, joined by spaces, without "and"."""
    words = re.findall(r"[^\W_]+", text.lower().replace("&", " and "))
    return " ".join(word for word in words if word != "and")


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that no model can read.

    Parameters
    ----------
    texts : sequence of str

    Raises
    ------
    ValueError
        If it is one str, or one of them is no str or empty; the message names the row.
    """
    if isinstance(texts, str):
        raise ValueError("texts is one str: hand over a list of them")
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"text {row} is {text!r}: every text must be a str that is not empty; "
                "drop or mend the row"
            )


def check_template(template: str, max_length: int) -> None:
    """Refuse a template without its one place for the text, or a length below 1.

    Raises
    ------
    ValueError
    """
    if template.count("{text}") != 1:
        raise ValueError(f"the template {template!r} must hold {{text}} exactly once")
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}: it must be at least 1")


def check_labels(
    texts: Sequence[str], labels: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Check the labels of a training set.

    Parameters
    ----------
    texts : sequence of str, length n
    labels : sequence of int, length n

    Returns
    -------
    classes : ndarray [k]
        The class ids that occur, in rising order.
    targets : ndarray [n]
        Each row's place among them.

    Raises
    ------
    ValueError
        If the lengths differ, a label is missing, or all are of one class.
    """
    truth = np.asarray(labels)
    if truth.shape != (len(texts),):
        raise ValueError(f"{len(texts)} texts, but labels of shape {truth.shape}")
    if truth.dtype.kind not in "iu" or (truth < 0).any():
        raise ValueError("labels must be class ids (integers from 0), one a text")
    classes, targets = np.unique(truth, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("all labels are of one class: training needs two or more")
    return classes.astype(np.int64), targets.astype(np.int64)
