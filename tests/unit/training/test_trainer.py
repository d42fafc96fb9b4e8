"""Orders that hang on the epoch alone, whole checkpoints, clear errors, randomness."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from hypothesis import given, strategies as st
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models.loading import quiet
from chapterlib.models.quantization import keep_layout, quantization_config
from chapterlib.training.trainer import (
    MANIFEST,
    EpochOrder,
    TrainingError,
    digests,
    explained,
    last_checkpoint,
    own_randomness,
)


def checkpoint(folder: Path, step: int, text: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    state = json.dumps({"global_step": step}) if text is None else text
    (path / "trainer_state.json").write_text(state)
    (path / MANIFEST).write_text(json.dumps(digests(path)))
    return path


@pytest.mark.filterwarnings("ignore:the checkpoint")
def test_the_last_whole_checkpoint_counts(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 9)
    whole = checkpoint(tmp_path, 10)
    (checkpoint(tmp_path, 11) / MANIFEST).unlink()  # killed while writing
    (checkpoint(tmp_path, 12) / "trainer_state.json").write_text("{}")
    (checkpoint(tmp_path, 13) / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-14").mkdir()
    assert last_checkpoint(tmp_path) == whole


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    (checkpoint(tmp_path, 2) / MANIFEST).write_text("[")
    with pytest.warns(RuntimeWarning, match="checkpoint-2 is not whole"):
        assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["cuda", "python", "windows", "linux"],
)
def test_running_out_of_memory_names_the_remedies(error: Exception) -> None:
    with (
        pytest.raises(TrainingError, match=r"while training: halve batch_size"),
        explained("training"),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explained("training"):
        raise RuntimeError("shapes differ")


def test_randomness_is_seeded_inside_and_untouched_outside() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = [draw() for _ in range(2)]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    found = [draw()]
    for seed in (0, 0):
        with own_randomness(seed):
            inside = float(torch.rand(1))
            random.seed(5)
            np.random.seed(5)  # noqa: NPY002
    torch.testing.assert_close(
        inside, float(torch.rand(1, generator=torch.Generator().manual_seed(0)))
    )
    assert [*found, draw()] == expected


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
    by_length=st.booleans(),
)
def test_an_order_holds_every_row_once(
    lengths: list[int], batch: int, seed: int, by_length: bool
) -> None:
    order = EpochOrder(lengths, batch, seed, by_length=by_length)
    assert len(order) == len(lengths)
    assert sorted(order) == list(range(len(lengths)))
    again = EpochOrder(lengths, batch, seed, by_length=by_length)
    assert list(again) == list(order)
    order.set_epoch(3)
    again.set_epoch(3)
    assert list(again) == list(order)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(1, 101))
    order = EpochOrder(lengths, 5)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    assert list(EpochOrder(lengths, 5, seed=1)) != first


def test_batches_of_like_length_need_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 120, 480)

    def padded(by_length: bool) -> int:
        order = list(EpochOrder(lengths, 16, by_length=by_length))
        parts = [lengths[order[i : i + 16]] for i in range(0, 480, 16)]
        return sum(len(part) * int(part.max()) for part in parts)

    assert padded(True) < 1.1 * lengths.sum() < padded(False)


def test_rows_come_in_the_order_of_the_library_s_own_trainer() -> None:
    plain = SeedableRandomSampler(range(23), generator=torch.Generator(), data_seed=5)  # type: ignore[arg-type]
    order = EpochOrder([1] * 23, 4, seed=5, by_length=False)
    for epoch in range(3):
        plain.set_epoch(epoch)
        order.set_epoch(epoch)
        assert list(order) == list(plain)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_script_of_library_objects_gives_the_same_losses(
    method: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """Chapter 8 shows the script; here it runs on a model of random weights."""
    texts = [f"{w} on day {i}" for i in range(8) for w in ("a team wins", "rates fall")]
    labels = [1, 2] * 8
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = tokenizer.eos_token
    options = {"quantization_config": quantization_config("float32", "cpu")}
    with quiet():
        set_seed(3)
        network = AutoModelForSequenceClassification.from_pretrained(
            tiny_llama,
            num_labels=2,
            dtype=torch.float32,
            device_map="cpu",
            **(options if method == "qlora" else {}),
        )
        network.config.pad_token_id = tokenizer.pad_token_id
        network = prepare_model_for_kbit_training(
            keep_layout(network), use_gradient_checkpointing=False
        )
        names = ["q_proj", "k_proj", "v_proj", "o_proj"]
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=4,
            lora_alpha=8,
            lora_dropout=0.1,
            target_modules=names,
        )
        set_seed(3)
        trainer = Trainer(
            get_peft_model(network, config),
            TrainingArguments(
                str(tmp_path),
                per_device_train_batch_size=4,
                num_train_epochs=2,
                learning_rate=1e-2,
                weight_decay=0.01,
                save_strategy="no",
                logging_steps=1,
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                seed=3,
            ),
            train_dataset=Dataset.from_dict(
                {**tokenizer(texts), "labels": [label - 1 for label in labels]}
            ),
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    ours = FinetunedClassifier(
        method,  # type: ignore[arg-type]
        model=tiny_llama,
        template="{text}",
        r=4,
        alpha=8,
        dropout=0.1,
        learning_rate=1e-2,
        batch_size=4,
        epochs=2,
        group_by_length=False,
        resume=False,
        progress=False,
        dtype="float32",
        seed=3,
    ).fit(texts, labels)
    theirs = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    found = [row["loss"] for row in ours.history_ if "loss" in row]
    assert len(theirs) == len(found) == 8
    np.testing.assert_allclose(found, theirs, atol=1e-5)
