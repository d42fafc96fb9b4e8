from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from chapterlib.tasks.audits import audit
from chapterlib.tasks.sampling import describe
from chapterlib.tasks.task import AG_NEWS


def news(texts, labels):
    return Dataset.from_dict({"text": texts, "label": labels}).cast_column(
        "label", ClassLabel(names=list(AG_NEWS.label_names))
    )


def test_audit_counts_what_is_there():
    train = news(
        [
            "It #39;s up (AP)",
            "It #39;s up (AP)",
            "it #39;s up -- AP",
            "a\\b &lt;b&gt;c&lt;/b&gt; (AP) (AP)",
            "see www.example.org",
            "one two three four five six seven eight nine",
            "One two three four five six seven eight ten",
            "plain; text (Q)",
        ],
        [0, 0, 1, 2, 3, 1, 1, 2],
    )
    test = news(["IT #39;S UP, (AP)", "new"], [0, 1])
    found = audit(DatasetDict({"train": train, "test": test}), min_count=2)
    assert found.artifacts["train"].to_dict() == {
        "HTML entity": 4 / 8,
        "backslash": 1 / 8,
        "HTML tag": 1 / 8,
        "link": 1 / 8,
    }
    assert found.repeats["train"].tolist() == [1, 2, 3, 3, 0]
    assert found.repeats["test"].tolist() == [0, 0, 0, 0, 1]
    assert found.source_tags.index.tolist() == ["AP"]
    assert list(found.source_tags.loc["AP"]) == [4, "World", 3, 0.75]
    assert found.lengths.loc["test", "maximum"] == 4
    assert found.classes["train"].to_dict() == dict(
        zip(AG_NEWS.label_names, [2, 3, 2, 1], strict=True)
    )
    assert found.summary().loc["rows with HTML entity", "train"] == "50.0%"


def test_audit_of_one_split_without_names_or_tags():
    found = audit(Dataset.from_dict({"text": ["a", "b"], "label": [5, 7]}))
    assert found.source_tags.empty
    assert found.classes["rows"].to_dict() == {"5": 1, "7": 1}
    assert found.summary().shape[1] == 1


@pytest.mark.filterwarnings("error")
def test_real_rows(ag_news_folder):
    ds = AG_NEWS.load(ag_news_folder)
    assert describe(ds).rows == {"train": 14_112, "test": 3_800}
    assert ds["train"][0]["text"].startswith("Wall St. Bears Claw Back")
    assert ds["train"][0]["label"] == 2
    found = audit(ds)
    # The full test file: 28.8% and 10.6%, 99th percentile 69 words; ours is half of it.
    assert found.artifacts.loc["HTML entity", "test"] == pytest.approx(0.288, abs=0.04)
    assert found.artifacts.loc["backslash", "test"] == pytest.approx(0.106, abs=0.01)
    assert found.lengths.loc["test", "99th percentile"] == pytest.approx(69, abs=2)
    assert found.source_tags.loc["SPACE.com", "label"] == "Sci/Tech"
    assert found.source_tags.loc["SPACE.com", "share"] == 1
    assert found.repeats.loc["text also in train", "test"] == 0


@pytest.fixture(scope="module")
def sample():
    with pytest.warns(UserWarning, match="asked for by name"):
        return AG_NEWS.load("sample")


def test_sample_is_large_enough_balanced_and_mixed(sample):
    found = audit(sample)
    assert found.classes["train"].min() >= 120
    assert found.classes["test"].min() >= 60
    assert found.classes.nunique().tolist() == [1, 1]
    assert set(sample["train"]["label"][:20]) == {0, 1, 2, 3}


def test_sample_has_no_repeats_and_no_test_text_in_train(sample):
    assert audit(sample).repeats.to_numpy().sum() == 0
