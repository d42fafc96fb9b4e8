"""Rows on which all methods give the same wrong answer, and whose fault it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike

from chapterlib.evaluation import NO_ANSWER, class_ids, same_length

__all__ = ["VERDICTS", "shared_errors", "verdicts"]

# What a reader can find in such a row; see data_files/verdicts.yaml.
VERDICTS = ("label", "unclear", "methods")


def shared_errors(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Find the rows that all methods get wrong, and all with the same answer.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class ids that the rows are labeled with.
    predictions : mapping of str to array-like of int, shape (n,)
        Predictions of at least two methods by name; -1 (no answer) is no answer that
        they share.

    Returns
    -------
    DataFrame
        `row` (its number, from 0), `true` (its label) and `predicted` (the answer).

    Raises
    ------
    ValueError
        If there are fewer than two methods, the lengths differ or a value is no
        class id.

    References
    ----------
    C. E. Brodley, M. A. Friedl (1999), "Identifying mislabeled training data", JAIR
    11, 131–167: the consensus filter, applied here to test rows.

    Examples
    --------
    >>> shared_errors([0, 1, 2], {"x": [1, 1, 0], "y": [1, 0, 1]})["row"].tolist()
    [0]
    """
    if len(predictions) < 2:
        raise ValueError(
            f"predictions holds {len(predictions)} of the two methods that can share "
            "an error: hand over at least two, by name."
        )
    true = class_ids(y_true, "y_true")
    answers = []
    for name, given in predictions.items():
        ids = class_ids(given, name, allow_no_answer=True)
        same_length(**{"y_true": true, name: ids})
        answers.append(ids)
    first = answers[0]
    wrong = (first != true) & (first != NO_ANSWER)
    rows = np.flatnonzero(wrong & np.all([ids == first for ids in answers], axis=0))
    return pd.DataFrame({"row": rows, "true": true[rows], "predicted": first[rows]})


def verdicts(test_fingerprint: str) -> pd.Series:
    """Tell what a reader found in some of the rows, one of `VERDICTS` each.

    Parameters
    ----------
    test_fingerprint : str
        `data.fingerprint` of the test rows whose numbers are meant.

    Returns
    -------
    Series of str
        By row number, in the order of a random draw, so that the first few of them
        are a random draw, too. Empty for test rows that nobody judged.
    """
    path = Path(__file__).parent / "data_files" / "verdicts.yaml"
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = read["rows"] if read["test_fingerprint"] == test_fingerprint else {}
    return pd.Series(rows, dtype=object, name="verdict")
