"""Embeddings and the probe: exact, cached, interruptible, a scikit-learn citizen."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import NotFittedError
from transformers import AutoTokenizer

from chapterlib.classifiers.neighbors import NeighborVote
from chapterlib.classifiers.probe import ProbeClassifier
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.models import hidden_states, loading
from chapterlib.tasks.task import AG_NEWS, Task

TEXTS = [
    "the team wins a match",
    "shares fall",
    "minister talks of a border vote in a court, and a storm on the border",
    "chip probe",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exact(tiny_llama: Path) -> dict[str, Any]:
    return {"model": tiny_llama, "dtype": "float32", "progress": False}


def _by_hand(
    folder: Path, text: str, layer: int, pooling: str, after: str = ""
) -> np.ndarray:
    """One text, no batch, no padding, no shortcut."""
    tokenizer, model = loading.load("features", folder, dtype="float32")
    body = tokenizer(text, add_special_tokens=False).input_ids
    tail = tokenizer(after, add_special_tokens=False).input_ids if after else []
    with torch.inference_mode():
        states = model(
            torch.tensor([body + tail]), output_hidden_states=True
        ).hidden_states[layer][0]
    chosen = states[: len(body)].mean(0) if pooling == "mean" else states[-1]
    return chosen.numpy()


@pytest.mark.parametrize("layer", [0, 1, 2, -1])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_values_are_those_of_a_plain_forward_pass(
    layer: int, pooling: Any, exact: dict[str, Any], tiny_llama: Path
) -> None:
    found = hidden_states.embed(
        TEXTS, layer=layer, pooling=pooling, template="{text} on the", **exact
    )
    assert found.shape == (4, 32)
    assert found.dtype == np.float32
    for row, text in enumerate(TEXTS):
        expected = _by_hand(tiny_llama, text, layer, pooling, after=" on the")
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_batches_and_order_change_nothing(exact: dict[str, Any]) -> None:
    whole = hidden_states.embed(TEXTS, cache=False, **exact)
    for tokens in (1, 20, 40):
        small = hidden_states.embed(TEXTS, cache=False, batch_tokens=tokens, **exact)
        np.testing.assert_allclose(small, whole, atol=1e-4)
    backwards = hidden_states.embed(TEXTS[::-1], cache=False, **exact)
    np.testing.assert_allclose(backwards[::-1], whole, atol=1e-4)


def test_several_layers_and_both_poolings(exact: dict[str, Any]) -> None:
    found = hidden_states.embed(TEXTS, layer=(0, 2), pooling="both", **exact)
    assert found.shape == (4, 2, 64)
    mean = hidden_states.embed(TEXTS, layer=2, pooling="mean", **exact)
    last = hidden_states.embed(TEXTS, layer=0, pooling="last", **exact)
    np.testing.assert_allclose(found[:, 1, :32], mean, atol=1e-5)
    np.testing.assert_allclose(found[:, 0, 32:], last, atol=1e-5)


def test_a_long_text_is_cut_but_not_its_template(
    exact: dict[str, Any], tiny_llama: Path
) -> None:
    long = " ".join(TEXTS * 5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ids = tokenizer(long, add_special_tokens=False).input_ids
    found = hidden_states.embed(
        [long], pooling="last", max_length=6, template="{text} rate", **exact
    )
    expected = _by_hand(
        tiny_llama, tokenizer.decode(ids[:6]), -1, "last", after=" rate"
    )
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def _forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded again")

    monkeypatch.setattr(loading, "load", load)


def test_a_second_call_reads_the_disk(
    exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hidden_states.embed(TEXTS, **exact)
    _forbid_loading(monkeypatch)
    again = hidden_states.embed([TEXTS[2], TEXTS[0], TEXTS[2]], **exact)
    np.testing.assert_array_equal(again, first[[2, 0, 2]])
    # The other pooling came out of the same pass.
    hidden_states.embed(TEXTS, pooling="both", **exact)
    with pytest.raises(AssertionError, match="loaded again"):
        hidden_states.embed(TEXTS, layer=0, **exact)


@pytest.mark.parametrize(
    "change",
    [{"template": "{text}."}, {"max_length": 3}, {"dtype": "bfloat16"}],
    ids=["template", "max_length", "dtype"],
)
def test_options_that_change_a_value_have_their_own_rows(
    change: dict[str, Any], exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_states.embed(TEXTS, **exact)
    _forbid_loading(monkeypatch)
    with pytest.raises(AssertionError, match="loaded again"):
        hidden_states.embed(TEXTS, **{**exact, **change})


def test_only_new_texts_are_computed(
    exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden_states.embed(TEXTS[:2], **exact)
    seen: list[list[str]] = []
    original = hidden_states.pooled_states

    def spy(texts: list[str], *args: Any, **options: Any) -> Any:
        seen.append(texts)
        return original(texts, *args, **options)

    monkeypatch.setattr(hidden_states, "pooled_states", spy)
    hidden_states.embed([*TEXTS, *TEXTS], **exact)
    assert seen == [TEXTS[2:]]


def test_an_interrupt_keeps_what_was_done(
    exact: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = hidden_states.pooled_states

    def interrupted(*args: Any, **options: Any) -> Any:
        batches = original(*args, **options)
        yield next(batches)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hidden_states, "pooled_states", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hidden_states.embed(TEXTS, batch_tokens=1, **exact)
    longest = max(TEXTS, key=len)
    _forbid_loading(monkeypatch)
    assert hidden_states.embed([longest], **exact).shape == (1, 32)


SLOWLY = """
import sys, time
from chapterlib import _store
from chapterlib.models import hidden_states
_store.FLUSH_SECONDS = 0
original = hidden_states.pooled_states
def slow(*args, **options):
    for rows in original(*args, **options):
        yield rows
        print("row", flush=True)
        time.sleep(0.05)
