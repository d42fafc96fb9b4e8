"""4-bit weights: the config, what stays unquantized, weight in bytes, errors."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_llama import save_tiny_llama
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from chapterlib.models import loading, quantization
from chapterlib.models.quantization import QuantizationError
from chapterlib.settings import get_settings

LABELS = ("a", "b", "c", "d")
TEXTS = ["the team wins", "shares fall and a bank minister talks of the rate"]


@pytest.fixture(scope="module")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama with several blocks of 64 in each row of weights."""
    return save_tiny_llama(tmp_path_factory.mktemp("wide") / "wide", hidden=128)


@pytest.fixture
def fresh_check() -> Iterator[None]:
    quantization._trouble.cache_clear()
    yield
    quantization._trouble.cache_clear()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_config_is_nf4_with_double_quantization(name: str) -> None:
    config = quantization.quantization_config(name, "cpu")
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == getattr(torch, name)


def test_the_compute_type_is_what_the_machine_is_fast_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CHAPTERLIB_DTYPE")
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(quantization, "check", lambda device: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda native=native, **_: native
        )
        config = quantization.quantization_config(device="cuda")
        assert config.bnb_4bit_compute_dtype == expected
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(
            "chapterlib.models.devices.fast_bf16", lambda fast=fast: fast
        )
        config = quantization.quantization_config(device="cpu")
        assert config.bnb_4bit_compute_dtype == expected


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="no floating-point type"):
        quantization.quantization_config("int3", "cpu")


@pytest.mark.parametrize("head", ["generate", "features", "classify"])
def test_linear_layers_are_quantized_and_heads_are_not(
    tiny_llama: Path, head: loading.Head
) -> None:
    labels = LABELS if head == "classify" else None
    _, model = loading.load(
        head, tiny_llama, labels=labels, dtype="float32", quantization="nf4"
    )
    packed = {name.split(".")[-1] for name, _ in quantization.quantized_layers(model)}
    assert packed == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    whole = [
        name for name, layer in model.named_modules() if type(layer) is torch.nn.Linear
    ]
    assert (
        whole == {"generate": ["lm_head"], "features": [], "classify": ["score"]}[head]
    )
    kept = {p.dtype for p in model.parameters() if p.is_floating_point()}
    assert kept == {torch.float32}


def test_a_config_of_ones_own_is_taken_as_it_is(tiny_llama: Path) -> None:
    own = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="fp4", llm_int8_skip_modules=["v_proj"]
    )
    _, model = loading.load("features", tiny_llama, quantization=own)
    names = [name for name, _ in quantization.quantized_layers(model)]
    assert not any("v_proj" in name for name in names)
    weight: Any = model.get_parameter("layers.0.self_attn.q_proj.weight")
    assert weight.quant_state.quant_type == "fp4"
    assert not weight.quant_state.nested


def test_an_unknown_quantization_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ValueError, match="give 'nf4', a BitsAndBytesConfig, or None"):
        loading.load("features", tiny_llama, quantization="int3")


def test_evaluating_leaves_training_with_gradients(wide_llama: Path) -> None:
    tokenizer, model = loading.load(
        "classify", wide_llama, labels=LABELS, dtype="float32", quantization="nf4"
    )
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    before = quantization.weight_bytes(model)
    with torch.inference_mode():
        evaluated = model(**batch).logits
    assert quantization.weight_bytes(model) == before
    model.train()
    torch.testing.assert_close(evaluated, model(**batch).logits, atol=1e-5, rtol=0)

    adapted = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"])
    ).eval()
    with torch.inference_mode():
        adapted(**batch)
    adapted.train()
    adapted(**batch, labels=torch.tensor([0, 1])).loss.backward()
    changes = {n: p.grad for n, p in adapted.named_parameters() if "lora_B" in n}
    assert len(changes) == 4
    assert all(grad is not None and grad.norm() > 0 for grad in changes.values())


def test_narrow_matrices_run_in_evaluation_mode(tiny_llama: Path) -> None:
    tokenizer, model = loading.load("features", tiny_llama, quantization="nf4")
    with torch.inference_mode():
        states = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state
    assert states.isfinite().all()


