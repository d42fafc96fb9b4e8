"""An audit of rows: leftovers of scraping, duplicates, leaks and lengths.

HTML remnants and source tags are what news carry; in other texts they are not found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd
from datasets import ClassLabel, Dataset, DatasetDict

from chapterlib.tasks.loading import as_splits

ARTIFACTS = {
    "HTML entity": (
        r"&?(?:#\d{1,5}|\b(?:lt|gt|amp|quot|apos|nbsp|hellip|[lr][ds]quo|[mn]dash));"
    ),
    "backslash": r"\\",
    "HTML tag": (
        r"(?i)(?:<|&lt;)/?(?:a|b|i|p|br|em|strong|font|img|span|div|table|t[rdh]|ul|li"
        r"|h\d|script)\b.{0,300}?(?:>|&gt;)"
    ),
    "link": r"(?i)https?://|\bwww\.|\bhref\b",
}
# What feeds put in parentheses between headline and lead: (AP), (SPACE.com).
SOURCE_TAG = re.compile(r"\(([A-Za-z][A-Za-z0-9.&' /-]{1,29})\)")
OPENING_WORDS = 8


@dataclass(frozen=True)
class Audit:
    """What `audit` found; each table is a DataFrame.

    Attributes
    ----------
    classes : DataFrame
        Rows of each class (index) in each split (columns).
    artifacts : DataFrame
        Share of rows, from 0 to 1, that carry each kind of leftover, by split.
    repeats : DataFrame
        Rows that repeat an earlier row of their split, from the strict to the loose
        reading, that carry a text labeled in two ways, or stand in train, by split.
    source_tags : DataFrame
        For each tag in parentheses: `rows` that carry it in all splits, its most
        frequent class (`label`), rows of that class (`in_label`) and their `share`.
    lengths : DataFrame
        For each split: mean, median, percentiles and maximum of the length in words.
    """

    classes: pd.DataFrame
    artifacts: pd.DataFrame
    repeats: pd.DataFrame
    source_tags: pd.DataFrame
    lengths: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Gather the findings in one table of text: one a row, one split a column."""
        shares = self.artifacts.map("{:.1%}".format)
        shares.index = [f"rows with {kind}" for kind in shares.index]
        lengths = self.lengths.T.map("{:.0f}".format)
        lengths.index = [f"words, {statistic}" for statistic in lengths.index]
        counts = self.classes.sum().to_frame("rows").T.map("{:,}".format)
        repeats = self.repeats.map("{:,}".format)
        table = pd.concat([counts, shares, repeats, lengths])
        table.index.name = "finding"
        return table


def audit(ds: DatasetDict | Dataset, min_count: int = 10) -> Audit:
    """Look for what may mislead a classifier or its reader.

    Parameters
    ----------
    ds : datasets.DatasetDict or datasets.Dataset
        Rows with `text` and `label`; a single Dataset counts as one split.
    min_count : int
        Source tags in fewer rows are left out: a share of few rows means little.
    """
    frames = {str(split): _frame(rows) for split, rows in as_splits(ds).items()}
    return Audit(
        classes=pd.DataFrame(
            {s: f["label"].value_counts(sort=False) for s, f in frames.items()}
        ),
        artifacts=pd.DataFrame(
            {
                s: {k: f["text"].str.contains(p).mean() for k, p in ARTIFACTS.items()}
                for s, f in frames.items()
            }
        ),
        repeats=_repeats(frames),
        source_tags=_source_tags(pd.concat(frames.values()), min_count),
        lengths=pd.DataFrame({s: _lengths(f["text"]) for s, f in frames.items()}).T,
    )


def _frame(rows: Dataset) -> pd.DataFrame:
    """Return text, label name and two foldings of the text."""
    frame = pd.DataFrame(rows.with_format(None).select_columns(["text", "label"])[:])
    feature = rows.features["label"]
    if isinstance(feature, ClassLabel):
        frame["label"] = pd.Categorical.from_codes(frame["label"], feature.names)
    else:
        frame["label"] = frame["label"].astype(str).astype("category")
    words = frame["text"].str.casefold().str.findall(r"[^\W_]+")
    frame["folded"] = words.str.join(" ")
    frame["opening"] = words.str[:OPENING_WORDS].str.join(" ")
    return frame


def _repeats(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Count repeats from the strict reading to the loose one."""
    table = {}
    train = set(frames["train"]["folded"]) if "train" in frames else set()
    for split, frame in frames.items():
        duplicated = frame.apply(pd.Series.duplicated).sum()
        labels_of_text = frame.groupby("folded")["label"].transform("nunique")
        table[split] = {
            "same text": duplicated["text"],
            "same text but for case and punctuation": duplicated["folded"],
            f"same first {OPENING_WORDS} words": duplicated["opening"],
            "same text, two labels": (labels_of_text > 1).sum(),
            "text also in train": 0
            if split == "train"
            else frame["folded"].isin(train).sum(),
        }
    return pd.DataFrame(table)


def _source_tags(frame: pd.DataFrame, min_count: int) -> pd.DataFrame:
    """Count tags by class; a row counts once for each different tag."""
    found = frame["text"].map(lambda text: sorted(set(SOURCE_TAG.findall(text))))
    tags = frame[["label"]].assign(tag=found).explode("tag").dropna()
    counts = pd.crosstab(tags["tag"], tags["label"])
    counts = counts[counts.sum(axis=1) >= min_count]
    table = pd.DataFrame(
        {
            "rows": counts.sum(axis=1),
            "label": counts.idxmax(axis=1) if len(counts) else [],
            "in_label": counts.max(axis=1),
        }
    )
    table["share"] = table["in_label"] / table["rows"]
    return table.sort_values(["rows", "share"], ascending=False)


def _lengths(texts: pd.Series) -> dict[str, float]:
    words = texts.map(lambda text: len(text.split()))
    return {
        "mean": words.mean(),
        "median": words.median(),
        "95th percentile": words.quantile(0.95),
        "99th percentile": words.quantile(0.99),
        "maximum": words.max(),
    }
