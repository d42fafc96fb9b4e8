"""Finetuned classifiers: they learn, repeat, resume, and no batch changes a logit."""

from __future__ import annotations

import json
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
from filelock import FileLock
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import NotFittedError
from tiny_llama import save_tiny_llama
from tqdm.auto import tqdm

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.tasks.task import Label, Task
from chapterlib.training import adapters, loop, prefix, trainer
from chapterlib.training.trainer import TrainingError

METHODS = ["lora", "qlora", "full", "head"]
Rows = tuple[list[str], list[int]]
WORDS = ("border vote", "team wins", "shares fall", "chip probe")
ROWS: Rows = (
    [f"{words} in {place}" for place in "abcdef" for words in WORDS],
    [0, 1, 2, 3] * 6,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("four") / "four", layers=4)


@pytest.fixture(scope="module")
def make(folder: Path) -> Callable[..., FinetunedClassifier]:
    def made(method: Any = "lora", **options: Any) -> FinetunedClassifier:
        few: dict[str, Any] = {
            "model": folder,
            "dtype": "float32",
            "device": "cpu",
            "learning_rate": 3e-3,
            "batch_size": 4,
            "epochs": 1,
            "progress": False,
        }
        return FinetunedClassifier(method, **{**few, **options})

    return made


@pytest.fixture(scope="module")
def learned(make: Any, request: pytest.FixtureRequest) -> FinetunedClassifier:
    """Return a classifier that knows its rows, to read only."""
    long: dict[str, Any] = {"epochs": 8, "learning_rate": 1e-3}
    made: FinetunedClassifier = make(request.param, **long)
    assert made.fit(*ROWS) is made
    return made


each_method = pytest.mark.parametrize("learned", METHODS, indirect=True, scope="module")


@pytest.fixture
def rows() -> Rows:
    return ROWS


def weights(classifier: FinetunedClassifier) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone()
        for name, value in adapters.trainable(classifier.network_).items()
    }


def losses(classifier: FinetunedClassifier) -> list[float]:
    return [row["loss"] for row in classifier.history_ if "loss" in row]


@each_method
def test_it_learns(learned: FinetunedClassifier, rows: Rows) -> None:
    texts, labels = rows
    curve = losses(learned)
    assert len(curve) == 8 * 6
    if learned.method != "head":  # a head on random weights learns slowly
        assert learned.score(texts, labels) > 0.9
        assert np.mean(curve[-6:]) < 0.6 * np.mean(curve[:6])
    predicted = learned.predict(texts)
    assert predicted.dtype == np.int64
    probabilities = learned.predict_proba(texts)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(learned.classes_[probabilities.argmax(1)], predicted)
    assert learned.predict([]).shape == (0,)


@each_method
def test_batches_order_and_padding_change_no_logit(
    learned: FinetunedClassifier, rows: Rows
) -> None:
    texts = ["wins", *rows[0], "a much longer text about shares and the border " * 3]
    whole = learned.decision_function(texts)
    assert whole.shape == (len(texts), 4)
    backwards = learned.decision_function(texts[::-1])[::-1]
    np.testing.assert_allclose(backwards, whole, atol=1e-4)
    for i in (0, 3, len(texts) - 1):
        alone = learned.decision_function([texts[i]])[0]
        np.testing.assert_allclose(alone, whole[i], atol=1e-4)
        # Padding, by hand and far more than any batch needs.
        ids = learned.encoder_([texts[i]])
        padded = torch.tensor([ids[0] + [learned.tokenizer_.pad_token_id] * 50])
        mask = (torch.arange(padded.shape[1]) < len(ids[0])).long()[None]
        with torch.no_grad():
            found = learned.network_(input_ids=padded, attention_mask=mask).logits[0]
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
    make(first_layer=2, epochs=2).fit(*rows)
    make(first_layer=2, learning_rate=1e-3).fit(*rows)
    make(first_layer=3).fit(*rows)
    assert [prefix.computed for prefix in made] == [24, 0, 24]


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_recomputed_activations_change_nothing(
    method: str, make: Any, rows: Any
) -> None:
    kept = make(method).fit(*rows)
    again = make(method, gradient_checkpointing=True).fit(*rows)
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
    rest = {"learning_rate": 1e-9}
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
    classifier = make(task=REVIEWS)
    assert clone(classifier).get_params() == classifier.get_params()
    few = rows[0][:8], [label % 2 for label in rows[1][:8]]
    assert cross_val_score(classifier, *few, cv=2).shape == (2,)
    search = GridSearchCV(classifier, {"r": [2, 4]}, cv=2).fit(*few)
    assert search.best_params_["r"] in (2, 4)
    assert not hasattr(classifier, "network_")
    with pytest.raises(NotFittedError):
        classifier.predict(rows[0])