def test_a_saved_4_bit_model_gives_the_same_answers(
    wide_llama: Path, tmp_path: Path
) -> None:
    tokenizer, model = loading.load(
        "classify", wide_llama, labels=LABELS, dtype="float32", quantization="nf4"
    )
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**batch).logits
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = loading.load("classify", tmp_path, labels=LABELS, dtype="float32").model
    assert quantization.weight_bytes(again) == quantization.weight_bytes(model)
    with torch.inference_mode():
        torch.testing.assert_close(again(**batch).logits, expected)


def test_keep_layout_mends_models_loaded_by_other_means(wide_llama: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(
        wide_llama,
        num_labels=4,
        device_map={"": "cpu"},
        quantization_config=quantization.quantization_config("float32", "cpu"),
    )
    assert quantization.keep_layout(model) is model
    layers = [layer for _, layer in quantization.quantized_layers(model)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_weight_bytes_counts_shared_weights_once(tiny_llama: Path) -> None:
    model = loading.load("generate", tiny_llama, dtype="float32").model
    assert quantization.weight_bytes(model) == 4 * model.num_parameters()
    model.lm_head.weight = model.get_input_embeddings().weight
    assert quantization.weight_bytes(model) == 4 * model.num_parameters()


def test_weight_bytes_counts_scales_and_tables(wide_llama: Path) -> None:
    model = loading.load(
        "features", wide_llama, dtype="bfloat16", quantization="nf4"
    ).model
    layers: list[Any] = [layer for _, layer in quantization.quantized_layers(model)]
    scales = sum(layer.weight.quant_state.absmax.numel() for layer in layers)
    packed = sum(layer.weight.numel() for layer in layers)
    plain = sum(p.numel() for p in model.parameters() if p.is_floating_point())
    least = 2 * plain + packed + scales
    tables = len(layers) * (4 * 16 + 4 * 256 + 4)  # two code books, one offset
    assert scales == 2 * packed / 64
    assert least + tables < quantization.weight_bytes(model) <= least + tables + 8 * 14


@pytest.mark.usefixtures("fresh_check")
def test_a_missing_package_is_an_error_with_remedies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(QuantizationError) as caught:
        quantization.quantization_config(device="cpu")
    for part in ("ModuleNotFoundError", "pip install -U bitsandbytes", "'lora'"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("fresh_check")
def test_wrong_numbers_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tiny_llama: Path
) -> None:
    import bitsandbytes.functional as functional

    monkeypatch.setattr(functional, "dequantize_4bit", lambda q, s: torch.zeros(64, 64))
    with pytest.raises(QuantizationError, match="wrong numbers"):
        loading.load("features", tiny_llama, quantization=BitsAndBytesConfig())


@pytest.mark.usefixtures("fresh_check")
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_an_error() -> None:
    with pytest.raises(QuantizationError, match="don't work on cuda here") as caught:
        quantization.check(torch.device("cuda"))
    assert "CHAPTERLIB_DEVICE=cpu" in str(caught.value)
    quantization.check(torch.device("cpu"))


@pytest.mark.slow
def test_the_missing_kernel_is_not_announced() -> None:
    code = "import chapterlib, bitsandbytes, peft"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "gemm_4bit_forward" not in done.stdout + done.stderr


def test_other_lines_of_that_logger_still_show(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        log.warning("Failed to load CPU gemm_4bit_forward from a place: %s", "no")
        log.warning("something else")
    assert [line.message for line in caplog.records] == ["something else"]


@pytest.mark.slow
def test_the_embedded_model_shrinks_to_two_fifths(user_cache: Path) -> None:
    assert get_settings().cache == user_cache
    sizes = {}
    for quantized in (None, "nf4"):
        model = loading.load(
            "classify",
            "embedded",
            labels=LABELS,
            dtype="bfloat16",
            quantization=quantized,
        ).model
        sizes[quantized] = quantization.weight_bytes(model) / 2**20
    assert 256 < sizes[None] < 258
    assert 104 < sizes["nf4"] < 108
