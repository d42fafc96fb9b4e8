"""Sizes from a config: against torch, peft, bitsandbytes and published numbers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny_llama import save_tiny_llama
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
)

from chapterlib.models import loading, quantization, sizes
from chapterlib.models.sizes import architecture

ATTENTION = list(sizes.ATTENTION)
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "wide-heads": {"head_dim": 24},
    "multi-head": {"num_key_value_heads": None},
}


def small_config(**changes: Any) -> LlamaConfig:
    options = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**{**options, **changes})


def as_config(name: str) -> LlamaConfig:
    return copy.deepcopy(sizes.PRESETS[name])


def weightless(config: Any, labels: int | None = None) -> torch.nn.Module:
    with torch.device("meta"):
        if labels is None:
            return AutoModelForCausalLM.from_config(config)
        config.num_labels = labels
        return AutoModelForSequenceClassification.from_config(config)


def count(model: torch.nn.Module, *, trainable: bool = False) -> int:
    kept = [p for p in model.parameters() if p.requires_grad or not trainable]
    return sum(p.numel() for p in kept)


@pytest.mark.parametrize("labels", [None, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_parameters_agree_with_the_model_itself(shape: str, labels: int | None) -> None:
    config = small_config(**SHAPES[shape])
    assert sizes.parameters(config, labels) == count(weightless(config, labels))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama-3-8B", 8_030_261_248),
        ("Llama-3.2-1B", 1_235_814_400),
        ("SmolLM2-135M", 134_515_008),
    ],
)
def test_presets_have_the_published_sizes(name: str, expected: int) -> None:
    assert sizes.parameters(name) == expected
    # The same numbers make a real model of that size, without its weights.
    config = as_config(name)
    assert count(weightless(config)) == expected
    assert sizes.parameters(name, 4) == count(weightless(config, 4))


def test_mistral_is_of_the_same_type() -> None:
    config = MistralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    assert sizes.parameters(config) == count(weightless(config))


def test_other_types_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'gpt2'.*num_parameters"):
        sizes.parameters(GPT2Config())
    with pytest.raises(ValueError, match="choose one of Llama-3-8B"):
        sizes.parameters("Llama-4-9B")


def test_an_architecture_passes_through() -> None:
    a = architecture(small_config())
    assert architecture(a) is a
    assert sizes.parameters(a) == sizes.parameters(small_config())


@pytest.mark.parametrize(
    ("r", "targets", "expected"),
    [
        (8, ["q_proj", "v_proj"], 3_407_872),
        (16, ["q_proj", "v_proj"], 6_815_744),
        (16, ATTENTION, 13_631_488),
        (16, "all-linear", 41_943_040),
    ],
)
def test_llama_3_8b_has_the_known_adapters(r: int, targets: Any, expected: int) -> None:
    assert sizes.lora_parameters("Llama-3-8B", r, targets) == expected
    config = LoraConfig(r=r, target_modules=targets, task_type=TaskType.CAUSAL_LM)
    adapted = get_peft_model(weightless(as_config("Llama-3-8B")), config)
    assert count(adapted, trainable=True) == expected


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("r", [1, 5, 16])
@pytest.mark.parametrize(
    "targets",
    [["q_proj"], ["v_proj", "o_proj"], ["gate_proj", "down_proj"], "all-linear"],
)
@pytest.mark.parametrize("labels", [None, 4])
def test_adapters_agree_with_peft(
    targets: Any, r: int, layers: int | None, labels: int | None
) -> None:
    config = small_config(head_dim=24)
    task = TaskType.CAUSAL_LM if labels is None else TaskType.SEQ_CLS
    # peft takes no shorthand together with a choice of layers.
    names = list(sizes.LINEAR_LAYERS) if targets == "all-linear" else targets
    lora = LoraConfig(
        r=r,
        target_modules=names if layers else targets,
        task_type=task,
        layers_to_transform=None if layers is None else [1, 2],
    )
    adapted = get_peft_model(weightless(config, labels), lora)
    size = sizes.memory(
        config, "lora", labels=labels, r=r, target_modules=targets, layers=layers
    )
    assert size.trainable == count(adapted, trainable=True)
    head = (labels or 0) * config.hidden_size
    expected = sizes.lora_parameters(config, r, targets, layers) + head
    assert size.trainable == expected


def test_one_target_can_be_named_alone() -> None:
    config = small_config()
    one = sizes.lora_parameters(config, 4, "q_proj")  # type: ignore[arg-type]
    assert one == sizes.lora_parameters(config, 4, ["q_proj"])
    assert one == sizes.lora_parameters(config, 4, ["q_proj", "q_proj"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target_modules": ["c_attn"]}, "give 'all-linear' or some of q_proj"),
        ({"target_modules": []}, "give 'all-linear'"),
        ({"r": 0}, "at least 1"),
        ({"layers": 4}, "has 3 layers"),
        ({"layers": 0}, "has 3 layers"),
    ],
)
def test_impossible_adapters_are_refused(changes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sizes.lora_parameters(small_config(), **changes)


def test_double_quantization_saves_what_the_paper_says() -> None:
    saved = sizes.bits_per_weight(double=False) - sizes.bits_per_weight()
    assert saved == pytest.approx(0.373, abs=5e-4)
    assert sizes.bits_per_weight(32) > sizes.bits_per_weight(64)
    with pytest.raises(ValueError, match="at least one weight"):
        sizes.bits_per_weight(0)


def test_llama_3_8b_weighs_what_is_known() -> None:
    def gigabytes(**options: Any) -> float:
        return sizes.memory("Llama-3-8B", **options).weights / 1e9

    assert gigabytes() == pytest.approx(16.06, abs=0.005)
    assert gigabytes(quantization="nf4") == pytest.approx(5.7, abs=0.05)
    assert gigabytes(quantization="nf4", labels=4) == pytest.approx(4.65, abs=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", ["generate", "classify"])
@pytest.mark.parametrize("hidden", [32, 128])
def test_4_bit_weights_agree_with_bitsandbytes(
    tmp_path: Path, task: loading.Head, hidden: int, dtype: str
) -> None:
    folder = save_tiny_llama(tmp_path / "tiny", hidden=hidden)
    labels = ("a", "b", "c") if task == "classify" else None
    _, model = loading.load(task, folder, labels=labels, dtype=dtype)
    n = len(labels) if labels else None
    plain = sizes.memory(model.config, labels=n, dtype=dtype)
    assert plain.weights == plain.total == quantization.weight_bytes(model)
    _, model = loading.load(
        task, folder, labels=labels, dtype=dtype, quantization="nf4"
    )
    size = sizes.memory(model.config, labels=n, dtype=dtype, quantization="nf4")
    assert size.weights == quantization.weight_bytes(model)


def test_training_memory_agrees_with_torch(tiny_llama: Path) -> None:
    labels = ("a", "b")
    model = loading.load(
        "classify", tiny_llama, labels=labels, dtype="bfloat16", quantization="nf4"
    ).model
    adapted: Any = get_peft_model(
        model, LoraConfig(r=4, target_modules=ATTENTION, task_type=TaskType.SEQ_CLS)
    )
    adapted.base_model.model.score.modules_to_save.float()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = [t for state in optimizer.state.values() for t in state.values()]
    size = sizes.memory(model.config, "qlora", labels=2, r=4, target_modules=ATTENTION)
    assert size.trainable == count(adapted, trainable=True)
    assert size.adapter == sum(p.nbytes for p in trained)
    assert size.weights + size.adapter == quantization.weight_bytes(adapted)
    assert size.gradients == sum(p.grad.nbytes for p in trained)
    # Beside its two moments, AdamW counts the steps of each tensor.
    assert size.optimizer == sum(t.nbytes for t in kept) - 4 * len(trained)
    assert size.total == size.weights + 4 * size.adapter


def test_methods_differ_in_what_they_train() -> None:
    config = small_config()
    n = sizes.parameters(config, 4)
    full = sizes.memory(config, "full", labels=4)
    assert (full.weights, full.adapter, full.total) == (4 * n, 0, 16 * n)
    assert full.trainable == n
    head = sizes.memory(config, "head", labels=4)
    assert head.trainable == 4 * config.hidden_size
    lora = sizes.memory(config, "lora", labels=4, trained_dtype="bfloat16")
    assert lora.adapter == 2 * lora.trainable
    assert lora.weights == sizes.memory(config, labels=4).weights
    assert sizes.memory(config, "qlora").weights < sizes.memory(config).weights
    assert sizes.memory(config).total == sizes.memory(config).weights


def test_impossible_training_is_refused() -> None:
    config = small_config()
    with pytest.raises(ValueError, match="choose one of lora, qlora, full, head"):
        sizes.memory(config, "dora")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs labels"):
        sizes.memory(config, "head")
    with pytest.raises(ValueError, match="use method 'qlora'"):
        sizes.memory(config, "full", quantization="nf4")


@pytest.mark.slow
def test_the_embedded_model_weighs_what_is_computed(user_cache: Path) -> None:
    assert user_cache.is_dir()
    labels = ("a", "b", "c", "d")
    for quantized in (None, "nf4"):
        model = loading.load(
            "classify",
            "embedded",
            labels=labels,
            dtype="bfloat16",
            quantization=quantized,
        ).model
        size = sizes.memory("SmolLM2-135M", labels=4, quantization=quantized)
        assert size.weights == quantization.weight_bytes(model)
