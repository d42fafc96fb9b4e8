"""Weights of 4 bits: how to ask for them, whether they work here, what they weigh.

The format is NF4 with double quantization (Dettmers et al. 2023, "QLoRA",
https://arxiv.org/abs/2305.14314), computed by ``bitsandbytes`` on GPUs and CPUs alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from chapterlib._logging import quiet
from chapterlib.models.devices import device_and_dtype

# What stays as it is: the output layers of language models and of classifiers. They
# are small, and a new one has to be trained, which 4-bit weights can't be.
HEADS = ("lm_head", "embed_out", "score", "classifier")

ModelT = TypeVar("ModelT", bound=torch.nn.Module)


class QuantizationError(RuntimeError):
    """Weights of 4 bits can't be used on this machine."""


def quantization_config(
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> BitsAndBytesConfig:
    """Describe NF4 with double quantization, as ``from_pretrained`` wants it.

    Every linear layer is quantized but the output layer or the head. The type in which
    unpacked weights are multiplied, and the device, are by default those of
    `pick_dtype` and `pick_device`. QuantizationError if ``bitsandbytes`` fails there.
    """
    device, compute = device_and_dtype(device, dtype)
    check(device)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=list(HEADS),
    )


def check(device: torch.device) -> None:
    """Quantize a few numbers on a device; `QuantizationError` says what is amiss."""
    if reason := _trouble(str(device)):
        raise QuantizationError(
            f"4-bit weights don't work on {device} here: {reason}\nInstall or update "
            "bitsandbytes (`pip install -U bitsandbytes`), or set "
            "CHAPTERLIB_DEVICE=cpu. Without it, load the model unquantized (leave out "
            "`quantization`) and fine-tune with method 'lora' instead of 'qlora': the "
            "same recipe, with more memory."
        )


def keep_layout(model: ModelT) -> ModelT:
    """Keep ``bitsandbytes`` from repacking a fresh 4-bit model's weights, in place."""
    # On CPUs with AVX-512 BF16 it rewrites each layer the first time that it runs in
    # evaluation mode. The new layout has no backward pass (a model that was evaluated
    # once would train on without gradients), undoes double quantization, and rounds
    # differently.
    for _, layer in quantized_layers(model):
        layer.__dict__["support_avx512bf16_for_cpu"] = False
    return model


def quantized_layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield name and module of each layer that holds 4-bit weights."""
    for name, layer in model.named_modules():
        if type(getattr(layer, "weight", None)).__name__ == "Params4bit":
            yield name, layer


def weight_bytes(model: PreTrainedModel | torch.nn.Module) -> int:
    """Bytes that a model's weights take, with all that is needed to unpack them.

    Shared parameters count once; of 4-bit weights also their scales and tables, which
    ``get_memory_footprint`` leaves out. `memory` predicts it without the weights.
    """
    sizes: dict[int, int] = {}
    for parameter in model.parameters():
        for tensor in (parameter, *_tensors(getattr(parameter, "quant_state", None))):
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())


def _tensors(state: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a quantization state: its scales, and theirs in turn."""
    for value in vars(state).values() if state is not None else ():
        if isinstance(value, torch.Tensor):
            yield value
        elif hasattr(value, "absmax"):
            yield from _tensors(value)


@lru_cache(maxsize=8)
def _trouble(device: str) -> str:
    """Why 4-bit weights don't work on a device; "" where they do."""
    try:
        with quiet():
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit

            ones = torch.ones(64, 64, device=device)
            packed, state = quantize_4bit(
                ones, quant_type="nf4", compress_statistics=True
            )
            if not torch.allclose(dequantize_4bit(packed, state), ones):
                return "bitsandbytes computes wrong numbers."
    except Exception as error:
        # Missing packages, missing libraries, unknown devices: each raises its own.
        lines = str(error).strip().splitlines() or [repr(error)]
        return f"{type(error).__name__}: {lines[0]}"
    return ""
