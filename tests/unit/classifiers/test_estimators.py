"""What all estimators have in common: how they take texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import DatasetDict
from langchain_core.runnables import RunnableLambda
from sklearn.base import clone

import chapterlib
from chapterlib import classifiers

NAMES = classifiers.__all__


@pytest.fixture
def made(tiny_llama: Path) -> dict[str, Any]:
    options: dict[str, Any] = {"model": tiny_llama, "progress": False}
    words: dict[str, Any] = {"verbalizers": ("team", "a", "of", "match")}
    scorer = chapterlib.LabelScorer(template="{text} is about", **words, **options)
    # Says "Sports" where a request tells of a striker, so that the text makes it.
    llm: Any = RunnableLambda(lambda x: "Sports" if "striker" in str(x) else "World")
    asked = chapterlib.PromptClassifier(llm, batch_size=1, retries=0, progress=False)
    return {
        "FewShotPrompt": classifiers.FewShotPrompt(asked),
        "FewShotScorer": classifiers.FewShotScorer(scorer, choose="nearest", k=2),
        "FinetunedClassifier": chapterlib.FinetunedClassifier(
            epochs=1, first_layer=1, resume=False, **options
        ),
        "LabelScorer": scorer,
        "NeighborVote": chapterlib.NeighborVote(scorer, k=3),
        "ProbeClassifier": chapterlib.ProbeClassifier(**options),
        "PromptClassifier": asked,
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_is_read_once_and_as_a_list(
    name: str, made: dict[str, Any], tiny_news: DatasetDict
) -> None:
    rows, asked = tiny_news["train"][:], tiny_news["test"]["text"][:]
    listed, drawn = clone(made[name]), clone(made[name])
    listed.fit(rows["text"], rows["label"])
    drawn.fit((t for t in rows["text"]), (i for i in rows["label"]))
    for method in ("predict", "predict_proba", "predict_log_proba", "prompts"):
        if hasattr(listed, method):
            expected = getattr(listed, method)(asked)
            for given in (
                iter(asked),
                pd.Series(asked, index=range(9, 9 + len(asked))),
            ):
                found = getattr(drawn, method)(given)
                assert len(found) == len(asked)
                assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_column_of_texts_is_refused_by_name(
    name: str, made: dict[str, Any], tiny_news: DatasetDict
) -> None:
    rows = tiny_news["train"][:]
    model = made[name].fit(rows["text"], rows["label"])
    for given, kind in (
        (tiny_news["test"], "a Dataset"),
        (pd.DataFrame(rows), "a DataFrame"),
        (set(rows["text"]), "a set"),
        (rows, "a dict"),
        (rows["text"][0], "one text"),
        (["a", " "], "text 1 is ' '"),
    ):
        with pytest.raises(ValueError, match=kind):
            model.predict(given)
        if name not in ("LabelScorer", "PromptClassifier"):  # which learn nothing
            with pytest.raises(ValueError, match=kind):
                made[name].fit(given, rows["label"])
