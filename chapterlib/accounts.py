"""What becomes of a list of answers: labels, accounts, columns of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from datasets import ClassLabel, Dataset, Value
from datasets.fingerprint import Hasher

from chapterlib.data import LABEL_NAMES
from chapterlib.metrics import NO_ANSWER
from chapterlib.parsers import Answer, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def label_ids(answers: Sequence[Answer]) -> npt.NDArray[np.int64]:
    """Class id of each answer, -1 where it has none: shape [n]."""
    return np.array(
        [NO_ANSWER if a.label is None else a.label for a in answers], dtype=np.int64
    )


def accounting(answers: Sequence[Answer]) -> pd.DataFrame:
    """Count the answers by verdict; the counts add up to the number of articles.

    Parameters
    ----------
    answers : sequence of Answer

    Returns
    -------
    DataFrame
        A row for each verdict there can be, with the columns `articles` and `share`.

    Examples
    --------
    >>> answer = Answer(article=1, label=None, verdict="refused", said="I cannot")
    >>> int(accounting([answer]).loc["refused", "articles"])
    1
    """
    counts = Counter(answer.verdict for answer in answers)
    table = pd.DataFrame(
        {"articles": [counts[verdict] for verdict in VERDICTS]},
        index=pd.Index(VERDICTS, name="verdict"),
    )
    table["share"] = table["articles"] / max(len(answers), 1)
    return table


def answers_to_dataset(dataset: Dataset, answers: Sequence[Answer]) -> Dataset:
    """Put the answers beside the rows that they are about.

    Parameters
    ----------
    dataset : datasets.Dataset
        The rows whose texts were asked about.
    answers : sequence of Answer
        One a row, in order.

    Returns
    -------
    datasets.Dataset
        The rows with the columns `predicted` (a `ClassLabel`, -1 for no answer),
        `verdict` and `said`, which replace columns of these names.

    Raises
    ------
    ValueError
        If the answers are not those of the rows, by number.

    Notes
    -----
    The fingerprint follows from the rows' and the answers, so that what `datasets`
    caches of one set of answers is never taken for another's.
    """
    numbers = [answer.article for answer in answers]
    if numbers != list(range(1, len(dataset) + 1)):
        raise ValueError(
            f"{len(dataset)} rows need the answers 1 to {len(dataset)} in order, and "
            f"these are {len(numbers)}: hand over what predict_answers gave for "
            "the dataset's own texts"
        )
    labels = ClassLabel(names=list(LABEL_NAMES))
    columns: dict[str, tuple[list[Any], Any]] = {
        "predicted": (label_ids(answers).tolist(), labels),
        "verdict": ([answer.verdict for answer in answers], Value("string")),
        "said": ([answer.said for answer in answers], Value("string")),
    }
    stale = [name for name in columns if name in dataset.column_names]
    result = dataset.remove_columns(stale)
    for name, (values, feature) in columns.items():
        known = Hasher.hash([result._fingerprint, name, values])
        result = result.add_column(name, values, new_fingerprint=known, feature=feature)
    return result
