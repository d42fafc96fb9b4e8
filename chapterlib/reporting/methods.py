"""Methods that ask a hosted chat model: part of the ladder where a reader has a key."""

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

from chapterlib.classifiers.neighbors import FewShotScorer, NeighborVote
from chapterlib.classifiers.probe import ProbeClassifier
from chapterlib.classifiers.prompt import FewShotPrompt, PromptClassifier
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting import chat_models
from chapterlib.training.presets import preset

# Demonstrations a class, as in the chapter that this book grows from.
DEMONSTRATIONS = 10


def hosted_methods() -> tuple[Method, ...]:
    """Methods that ask the hosted model which the settings point to.

    Returns
    -------
    tuple of Method
        Zero-shot and few-shot prompting, under slugs that name the model, so that
        records of several models stand side by side. Empty where no key and no address
        is set: then nothing leaves this machine.

    Raises
    ------
    LLMError
        If what is set is of no use; the message names the setting.

    Notes
    -----
    All rows go to the host, and each token is paid for: the setting ``budget_usd`` or
    ``budget_tokens`` bounds every run. What one run has paid for is kept, and the next
    one goes on from there.
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
            served_as=model,
            asks=True,
            budgets=(0,),
        ),
        Method(
            f"hosted-few-shot-{slug}",
            f"Few-shot prompt, {short}",
            lambda seed: FewShotPrompt(PromptClassifier(provider), seed=seed),
            served_as=model,
            asks=True,
            budgets=(DEMONSTRATIONS,),
        ),
    )


# Every weight learns, from the embeddings up. The rate was tried on held-out training
# rows; a head from a probe is all that LP-FT changes.
WHOLE = preset("cpu", method="full", first_layer=0, learning_rate=1e-4, warmup=0.1)

# Two common words a class; on training rows their mean did better than one.
WORDS = (
    ("politics", "war"),
    ("sports",),
    ("business", "finance"),
    ("technology", "science"),
)

# Rows a class up to which three epochs are too few steps: on held-out training rows,
# 32 labels gave LoRA 0.60 after three epochs and 0.83 after twelve.
FEW = 32


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


def finetuned(**options: Any) -> Callable[[int], Any]:
    """Make a maker of `training.FinetunedClassifier`, from a seed.

    Parameters
    ----------
    **options
        Parameters of the classifier; the others have their defaults.
    """

    def make(seed: int) -> Any:
        # peft takes seconds to import, which most methods need not wait for.
        from chapterlib.classifiers.finetuned import FinetunedClassifier

        return FinetunedClassifier(seed=seed, **options)

    return make


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
    served_as : str, optional
        Name of the model that it asks of a host instead.
    embeds : bool
        Whether `fit` embeds the training rows by `features.embed`.
    scores : bool
        Whether its predictions rest on cached scores, so that their time has to be
        taken without the cache.
    asks : bool
        Whether it asks a chat model, so that its record holds what became of each
        article, and the tokens.
    budgets : tuple of int or None, optional
        Train rows a class that it is measured with: 0 for a method that sees none,
        None for all there are; by default the budgets of the book's learning curves.
    also : tuple of int
        Budgets beside those.
    seeds : int
        Draws at the budgets where several are measured.
    test_per_class : int, optional
        Test rows a class that are predicted, for a method that is slow; by default all
        test rows.
    make_from_few : callable, optional
        As `make`, for up to `FEW` rows a class: those who train by steps have to read
        so few rows more often.
    """

    slug: str
    title: str
    make: Callable[[int], Any]
    uses_model: bool = False
    served_as: str | None = None
    embeds: bool = False
    scores: bool = False
    asks: bool = False
    budgets: tuple[int | None, ...] | None = None
    also: tuple[int, ...] = ()
    seeds: int = 3
    test_per_class: int | None = None
    make_from_few: Callable[[int], Any] | None = None

    def estimator(self, per_class: int | None, seed: int) -> Any:
        """Make the unfitted estimator for so many rows a class; None is for all."""
        few = per_class is not None and per_class <= FEW
        make = self.make_from_few if few and self.make_from_few else self.make
        return make(seed)


METHODS = (
    Method(
        "majority",
        "Majority class",
        lambda seed: DummyClassifier(strategy="most_frequent"),
        budgets=(None,),
    ),
    Method(
        "tfidf",
        "TF-IDF + logistic regression",
        tfidf_classifier,
        also=(250,),
    ),
    Method(
        "probe",
        "Probe on hidden states",
        lambda seed: ProbeClassifier(seed=seed),
        uses_model=True,
        embeds=True,
        also=(250,),
    ),
    Method(
        "zero-shot",
        "Zero-shot, label scores",
        lambda seed: LabelScorer(),
        uses_model=True,
        scores=True,
        budgets=(0,),
    ),
    Method(
        "zero-shot-words",
        "Zero-shot, two words a class",
        lambda seed: LabelScorer(verbalizers=WORDS),
        uses_model=True,
        scores=True,
        budgets=(0,),
    ),
    Method(
        "prompt",
        "Zero-shot chat prompt",
        lambda seed: PromptClassifier("local", max_concurrency=4, max_tokens=272),
        uses_model=True,
        asks=True,
        budgets=(0,),
        test_per_class=50,
    ),
    Method(
        "prompt-schema",
        "Zero-shot chat prompt, JSON schema",
        lambda seed: PromptClassifier(
            "local", max_concurrency=4, max_tokens=272, constrained=True
        ),
        uses_model=True,
        asks=True,
        budgets=(0,),
    ),
    Method(
        "few-shot-random",
        "Few-shot, random",
        lambda seed: FewShotScorer(),
        uses_model=True,
        scores=True,
        budgets=(1, 2, 4),
    ),
    Method(
        "few-shot-calibrated",
        "Few-shot, random, calibrated",
        lambda seed: FewShotScorer(LabelScorer(calibration="batch")),
        uses_model=True,
        scores=True,
        budgets=(1, 2, 4),
    ),
    Method(
        "few-shot-nearest",
        "Few-shot, nearest",
        lambda seed: FewShotScorer(choose="nearest", k=4),
        uses_model=True,
        embeds=True,
        scores=True,
        budgets=(512,),
    ),
    Method(
        "neighbors",
        "Vote of neighbors",
        lambda seed: NeighborVote(weight=0),
        uses_model=True,
        embeds=True,
    ),
    Method(
        "few-shot-vote",
        "Vote of neighbors with scores",
        lambda seed: NeighborVote(),
        uses_model=True,
        embeds=True,
        scores=True,
    ),
    Method(
        "lora",
        "LoRA",
        finetuned(**preset("cpu")),
        uses_model=True,
        also=(250,),
        make_from_few=finetuned(**preset("cpu", epochs=12)),
    ),
    Method(
        "qlora",
        "QLoRA",
        finetuned(**preset("cpu", method="qlora")),
        uses_model=True,
        budgets=(128, 250, 512),
    ),
    Method(
        "full",
        "Full finetuning",
        finetuned(**WHOLE),
        uses_model=True,
        budgets=(128, 512),
    ),
    Method(
        "lp-ft",
        "Full finetuning from a probe",
        finetuned(**WHOLE, head_init="probe"),
        uses_model=True,
        budgets=(128, 512),
    ),
)
