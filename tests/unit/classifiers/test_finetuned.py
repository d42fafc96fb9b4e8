"""Finetuned classifiers: they learn, repeat, resume, and no batch changes a logit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import DatasetDict
from filelock import FileLock
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import NotFittedError
from tiny_llama import save_tiny_llama
from tqdm.auto import tqdm

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.training import adapters, loop, prefix, trainer
from chapterlib.training.trainer import TrainingError

METHODS = ["lora", "qlora", "full", "head"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("four") / "four", layers=4)


@pytest.fixture
def make(folder: Path) -> Callable[..., FinetunedClassifier]:
    def made(method: Any = "lora", **options: Any) -> FinetunedClassifier:
        few: dict[str, Any] = {
            "model": folder,
            "dtype": "float32",
            "device": "cpu",
            "learning_rate": 3e-3,
            "batch_size": 4,
            "epochs": 2,
            "progress": False,
        }
        return FinetunedClassifier(method, **{**few, **options})

    return made


@pytest.fixture
def rows(tiny_news: DatasetDict) -> tuple[list[str], list[int]]:
    return list(tiny_news["train"]["text"]), list(tiny_news["train"]["label"])


def weights(classifier: FinetunedClassifier) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone()
        for name, value in adapters.trainable(classifier.network_).items()
    }


def losses(classifier: FinetunedClassifier) -> list[float]:
    return [row["loss"] for row in classifier.history_ if "loss" in row]


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_it_learns(method: str, make: Any) -> None:
    words = {1: "team wins", 2: "shares fall", 3: "chip probe", 0: "border vote"}
    texts = [f"{word} in {place}" for place in "abcdef" for word in words.values()]
    labels = list(words) * 6
    fitted = make(method, epochs=8, learning_rate=1e-3)
    assert fitted.fit(texts, labels) is fitted
    assert fitted.score(texts, labels) > 0.9
    curve = losses(fitted)
    assert len(curve) == 8 * 6
    assert np.mean(curve[-6:]) < 0.6 * np.mean(curve[:6])
    predicted = fitted.predict(texts)
    assert predicted.dtype == np.int64
    probabilities = fitted.predict_proba(texts)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(1)], predicted)


@pytest.mark.parametrize("method", METHODS)
def test_batches_order_and_padding_change_no_logit(
    method: str, make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = make(method, epochs=1).fit(*rows)
    texts = ["wins", *rows[0], "a much longer text about shares and the border " * 3]
    whole = fitted.decision_function(texts)
    assert whole.shape == (len(texts), 4)
    backwards = fitted.decision_function(texts[::-1])[::-1]
    np.testing.assert_allclose(backwards, whole, atol=1e-4)
    for i in (0, 3, len(texts) - 1):
        alone = fitted.decision_function([texts[i]])[0]
        np.testing.assert_allclose(alone, whole[i], atol=1e-4)
        # Padding, by hand and far more than any batch needs.
        ids = fitted.encoder_([texts[i]])
        padded = torch.tensor([ids[0] + [fitted.tokenizer_.pad_token_id] * 50])
        mask = (torch.arange(padded.shape[1]) < len(ids[0])).long()[None]
        with torch.no_grad():
            found = fitted.network_(input_ids=padded, attention_mask=mask).logits[0]
        np.testing.assert_allclose(found.numpy(), whole[i], atol=1e-4)


def test_a_seed_repeats_a_run_and_leaves_the_outside_alone(
    make: Any, rows: Any
) -> None:
    state = torch.random.get_rng_state()
    first = make(dropout=0.1).fit(*rows)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = make(dropout=0.1).fit(*rows)
    other = make(dropout=0.1, seed=1).fit(*rows)
    assert losses(first) == losses(again) != losses(other)
    for name, value in weights(first).items():
        assert torch.equal(value, weights(again)[name])


@pytest.mark.parametrize("method", ["lora", "qlora", "full", "head"])
def test_the_prefix_cache_changes_no_loss(method: str, make: Any, rows: Any) -> None:
    options = {"first_layer": 2, "dropout": 0.1 if method == "lora" else 0.0}
    cached = make(method, **options).fit(*rows)
    without = make(method, cache_prefix=False, **options).fit(*rows)
    np.testing.assert_allclose(losses(cached), losses(without), atol=1e-5)
    np.testing.assert_allclose(
        cached.decision_function(rows[0]),
        without.decision_function(rows[0]),
        atol=1e-4,
    )
    assert cached.trainable_parameters_ == without.trainable_parameters_
    assert cached.size_bytes_ == 4 * cached.trainable_parameters_


def test_the_prefix_is_computed_once_a_row(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = prefix.FrozenPrefix

    def spy(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(loop, "FrozenPrefix", spy)
    make(first_layer=2, epochs=3).fit(*rows)
    make(first_layer=2, epochs=1, learning_rate=1e-3).fit(*rows)
    make(first_layer=3, epochs=1).fit(*rows)
    assert [prefix.computed for prefix in made] == [24, 0, 24]


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_recomputed_activations_change_nothing(
    method: str, make: Any, rows: Any
) -> None:
    kept = make(method, epochs=1).fit(*rows)
    again = make(method, epochs=1, gradient_checkpointing=True).fit(*rows)
    np.testing.assert_allclose(losses(again), losses(kept), atol=1e-5)


def test_accumulated_passes_are_one_step(make: Any, rows: Any) -> None:
    whole = make(batch_size=8, group_by_length=False, max_length=3).fit(*rows)
    parts = make(batch_size=4, accumulate=2, group_by_length=False, max_length=3).fit(
        *rows
    )
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, atol=1e-5, rtol=1e-3)


def test_the_best_epoch_is_kept(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.75, 0.25, 0.5, 0.1])
    kept = []

    def scored(_: Any) -> dict[str, float]:
        return {"accuracy": next(scores)}

    class Spy(trainer.ClassifierTrainer):
        def _save_checkpoint(self, *args: Any, **options: Any) -> None:
            found = adapters.trainable(self.model)
            kept.append({n: p.detach().clone() for n, p in found.items()})
            super()._save_checkpoint(*args, **options)

    monkeypatch.setattr(trainer, "compute_metrics", scored)
    monkeypatch.setattr(trainer, "ClassifierTrainer", Spy)
    fitted = make(validation=1 / 3, epochs=5, patience=2).fit(*rows)
    judged = [r["eval_accuracy"] for r in fitted.history_ if "eval_accuracy" in r]
    assert judged == [0.5, 0.75, 0.25, 0.5]  # two epochs without a better one: stop
    final = dict(fitted.network_.named_parameters())
    for name, value in kept[1].items():
        assert torch.equal(final[name], value), name


def test_the_head_may_start_from_a_probe(make: Any, rows: Any) -> None:
    rest = {"learning_rate": 1e-9, "epochs": 1}
    probed = make("head", head_init="probe", **rest).fit(*rows)
    plain = make("head", **rest).fit(*rows)
    assert probed.score(*rows) > plain.score(*rows)
    with_prefix = make(head_init="probe", first_layer=2, **rest).fit(*rows)
    without = make(head_init="probe", **rest).fit(*rows)
    np.testing.assert_allclose(
        with_prefix.decision_function(rows[0]),
        without.decision_function(rows[0]),
        atol=1e-2,
    )


def test_it_is_a_scikit_learn_estimator(make: Any, rows: Any) -> None:
    classifier = make(epochs=1)
    assert clone(classifier).get_params() == classifier.get_params()
    assert cross_val_score(classifier, *rows, cv=2).shape == (2,)
    search = GridSearchCV(classifier, {"r": [2, 4]}, cv=2).fit(*rows)
    assert search.best_params_["r"] in (2, 4)
    assert not hasattr(classifier, "network_")
    with pytest.raises(NotFittedError):
        classifier.predict(rows[0])


def test_labels_need_not_be_contiguous_nor_of_ag_news(make: Any, rows: Any) -> None:
    labels = [{0: 5, 1: 9, 2: 5, 3: 9}[label] for label in rows[1]]
    fitted = make(epochs=1).fit(rows[0], labels)
    assert set(fitted.predict(rows[0])) <= {5, 9}
    names = adapters.plain(fitted.network_).config.id2label
    assert names == {0: "5", 1: "9"}
    named = make(epochs=1, label_names=["no", "yes"]).fit(
        rows[0], [label % 2 for label in rows[1]]
    )
    assert adapters.plain(named.network_).config.id2label == {0: "no", 1: "yes"}
    assert named.predict([]).shape == (0,)


def test_cut_texts_are_counted(make: Any, rows: Any) -> None:
    assert make(epochs=1, max_length=200).fit(*rows).cut_rows_ == 0
    assert make(epochs=1, max_length=2).fit(*rows).cut_rows_ == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "prefix"}, "choose one of lora, qlora, full, head"),
        ({"head_init": "zero"}, "'random' or 'probe'"),
        ({"r": 0}, "r is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"validation": 1.0}, "to below 1"),
        ({"validation": 0.01}, "of 24 rows leaves a class"),
        ({"patience": 1}, "set validation"),
        ({"target_modules": ["query"]}, "names query"),
        ({"max_length": 512}, "the model reads 256: set max_length to"),
        ({"template": "{title}"}, "exactly once"),
        ({"dtype": "float16"}, "needs a GPU"),
        ({"label_names": ["a"]}, "1 label_names, but a label is 3"),
        ({"first_layer": 9}, "layers are 0 to 3"),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], words: str, make: Any, rows: Any
) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options).fit(*rows)


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [
        (["a", "b"], [0], "2 texts"),
        (["a", "b"], [1, 1], "one class"),
        (["a", "b"], [0, -1], "class ids"),
        (["a", "b"], ["x", "y"], "class ids"),
        (["a", " "], [0, 1], "text 1 is ' '"),
    ],
)
def test_bad_rows_are_named(texts: Any, labels: Any, words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make().fit(texts, labels)


def test_a_loss_that_is_no_number_stops_the_run(make: Any, rows: Any) -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step \d+: lower"):
        make("full", learning_rate=1e30, schedule="constant", epochs=9).fit(*rows)


def test_too_little_memory_names_the_remedies(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trainer.Trainer, "training_step", full)
    with pytest.raises(TrainingError, match="halve batch_size and double accumulate"):
        make().fit(*rows)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_sharded_network_is_made_whole_in_the_first_process(
    rank: str, make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []

    class Sharded(trainer.ClassifierTrainer):
        def train(self, *args: Any, **options: Any) -> Any:
            done = super().train(*args, **options)
            networks.append(self.model)
            self.is_fsdp_enabled = True
            return done

    monkeypatch.setattr(trainer, "ClassifierTrainer", Sharded)
    monkeypatch.setattr(loop, "is_main", lambda: rank == "0")
    fitted = make(first_layer=1).fit(*rows)
    assert (fitted.network_ is networks[0]) == (rank == "1")
    for name, value in adapters.trainable(networks[0]).items():
        assert torch.equal(weights(fitted)[name], value)


def test_a_batch_that_processes_cannot_share(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="multiple of their number"):
        make().fit(*rows)


def test_progress_is_a_bar(
    make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    class Bar(tqdm):
        def set_postfix(self, ordered_dict: Any = None, *_: Any, **__: Any) -> None:
            seen.append(ordered_dict)

    monkeypatch.setattr("chapterlib.training.trainer.tqdm", Bar)
    make(validation=1 / 3, progress=True).fit(*rows)
    assert any(set(shown) == {"loss"} for shown in seen)
    assert any(set(shown) == {"loss", "accuracy"} for shown in seen)


class InterruptError(Exception):
    pass


def interrupt(classifier: FinetunedClassifier, rows: Any, step: int) -> None:
    original = trainer.Watch.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if state.global_step == step:
            raise InterruptError
        return original(self, args, state, control, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Watch, "on_step_end", stop)
        with pytest.raises(InterruptError):
            classifier.fit(*rows)


@pytest.mark.parametrize(
    ("method", "step", "resumed"),
    [("lora", 10, 8), ("lora", 3, 0), ("full", 7, 6), ("qlora", 10, 8)],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    method: str,
    step: int,
    resumed: int,
    make: Any,
    rows: Any,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    options = {
        "checkpoint_steps": None if method == "full" else 4,
        "dropout": 0.1,
        "validation": 1 / 6 if step == 7 else 0.0,
        "first_layer": 2 if method == "lora" else 0,
    }
    whole = make(method, **options).fit(*rows)
    assert whole.resumed_from_ == 0
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "another"))
    interrupt(make(method, **options), rows, step)
    finished = make(method, **options).fit(*rows)
    assert finished.resumed_from_ == (5 if options["validation"] else resumed)
    assert losses(finished) == losses(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(finished)[name], value), name
    # A finished run leaves no checkpoints, so the next one starts afresh.
    assert make(method, **options).fit(*rows).resumed_from_ == 0


def test_other_rows_or_options_are_another_run(make: Any, rows: Any) -> None:
    interrupt(make(), rows, 9)
    assert make(weight_decay=0.1).fit(*rows).resumed_from_ == 0
    assert make().fit(rows[0][::-1], rows[1][::-1]).resumed_from_ == 0
    assert make(resume=False).fit(*rows).resumed_from_ == 0


def test_a_run_is_not_started_twice_at_once(
    make: Any, rows: Any, tmp_path: Path
) -> None:
    classifier = make(checkpoints=tmp_path / "run")
    with (
        FileLock(tmp_path / "run.lock"),
        pytest.raises(TrainingError, match="under way in another process"),
    ):
        classifier.fit(*rows)
    classifier.fit(*rows)
    assert not (tmp_path / "run").exists()


KILLED = """
import sys
from chapterlib.training import FinetunedClassifier
texts = [f"{word} in {place} on day" for place in "abcdef"
         for word in ("team wins", "shares fall", "chip probe", "border vote")]
labels = [1, 2, 3, 0] * 6
FinetunedClassifier(
    model=sys.argv[1], dtype="float32", device="cpu", batch_size=4, epochs=4,
    checkpoint_steps=5, dropout=0.1, first_layer=1, progress=False,
).fit(texts, labels).save(sys.argv[2])
"""


def test_a_killed_process_resumes_to_the_same_weights(
    folder: Path, tmp_path: Path
) -> None:
    def run(name: str) -> subprocess.Popen:
        environment = {
            **os.environ,
            "CHAPTERLIB_CACHE": str(tmp_path / name),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / name)]
        return subprocess.Popen(command, env=environment)

    alone = run("alone")
    killed = run("killed")
    checkpoints = tmp_path / "killed" / "training"
    while killed.poll() is None and not list(checkpoints.glob("*/checkpoint-5/*.json")):
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "chapterlib.json").exists()
    assert run("killed").wait() == 0
    assert alone.wait() == 0
    expected = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    found = load_file(tmp_path / "killed" / "adapter_model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
