"""The methods of the book, each ready to be measured at any budget of labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.classifiers.neighbors import FewShotScorer, NeighborVote
from chapterlib.classifiers.probe import ProbeClassifier
from chapterlib.classifiers.prompt import FewShotPrompt, PromptClassifier
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting import chat_models
from chapterlib.tasks.sampling import AG_NEWS_WORDS
from chapterlib.training.presets import preset

# Parameters that were renamed: what a record calls them, and what they are called now.
ALIASES = {"lone_tries": "retries"}

# Demonstrations a class, as in the chapter that this book grows from.
DEMONSTRATIONS = 10

# Rows a class up to which three epochs are too few steps: on held-out training rows,
# 32 labels gave LoRA 0.60 after three epochs and 0.83 after twelve.
FEW = 32

# Every weight learns, from the embeddings up. The rate was tried on held-out training
# rows; a head from a probe is all that LP-FT changes.
WHOLE = preset("cpu", method="full", first_layer=0, learning_rate=1e-4, warmup=0.1)


@dataclass(frozen=True)
class Method:
    """A method of the book, ready to be measured at any budget of labels.

    `make` turns a seed into an unfitted estimator over lists of texts. Budgets are
    train rows per class: 0 for a method that sees none, None for all there are; by
    default those of the book's learning curves.
    """

    slug: str
    title: str
    make: Callable[[int], Any]
    uses_model: bool = True  # the language model of the settings
    served_as: str | None = None  # the model that it asks of a host instead
    budgets: tuple[int | None, ...] | None = None
    also: tuple[int, ...] = ()  # budgets beside those
    seeds: int = 3  # draws at the budgets where several are measured
    test_per_class: int | None = None  # rows that are predicted; by default all
    # Up to `FEW` rows a class, read more often by those who train in steps.
    make_from_few: Callable[[int], Any] | None = None

    def estimator(self, per_class: int | None, seed: int) -> Any:
        """Make the unfitted estimator for so many rows a class; None is for all."""
        few = per_class is not None and per_class <= FEW
        make = self.make_from_few if few and self.make_from_few else self.make
        return make(seed)


def tfidf_classifier(seed: int = 0, folds: int = 5) -> GridSearchCV:
    """Words and word pairs, weighted by TF-IDF, into a logistic regression.

    An unfitted estimator over lists of texts; cross-validation in `folds` chooses the
    strength of the regularization. The solver does not use the `seed` of the record.
    """
    weigh = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True)
    regress = LogisticRegression(solver="newton-cg", random_state=seed)
    pipeline = Pipeline([("weigh", weigh), ("regress", regress)])
    grid = {"regress__C": [1, 3, 10, 30, 100]}
    return GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds)


def finetuned(**options: Any) -> Callable[[int], FinetunedClassifier]:
    """Make a maker of `FinetunedClassifier`, from a seed."""
    return lambda seed: FinetunedClassifier(seed=seed, **options)


def asked(**options: Any) -> Callable[[int], PromptClassifier]:
    """Make a maker of a `PromptClassifier` that asks the model on this machine."""
    # Four slots of the local server; a reply that rambles is cut off.
    options = {"max_concurrency": 4, "max_tokens": 272, **options}
    return lambda seed: PromptClassifier("local", **options)


METHODS = (
    Method(
        "majority",
        "Majority class",
        lambda seed: DummyClassifier(strategy="most_frequent"),
        uses_model=False,
        budgets=(None,),
    ),
    Method(
        "tfidf",
        "TF-IDF + logistic regression",
        tfidf_classifier,
        uses_model=False,
        also=(250,),
    ),
    Method(
        "probe",
        "Probe on hidden states",
        lambda seed: ProbeClassifier(seed=seed),
        also=(250,),
    ),
    Method(
        "zero-shot", "Zero-shot, label scores", lambda seed: LabelScorer(), budgets=(0,)
    ),
    Method(
        "zero-shot-words",
        "Zero-shot, two words a class",
        lambda seed: LabelScorer(verbalizers=AG_NEWS_WORDS),
        budgets=(0,),
    ),
    Method("prompt", "Zero-shot chat prompt", asked(), budgets=(0,), test_per_class=50),
    Method(
        "prompt-schema",
        "Zero-shot chat prompt, JSON schema",
        asked(constrained=True),
        budgets=(0,),
    ),
    Method(
        "few-shot-random",
        "Few-shot, random",
        lambda seed: FewShotScorer(),
        budgets=(1, 2, 4),
    ),
    Method(
        "few-shot-calibrated",
        "Few-shot, random, calibrated",
        lambda seed: FewShotScorer(LabelScorer(calibration="batch")),
        budgets=(1, 2, 4),
    ),
    Method(
        "few-shot-nearest",
        "Few-shot, nearest",
        lambda seed: FewShotScorer(choose="nearest", k=4),
        budgets=(512,),
    ),
    Method("neighbors", "Vote of neighbors", lambda seed: NeighborVote(weight=0)),
    Method(
        "few-shot-vote", "Vote of neighbors with scores", lambda seed: NeighborVote()
    ),
    Method(
        "lora",
        "LoRA",
        finetuned(**preset("cpu")),
        also=(250,),
        make_from_few=finetuned(**preset("cpu", epochs=12)),
    ),
    Method(
        "qlora",
        "QLoRA",
        finetuned(**preset("cpu", method="qlora")),
        budgets=(128, 250, 512),
    ),
    Method("full", "Full finetuning", finetuned(**WHOLE), budgets=(128, 512)),
    Method(
        "lp-ft",
        "Full finetuning from a probe",
        finetuned(**WHOLE, head_init="probe"),
        budgets=(128, 512),
    ),
)


def hosted_methods() -> tuple[Method, ...]:
    """Prompting of the hosted model that the settings point to, named in the slugs.

    Empty where neither a key nor an address is set: then nothing leaves this machine.
    LLMError if what is set is of no use.
    """
    provider = chat_models.choose_provider()
    if provider == "local":
        return ()
    client: Any = chat_models.chat_model(provider)
    model: str = client.model_name
    short = model.rpartition("/")[2]
    slug = re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-")
    return (
        Method(
            f"hosted-zero-shot-{slug}",
            f"Zero-shot prompt, {short}",
            lambda seed: PromptClassifier(provider),
            uses_model=False,
            served_as=model,
            budgets=(0,),
        ),
        Method(
            f"hosted-few-shot-{slug}",
            f"Few-shot prompt, {short}",
            lambda seed: FewShotPrompt(PromptClassifier(provider), seed=seed),
            uses_model=False,
            served_as=model,
            budgets=(DEMONSTRATIONS,),
        ),
    )
