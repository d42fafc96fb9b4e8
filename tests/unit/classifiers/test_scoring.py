"""Scores of labels: those of a plain forward pass, cached, calibrated, explained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from langchain_core.example_selectors import LengthBasedExampleSelector
from langchain_core.prompts import PromptTemplate
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from transformers import AutoTokenizer, pipeline

from chapterlib import _store
from chapterlib.classifiers.scoring import CONTENT_FREE, LabelScorer
from chapterlib.models import likelihood, loading
from chapterlib.models.likelihood import word_scores
from chapterlib.prompting.examples import HiddenStateEmbeddings, NearestExamples
from chapterlib.tasks.task import AG_NEWS, Label, Task

try:
    from transformers import DecisionConfig
except ImportError:  # 5.17 has none yet
    DecisionConfig = None  # type: ignore[assignment, misc, unused-ignore]
decides = pytest.mark.skipif(DecisionConfig is None, reason="transformers is too old")

TEXTS = [
    "the team wins a match",
    "shares fall",
    "minister talks of a border vote in a court, and a storm on the border",
    "chip probe",
]
# In the tokenizer of the tiny model two tokens, one, three, one.
WORDS = (" team wins", " team", " shares fall sharply", " a")
ONE_TOKEN = ("team", "a", "of", "match")
SHARED = "the coach talks of the league and the court, the bank and the rate; then: "


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exact(tiny_llama: Path) -> dict[str, Any]:
    return {"model": tiny_llama, "dtype": "float32", "progress": False}


@pytest.fixture
def scorer(exact: dict[str, Any]) -> LabelScorer:
    return LabelScorer(verbalizers=ONE_TOKEN, template="{text} is about", **exact)


def _by_hand(folder: Path, prompts: list[str], words: tuple[str, ...]) -> np.ndarray:
    """One prompt and word at a time, with no cache and no shortcut."""
    tokenizer, model = loading.load("generate", folder, dtype="float32")
    found = np.zeros((len(prompts), len(words)))
    for row, prompt in enumerate(prompts):
        ids = tokenizer(prompt).input_ids
        for column, word in enumerate(words):
            extra = tokenizer(word, add_special_tokens=False).input_ids
            with torch.inference_mode():
                logits = model(torch.tensor([ids + extra])).logits[0]
            steps = logits.log_softmax(-1)[len(ids) - 1 : -1]
            found[row, column] = sum(steps[i, t].item() for i, t in enumerate(extra))
    return found


@pytest.mark.parametrize("start", ["", SHARED], ids=["apart", "shared"])
@pytest.mark.parametrize("words", [WORDS, WORDS[1::2]], ids=["long", "short"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 2048])
def test_the_values_are_those_of_plain_forward_passes(
    start: str,
    words: tuple[str, ...],
    batch_tokens: int,
    exact: dict[str, Any],
    tiny_llama: Path,
) -> None:
    prompts = [f"{start}{text} is about" for text in TEXTS]
    found = word_scores(prompts, words, batch_tokens=batch_tokens, **exact)
    assert found.shape == (4, len(words))
    assert found.dtype == np.float32
    expected = _by_hand(tiny_llama, prompts, words)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_shared_start_is_read_once(
    exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    load = loading.load

    def spied(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        forward = loaded.model.forward

        def spy(input_ids: torch.Tensor, **rest: Any) -> Any:
            sizes.append(tuple(input_ids.shape))
            return forward(input_ids, **rest)

        monkeypatch.setattr(loaded.model, "forward", spy)
        return loaded

    monkeypatch.setattr(loading, "load", spied)
    tokenizer = load("generate", exact["model"], dtype="float32").tokenizer
    length = len(tokenizer(SHARED).input_ids)
    prompts = [f"{SHARED}{text} is about" for text in TEXTS]
    word_scores(prompts, [" a"], **exact)
    first, *others = sizes
    assert first[0] == 1
    assert abs(first[1] - length) <= 1
    longest = max(len(tokenizer(prompt).input_ids) for prompt in prompts)
    assert max(width for _, width in others) <= longest - first[1]


def test_few_tokens_are_kept_at_once(
    exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    prompts = [f"{SHARED}{text}" for text in TEXTS]
    monkeypatch.setattr(likelihood, "CACHED_TOKENS", 10)  # a batch of one, then
    found = word_scores(prompts, WORDS, **exact)
    expected = _by_hand(tiny_llama, prompts, WORDS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(loading, "load", load)


def test_a_second_call_reads_the_disk(
    scorer: LabelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scorer.predict_proba(TEXTS)
    _forbid_loading(monkeypatch)
    again = scorer.predict_proba([TEXTS[2], TEXTS[0], TEXTS[2]])
    np.testing.assert_array_equal(again, first[[2, 0, 2]])
    with pytest.raises(AssertionError, match="loaded again"):
        clone(scorer).set_params(template="{text}.").predict(TEXTS)
    with pytest.raises(AssertionError, match="loaded again"):
        clone(scorer).set_params(dtype="bfloat16").predict(TEXTS)
    with pytest.raises(AssertionError, match="loaded again"):
        clone(scorer).set_params(cache=False).predict(TEXTS)


def test_only_new_prompts_are_scored(
    scorer: LabelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer.predict(TEXTS[:2])
    seen: list[list[str]] = []
    original = likelihood.log_likelihoods

    def spy(prompts: list[str], *args: Any, **options: Any) -> Any:
        seen.append(prompts)
        return original(prompts, *args, **options)

    monkeypatch.setattr(likelihood, "log_likelihoods", spy)
    scorer.predict([*TEXTS, *TEXTS])
    assert seen == [scorer.prompts(TEXTS[2:])]


def test_an_interrupt_keeps_what_was_done(
    scorer: LabelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = likelihood.log_likelihoods

    def interrupted(*args: Any, **options: Any) -> Any:
        batches = original(*args, **options)
        yield next(batches)
        raise KeyboardInterrupt

    small = clone(scorer).set_params(batch_tokens=1)
    with monkeypatch.context() as patch:
        patch.setattr(likelihood, "log_likelihoods", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small.predict(TEXTS)
    _forbid_loading(monkeypatch)
    assert len(small.predict([max(TEXTS, key=len)])) == 1


def test_what_was_done_is_written_as_it_goes(
    scorer: LabelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store, "FLUSH_SECONDS", 0)
    first = scorer.predict_proba(TEXTS)
    _forbid_loading(monkeypatch)
    np.testing.assert_array_equal(scorer.predict_proba(TEXTS), first)


def _decider(tokenizer: Any, model: Any, config: Any) -> Any:
    # Its signature knows no decision_config, though the pipeline takes one.
    build: Any = pipeline
    return build("decision", model=model, tokenizer=tokenizer, decision_config=config)


@decides
def test_probabilities_are_those_of_the_decision_pipeline(
    scorer: LabelScorer, tiny_llama: Path
) -> None:
    tokenizer, model = loading.load("generate", tiny_llama, dtype="float32")
    labels = [f" {word}" for word in ONE_TOKEN]
    config = DecisionConfig(
        labels={"choice": labels}, chat_template="{{ state }} is about"
    )
    decide = _decider(tokenizer, model, config)
    topic = {"type": "choice", "criteria": dict.fromkeys(ONE_TOKEN)}
    expected = [
        [
            answer["probabilities"][word]
            for answer in [decide({"state": t, "questions": {"topic": topic}})["topic"]]
            for word in ONE_TOKEN
        ]
        for t in TEXTS
    ]
    np.testing.assert_allclose(scorer.predict_proba(TEXTS), expected, atol=1e-5)


@decides
@pytest.mark.slow
def test_the_embedded_model_agrees_with_the_decision_pipeline(
    user_cache: Path, tiny_news: DatasetDict
) -> None:
    tokenizer, model = loading.load("generate", "embedded", dtype="float32")
    scorer = LabelScorer(model="embedded", dtype="float32", cache=False, progress=False)
    topics = [word.strip() for word in scorer.words]
    config = DecisionConfig(
        labels={"choice": scorer.words},
        chat_template=AG_NEWS.template.replace("{text}", "{{ state }}"),
    )
    decide = _decider(tokenizer, model, config)
    topic = {"type": "choice", "criteria": dict.fromkeys(topics)}
    assert likelihood.with_one_ending(scorer.words, tokenizer, "about") == scorer.words
    texts = list(tiny_news["test"]["text"][:4])
    answers = [decide({"state": t, "questions": {"topic": topic}}) for t in texts]
    expected = [list(a["topic"]["probabilities"].values()) for a in answers]
    np.testing.assert_allclose(scorer.predict_proba(texts), expected, atol=1e-4)


def test_words_of_a_class_share_their_probability(
    scorer: LabelScorer, tiny_llama: Path
) -> None:
    grouped = clone(scorer).set_params(verbalizers=(("team", "match"), "a"))
    raw = np.exp(_by_hand(tiny_llama, scorer.prompts(TEXTS), (" team", " match", " a")))
    means = np.stack([raw[:, :2].mean(1), raw[:, 2]], axis=1)
    expected = means / means.sum(1, keepdims=True)
    np.testing.assert_allclose(grouped.predict_proba(TEXTS), expected, atol=1e-4)
    np.testing.assert_array_equal(grouped.classes_, [0, 1])


def test_batch_calibration_divides_by_the_mean(scorer: LabelScorer) -> None:
    plain = scorer.predict_proba(TEXTS)
    found = clone(scorer).set_params(calibration="batch").predict_proba(TEXTS)
    expected = plain / plain.mean(0)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="this is one alone"):
        clone(scorer).set_params(calibration="batch").predict(TEXTS[:1])


EXAMPLES = [
    {"text": "rover storm", "label": 3},
    SimpleNamespace(text="bank rate launch", label="World"),
]


@pytest.mark.parametrize("demonstrations", [None, EXAMPLES])
def test_content_free_calibration_divides_by_what_nothing_gets(
    demonstrations: Any, scorer: LabelScorer
) -> None:
    given = clone(scorer).set_params(demonstrations=demonstrations)
    nothing = given.predict_proba(CONTENT_FREE).mean(0)
    expected = given.predict_proba(TEXTS) / nothing
    expected /= expected.sum(1, keepdims=True)
    given.set_params(calibration="content-free")
    np.testing.assert_allclose(given.predict_proba(TEXTS), expected, atol=1e-6)
    # A prediction does not depend on its company.
    np.testing.assert_allclose(given.predict_proba(TEXTS[1:2])[0], expected[1])


def test_demonstrations_stand_before_the_text(scorer: LabelScorer) -> None:
    given = clone(scorer).set_params(demonstrations=EXAMPLES, separator="\n")
    assert given.prompts(["virus {text} {0}"]) == [
        "rover storm is about match\n"
        "bank rate launch is about team\n"
        "virus {text} {0} is about"
    ]


def test_a_selector_chooses_for_each_text(scorer: LabelScorer) -> None:
    options = {"model": scorer.model, "dtype": "float32", "progress": False}
    nearest = NearestExamples(
        TEXTS, [0, 1, 2, 3], k=1, embeddings=HiddenStateEmbeddings(TEXTS, **options)
    )
    given = clone(scorer).set_params(demonstrations=nearest, separator="\n")
    for label, (text, prompt) in enumerate(
        zip(TEXTS, given.prompts(TEXTS), strict=True)
    ):
        word = ONE_TOKEN[label]
        assert prompt == f"{text} is about {word}\n{text} is about"
    given.set_params(calibration="content-free")
    several = given.predict_proba(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = given.predict_proba([text])[0]
        np.testing.assert_allclose(several[row], alone, atol=1e-5)


def test_a_selector_of_langchain_is_welcome(scorer: LabelScorer) -> None:
    examples = [{"text": "rover storm", "label": "Sci/Tech"}]
    selector = LengthBasedExampleSelector(
        examples=examples,
        example_prompt=PromptTemplate.from_template("{text} {label}"),
    )
    given = clone(scorer).set_params(demonstrations=selector)
    assert given.prompts(["virus"]) == ["rover storm is about match\n\nvirus is about"]


def test_an_article_is_cut_but_not_its_template(scorer: LabelScorer) -> None:
    short = clone(scorer).set_params(max_length=2)
    prompts = short.prompts(["the team wins a match", "virus"])
    assert prompts[0].endswith(" is about")
    assert len(prompts[0]) < len("the team wins a match is about")
    tokenizer = AutoTokenizer.from_pretrained(scorer.model)
    body = prompts[0].removesuffix(" is about")
    assert len(tokenizer(body).input_ids) == 2


def test_a_template_that_ends_in_space_adds_none(scorer: LabelScorer) -> None:
    quoted = clone(scorer).set_params(
        template="{text}\n", demonstrations=EXAMPLES[:1], separator=";"
    )
    assert quoted.prompts(["virus"]) == ["rover storm\nmatch;virus\n"]


def test_it_is_a_scikit_learn_estimator(
    scorer: LabelScorer, tiny_news: DatasetDict
) -> None:
    texts, labels = tiny_news["test"]["text"][:], tiny_news["test"]["label"][:]
    assert scorer.fit() is scorer
    assert clone(scorer).get_params() == scorer.get_params()
    probabilities = scorer.predict_proba(texts)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    predicted = scorer.predict(texts)
    np.testing.assert_array_equal(probabilities.argmax(1), predicted)
    logs = log_softmax(scorer.decision_function(texts), axis=1)
    np.testing.assert_allclose(np.exp(logs), probabilities)
    assert scorer.score(texts, labels) == np.mean(predicted == labels)
    assert cross_val_score(scorer, texts, labels, cv=2).shape == (2,)


TASKS = [
    Task("Reviews", ("negative", "positive"), item="review", kind="film"),
    Task("Grades", ("3", "1", "2"), item="essay", subject="grade"),
    Task("Städte", ("Köln", "Zürich/Genf", Label("São Paulo", words=("rio", "süd")))),
]


@pytest.mark.parametrize("task", TASKS, ids=["two", "numbers", "umlauts"])
def test_any_task_will_do(task: Task, exact: dict[str, Any]) -> None:
    scorer = LabelScorer(task=task, calibration="content-free", **exact)
    probabilities = scorer.predict_proba(TEXTS)
    assert probabilities.shape == (len(TEXTS), len(task.labels))
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(scorer.classes_, range(len(task.labels)))
    last = len(task.labels) - 1
    for label in (last, task.label_names[last], f" {task.said[last]}. "):
        shown = [{"text": "rover storm", "label": label}]
        given = clone(scorer).set_params(demonstrations=shown)
        before = f"rover storm{task.template[6:]} {task.verbalizers[last][0]}\n\n"
        assert given.prompts(["virus"]) == [f"{before}virus{task.template[6:]}"]


def test_a_label_may_begin_another(exact: dict[str, Any], tiny_llama: Path) -> None:
    task = Task("Cards", ("card arrival", "card", "bank"), item="question")
    scorer = LabelScorer(task=task, **exact)
    prompts = scorer.prompts(TEXTS)
    # A plain sum would never choose the longer one.
    plain = _by_hand(tiny_llama, prompts, tuple(scorer.words))
    assert (plain[:, 0] < plain[:, 1]).all()
    ended = _by_hand(tiny_llama, prompts, tuple(f"{word}\n" for word in scorer.words))
    found = scorer.predict_log_proba(TEXTS)
    np.testing.assert_allclose(found, log_softmax(ended, axis=1), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "ended"),
    [
        ((" team", " a", " of", " match"), False),
        ((" team", " a", " team"), False),
        (WORDS, True),
        ((" match", " shares fall", " a", " shares fall sharply"), True),
    ],
)
def test_words_are_ended_only_where_one_begins_another(
    words: tuple[str, ...], ended: bool, tiny_llama: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    found = likelihood.with_one_ending(words, tokenizer, "is about")
    assert found == ([f"{word}\n" for word in words] if ended else list(words))


@pytest.mark.parametrize("calibration", ["none", "content-free", "batch"])
def test_no_texts_give_no_rows(calibration: Any, scorer: LabelScorer) -> None:
    scorer.set_params(calibration=calibration)
    assert scorer.predict_proba([]).shape == (0, 4)
    assert scorer.predict([]).shape == (0,)


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ("one text", {}, "hand over a list"),
        (["fine", " "], {}, "text 1 is ' '"),
        (["fine", None], {}, "text 1 is None"),
        (["fine"], {"calibration": "some"}, "'none', 'content-free' or 'batch'"),
        (["fine"], {"template": "no place"}, "exactly once"),
        (["fine"], {"max_length": 0}, "at least 1"),
        (["fine"], {"verbalizers": ("one",)}, "at least two classes"),
        (["fine"], {"verbalizers": ("one", ())}, "at least two classes"),
        (["fine"], {"verbalizers": ("one", "")}, "at least two classes"),
        (["fine"], {"verbalizers": ("one", ("two", ""))}, "at least two classes"),
        (["fine"], {"demonstrations": ["words"]}, "lacks a 'text'"),
        (["fine"], {"demonstrations": [{"text": "a", "label": "Art"}]}, "'label'"),
        (["fine"], {"demonstrations": [{"text": "a", "label": 4}]}, r"labels \[4\]"),
        (["a b c " * 90], {"max_length": 400}, "the model reads 256"),
    ],
)
def test_bad_input_is_named(
    texts: Any, options: dict[str, Any], words: str, scorer: LabelScorer
) -> None:
    with pytest.raises(ValueError, match=words):
        clone(scorer).set_params(**options).predict(texts)


def test_a_word_needs_tokens_of_its_own(exact: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="melts into the tokens"):
        word_scores(["the tea"], ["m"], **exact)
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        word_scores([""], [" a"], **exact)