REVIEWS = Task("Reviews", ("negative", "positive"), item="review", kind="film")
STARS = Task("Stars", ("1", "2", "10"), template="{text}\nStars:")
ANREDE = Task("Anrede", ("höflich", "grob / derb", "sonst", "größer"), item="Satz")
INTENTS = Task("Intents", tuple(Label(f"intent_{i}") for i in range(77)))


@pytest.mark.parametrize(
    "task", [REVIEWS, STARS, ANREDE, INTENTS], ids=lambda t: t.name
)
def test_a_task_names_its_labels(task: Task, make: Any, tmp_path: Path) -> None:
    labels = list(range(len(task.labels)))
    texts = [f"{WORDS[i % 4]} number {i} on {day}" for day in "ab" for i in labels]
    fitted = make(task=task, batch_size=16).fit(texts, labels * 2)
    assert fitted.classes_.tolist() == labels
    names = adapters.plain(fitted.network_).config.id2label
    assert names == dict(enumerate(task.label_names))
    end = fitted.tokenizer_.decode(fitted.encoder_(texts[:1])[0]).partition("on a")[2]
    assert end == task.template.removeprefix("{text}")
    place = fitted.save(tmp_path / "saved")
    loaded = FinetunedClassifier.load(
        place, model=fitted.model, dtype="float32", device="cpu"
    )
    assert loaded.task == task
    assert set(loaded.predict(texts)) <= set(labels)
    np.testing.assert_allclose(
        loaded.predict_proba(texts), fitted.predict_proba(texts), atol=1e-5
    )
    card = (place / "README.md").read_text(encoding="utf-8")
    assert f"| {labels[-1]} | `'{task.label_names[-1]}'` |" in card


def test_not_every_label_of_the_task_need_occur(make: Any, rows: Rows) -> None:
    task = Task("Ten", tuple("abcdefghij"))
    labels = [{0: 5, 1: 9, 2: 5, 3: 9}[label] for label in rows[1]]
    fitted = make(task=task).fit(rows[0], labels)
    assert set(fitted.predict(rows[0])) <= {5, 9}
    assert adapters.plain(fitted.network_).config.id2label == {0: "f", 1: "j"}
    with pytest.raises(
        ValueError, match=r"a label is 9, but there are 4 names .*task="
    ):
        make().fit(rows[0], labels)
    named = make(label_names=["no", "yes"]).fit(
        rows[0][:8], [label % 2 for label in rows[1][:8]]
    )
    assert adapters.plain(named.network_).config.id2label == {0: "no", 1: "yes"}


