"""What every method asks of its texts, labels and template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