hidden_states.pooled_states = slow
texts = [f"team {i} wins" for i in range(400)]
hidden_states.embed(texts, model=sys.argv[1], dtype="float32", batch_tokens=1,
                    progress=False)
"""


@pytest.mark.slow
def test_after_a_kill_the_work_goes_on(exact: dict[str, Any]) -> None:
    command = [sys.executable, "-c", SLOWLY, str(exact["model"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    texts = [f"team {i} wins" for i in range(400)]
    seen: list[int] = []
    original = hidden_states.pooled_states

    def spy(missing: list[str], *args: Any, **options: Any) -> Any:
        seen.append(len(missing))
        return original(missing, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hidden_states, "pooled_states", spy)
        resumed = hidden_states.embed(texts, **exact)
    assert 0 < seen[0] < 400
    fresh = hidden_states.embed(texts, cache=False, **exact)
    np.testing.assert_allclose(resumed, fresh, atol=1e-4)


def _embed(folder: Path, answers: Any) -> None:
    answers.put(
        hidden_states.embed(TEXTS, model=folder, dtype="float32", progress=False)
    )


@pytest.mark.slow
def test_two_processes_share_the_cache(exact: dict[str, Any]) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [
        context.Process(target=_embed, args=(exact["model"], answers)) for _ in "ab"
    ]
    for worker in workers:
        worker.start()
    first, second = answers.get(), answers.get()
    for worker in workers:
        worker.join()
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_no_texts_give_no_rows(exact: dict[str, Any]) -> None:
    assert hidden_states.embed([], **exact).shape == (0, 32)
    assert hidden_states.embed([], layer=(1, 2), **exact).shape == (0, 2, 32)


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        ("one text", {}, "hand over a list"),
        (["fine", " "], {}, "text 1 is ' '"),
        (["fine", None], {}, "text 1 is None"),
        (["fine"], {"layer": 3}, "the model has 2"),
        (["fine"], {"layer": -4}, "the model has 2"),
        (["fine"], {"pooling": "max"}, "'mean', 'last' or 'both'"),
        (["fine"], {"template": "no place"}, "exactly once"),
        (["fine"], {"max_length": 0}, "at least 1"),
    ],
)
def test_bad_input_is_named(
    texts: Any, options: dict[str, Any], words: str, exact: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=words):
        hidden_states.embed(texts, **{**exact, **options})


@pytest.fixture
def probe(exact: dict[str, Any]) -> ProbeClassifier:
    return ProbeClassifier(**exact)


def test_the_probe_learns(probe: ProbeClassifier, tiny_news: DatasetDict) -> None:
    train, test = tiny_news["train"], tiny_news["test"]
    fitted = probe.fit(train["text"], train["label"])
    assert fitted is probe
    assert fitted.C_ in fitted.Cs
    assert fitted.score(train["text"], train["label"]) > 0.5
    predicted = fitted.predict(test["text"])
    assert predicted.dtype == np.int64
    probabilities = fitted.predict_proba(test["text"])
    assert probabilities.shape == (16, 4)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], predicted)


def test_the_probe_is_a_scikit_learn_estimator(
    probe: ProbeClassifier, tiny_news: DatasetDict
) -> None:
    texts, labels = list(tiny_news["train"]["text"]), list(tiny_news["train"]["label"])
    twin = clone(probe)
    assert twin.get_params() == probe.get_params()
    assert cross_val_score(probe, texts, labels, cv=3).shape == (3,)
    search = GridSearchCV(probe, {"layer": [0, 2]}, cv=2).fit(texts, labels)
    assert search.best_params_["layer"] in (0, 2)
    assert not hasattr(probe, "pipeline_")


def test_the_template_is_the_tasks(exact: dict[str, Any]) -> None:
    def fitted(**options: Any) -> np.ndarray:
        probe = ProbeClassifier(**options, **exact).fit(TEXTS, [1, 0, 1, 0])
        return probe.predict_proba(TEXTS)

    task = Task("Reviews", ("bad", "good"), item="review")
    own = fitted(task=task)
    np.testing.assert_array_equal(own, fitted(template=task.template))
    assert (own != fitted()).any()
    np.testing.assert_array_equal(fitted(), fitted(template=AG_NEWS.template))


def test_seventy_seven_classes(exact: dict[str, Any]) -> None:
    folder = Path(__file__).resolve().parents[4] / "shared" / "banking77"
    if not folder.is_dir():
        pytest.skip("no ../shared/banking77 beside this checkout")
    rows = pd.read_csv(folder / "train.csv").groupby("category").head(1)
    task = Task("Banking", tuple(sorted(rows["category"])), kind="customer")
    texts = list(rows["text"])
    labels = [task.label_names.index(name) for name in rows["category"]]
    scorer = LabelScorer(task=task, max_length=32, **exact)
    methods: list[Any] = [scorer, NeighborVote(scorer, k=2, weight=0.1)]
    for method in (*methods, ProbeClassifier(task=task, **exact)):
        fitted = method.fit(texts, labels)
        assert fitted.predict_proba(texts[:3]).shape == (3, 77)
        assert set(fitted.predict(texts[:3])) <= set(range(77))


def test_one_row_a_class_is_enough(probe: ProbeClassifier) -> None:
    fitted = probe.fit(TEXTS, [3, 1, 0, 2])
    assert min(fitted.Cs) == fitted.C_
    np.testing.assert_array_equal(fitted.predict(TEXTS), [3, 1, 0, 2])


def test_labels_need_not_be_contiguous(probe: ProbeClassifier) -> None:
    fitted = probe.fit(TEXTS, [5, 5, 9, 9])
    assert set(fitted.predict(TEXTS)) <= {5, 9}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], "4 texts"),
        ([1, 1, 1, 1], "one class"),
        ([0, 1, -1, 0], "class ids"),
        (["a", "b", "a", "b"], "class ids"),
        ([0.0, 1.0, 0.5, 1.0], "class ids"),
    ],
)
def test_bad_labels_are_named(labels: Any, words: str, probe: ProbeClassifier) -> None:
    with pytest.raises(ValueError, match=words):
        probe.fit(TEXTS, labels)


def test_an_unfitted_probe_says_so(probe: ProbeClassifier) -> None:
    with pytest.raises(NotFittedError):
        probe.predict(TEXTS)


@pytest.mark.slow
def test_the_embedded_model_knows_topics(
    user_cache: Path, ag_news_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chapterlib.tasks import sampling
    from chapterlib.tasks.task import AG_NEWS

    monkeypatch.setenv("CHAPTERLIB_CACHE", str(user_cache))
    ds = AG_NEWS.load(ag_news_folder)
    train = sampling.balanced_sample(ds["train"], 24, seed=0)
    test = sampling.balanced_sample(ds["test"], 24, seed=0)
    fitted = ProbeClassifier(progress=False)
    fitted.fit(train["text"], train["label"])
    # 96 labels: far above the 0.25 of chance, with room for rounding on other CPUs.
    assert fitted.score(test["text"], test["label"]) > 0.65