def test_cut_texts_are_counted(make: Any, rows: Any) -> None:
    assert make(max_length=200).fit(*rows).cut_rows_ == 0
    assert make(max_length=2).fit(*rows).cut_rows_ == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "prefix"}, "choose one of lora, qlora, full, head"),
        ({"head_init": "zero"}, "choose one of random, probe"),
        ({"r": 0}, "r is 0"),
        ({"r": 2.5}, "r is 2.5: give a whole number"),
        ({"batch_size": True}, "batch_size is True"),
        ({"alpha": -3}, "alpha is -3: give a number above 0"),
        ({"learning_rate": "1e-4"}, "learning_rate is '1e-4'"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"weight_decay": -1}, "weight_decay is -1"),
        ({"warmup": 100}, "warmup is 100: give a share"),
        ({"warmup": -1}, "warmup is -1"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"patience": 0, "validation": 0.2}, "patience is 0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"epochs": -1}, "epochs is -1"),
        ({"validation": 1.0}, "to below 1"),
        ({"validation": 0.01}, "of 24 rows leaves a class"),
        ({"patience": 1}, "set validation"),
        ({"target_modules": ["query"]}, "names query"),
        ({"max_length": 512}, "the model reads 256: set max_length to"),
        ({"template": "{title}"}, "exactly once"),
        ({"dtype": "float16"}, "needs a GPU"),
        ({"label_names": ["a"]}, r"a label is 3, but there are 1 names \(a\)"),
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
    ("method", "step", "resumed", "options"),
    [
        # Within the second epoch, on states that were kept.
        ("lora", 10, 8, {"checkpoint_steps": 4, "dropout": 0.1, "first_layer": 2}),
        # Between two epochs, the best of which is kept.
        ("full", 7, 5, {"validation": 1 / 6}),
    ],
)
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    method: str,
    step: int,
    resumed: int,
    options: dict[str, Any],
    make: Any,
    rows: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    options = {**options, "epochs": 2}
    whole = make(method, **options).fit(*rows)
    assert whole.resumed_from_ == 0
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "another"))
    interrupt(make(method, **options), rows, step)
    checkpoints = tmp_path / "another" / "training"
    assert list(checkpoints.glob("*/checkpoint-*"))
    finished = make(method, **options).fit(*rows)
    assert finished.resumed_from_ == resumed
    assert losses(finished) == losses(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(finished)[name], value), name
    # A finished run leaves no checkpoints, so the next one starts afresh.
    assert not list(checkpoints.glob("*/checkpoint-*"))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_is_passed_over(
    file: str, make: Any, rows: Any, tmp_path: Path
) -> None:
    options = {"checkpoints": tmp_path, "checkpoint_steps": 2}
    whole = make(**options).fit(*rows)
    interrupt(make(**options), rows, 5)
    damaged = tmp_path / "checkpoint-4" / file
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.warns(RuntimeWarning, match="checkpoint-4 is not whole"):
        finished = make(**options).fit(*rows)
    assert finished.resumed_from_ == 2
    for name, value in weights(whole).items():
        assert torch.equal(weights(finished)[name], value), name


@pytest.mark.parametrize(
    "said", ["[Errno 28] No space left on device", "enforce fail at inline_container"]
)
def test_a_full_disk_names_the_folder(
    said: str, make: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(said)

    monkeypatch.setattr(trainer, "digests", full)
    with pytest.raises(TrainingError, match=r"the disk is full .* CHAPTERLIB_CACHE"):
        make().fit(*rows)


def test_other_rows_or_options_are_another_run(make: Any, rows: Any) -> None:
    interrupt(make(checkpoint_steps=2), rows, 3)
    assert make(weight_decay=0.1, checkpoint_steps=2).fit(*rows).resumed_from_ == 0
    options = {"checkpoint_steps": 2}
    assert make(**options).fit(rows[0][::-1], rows[1][::-1]).resumed_from_ == 0
    assert make(resume=False, **options).fit(*rows).resumed_from_ == 0


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
import json, sys
from chapterlib import FinetunedClassifier
folder, options, rows = sys.argv[1], *map(json.loads, sys.argv[2:])
FinetunedClassifier(**options).fit(*rows).save(folder)
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(
    make: Any, rows: Rows, folder: Path, tmp_path: Path
) -> None:
    options = {"model": str(folder), "epochs": 4, "checkpoint_steps": 5}
    alone = make(**options, dropout=0.1, first_layer=1)
    place = tmp_path / "killed"
    environment = {**os.environ, "CHAPTERLIB_CACHE": str(place)}
    plain = {n: v for n, v in alone.get_params().items() if n != "task"}
    given = str(place), json.dumps(plain), json.dumps(rows)

    def run() -> subprocess.Popen:
        command = [sys.executable, "-c", KILLED, *given]
        return subprocess.Popen(command, env=environment)

    killed = run()
    checkpoints = place / "training"
    while killed.poll() is None and not list(checkpoints.glob("*/checkpoint-5/*.json")):
        time.sleep(0.002)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (place / "chapterlib.json").exists()
    assert run().wait() == 0
    alone.fit(*rows).save(tmp_path / "alone")
    expected = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    found = load_file(place / "adapter_model.safetensors")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
