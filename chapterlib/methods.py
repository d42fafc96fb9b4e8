"""The ladder: every method that the book measures, as an estimator to be fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from chapterlib.features import ProbeClassifier


def tfidf_classifier(seed: int = 0, folds: int = 5) -> GridSearchCV:
    """Words and word pairs, weighted by TF-IDF, into a logistic regression.

    Parameters
    ----------
    seed : int
        Unused by the solver; part of the record.
    folds : int
        Of the cross-validation that chooses the strength of the regularization.

    Returns
    -------
    GridSearchCV
        An unfitted estimator over lists of texts.
    """
    weigh = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True)
    pipeline = Pipeline(
        [
            ("weigh", weigh),
            ("regress", LogisticRegression(solver="newton-cg", random_state=seed)),
        ]
    )
    grid = {"regress__C": [1, 3, 10, 30, 100]}
    return GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds)


@dataclass(frozen=True)
class Method:
    """A method of the book, ready to be measured at any budget of labels.

    Attributes
    ----------
    slug, title : str
        For file names, and for readers.
    make : callable
        From a seed to an unfitted estimator over lists of texts.
    uses_model : bool
        Whether it runs the language model of the settings.
    learns : bool
        Whether more labels can change it.
    """

    slug: str
    title: str
    make: Callable[[int], Any]
    uses_model: bool = False
    learns: bool = True


METHODS = (
    Method(
        "majority",
        "Majority class",
        lambda seed: DummyClassifier(strategy="most_frequent"),
        learns=False,
    ),
    Method("tfidf", "TF-IDF + logistic regression", tfidf_classifier),
    Method(
        "probe",
        "Probe on hidden states",
        lambda seed: ProbeClassifier(seed=seed),
        uses_model=True,
    ),
)
