"""How many weights and bytes a Llama-type model has, reckoned from its config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from transformers import LlamaConfig

from chapterlib.models.devices import as_dtype

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
TYPES = ("llama", "mistral")
Method = Literal["lora", "qlora", "full", "head"]
METHODS: tuple[Method, ...] = get_args(Method)

# Of bitsandbytes' NF4: weights that share a scale, scales that share one in turn, and
# what each layer stores once (the code books of both steps, and an offset).
BLOCK, SCALE_BLOCK = 64, 256
TABLES = 4 * 16 + 4 * 256 + 4


def _llama(*sizes: int, **options: Any) -> LlamaConfig:
    names: tuple[str, ...] = ("hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "vocab_size")
    options |= zip(names, sizes, strict=True)
    return LlamaConfig(**options)


# As in `config.json` of meta-llama/Meta-Llama-3-8B, meta-llama/Llama-3.2-1B and
# HuggingFaceTB/SmolLM2-135M on the Hugging Face Hub.
PRESETS = {
    "Llama-3-8B": _llama(4096, 14336, 32, 32, 8, 128256),
    "Llama-3.2-1B": _llama(2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True),
    "SmolLM2-135M": _llama(576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
}


def architecture(config: Any) -> Any:
    """Return the config of a Llama-type model, also by a name of `PRESETS`."""
    if isinstance(config, str):
        if config not in PRESETS:
            raise ValueError(
                f"no preset {config!r}: choose one of {', '.join(PRESETS)}, or hand "
                "over AutoConfig.from_pretrained(...) of the model"
            )
        return PRESETS[config]
    if (kind := getattr(config, "model_type", None)) not in TYPES:
        raise ValueError(
            f"a config of type {kind!r} can't be counted here, only those of "
            f"{' and '.join(TYPES)}: count another model with model.num_parameters()"
        )
    return config


def shapes(config: Any) -> dict[str, tuple[int, int]]:
    """Tell outputs and inputs of each linear layer of a block, by name."""
    d, ff = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or d // heads
    q, kv = heads * head, (config.num_key_value_heads or heads) * head
    sizes = ((q, d), (kv, d), (kv, d), (d, q), (ff, d), (ff, d), (d, ff))
    return dict(zip(LINEAR_LAYERS, sizes, strict=True))


def parameters(config: Any, labels: int | None = None) -> int:
    """Count the weights of a model.

    Parameters
    ----------
    config : str or transformers.PreTrainedConfig
        A name of `PRESETS`, or a config of a Llama-type model (Llama, Mistral).
    labels : int, optional
        Classes of a sequence classifier, whose head replaces the output layer; by
        default the model is a language model.
    """
    a = architecture(config)
    packed = sum(math.prod(shape) for shape in shapes(a).values())
    return a.num_hidden_layers * packed + unpacked(a, labels)


def unpacked(a: Any, labels: int | None = None) -> int:
    """Count what 4-bit models keep whole: embeddings, norms, biases, output or head."""
    d = a.hidden_size
    biased: tuple[str, ...] = ATTENTION if getattr(a, "attention_bias", False) else ()
    biased += LINEAR_LAYERS[4:] if getattr(a, "mlp_bias", False) else ()
    block = 2 * d + sum(shapes(a)[name][0] for name in biased)
    embeddings = a.vocab_size * d
    head = labels * d if labels else 0 if a.tie_word_embeddings else embeddings
    return embeddings + a.num_hidden_layers * block + d + head


@dataclass(frozen=True)
class Memory:
    """Bytes that training keeps for as long as it lasts."""

    weights: int  # of the model, with scales and tables where it is quantized
    adapter: int = 0  # low-rank matrices, the copy of the head
    gradients: int = 0
    optimizer: int = 0
    trainable: int = 0  # numbers that are trained, not bytes

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.adapter + self.gradients + self.optimizer


def lora_parameters(
    config: Any,
    r: int = 16,
    target_modules: Sequence[str] | Literal["all-linear"] = ATTENTION,
    layers: int | None = None,
) -> int:
    """Count the weights of a LoRA adapter, without a head.

    Parameters
    ----------
    config
        As for `parameters`.
    r : int
        Rank.
    target_modules : sequence of str or "all-linear"
        Names out of `LINEAR_LAYERS`, as for `peft.LoraConfig`.
    layers : int, optional
        How many layers are adapted; by default all.

    Notes
    -----
    A matrix of shape [out, in] gets r (out + in) weights: E. J. Hu et al. (2021),
    "LoRA", section 4.1, https://arxiv.org/abs/2106.09685.

    Examples
    --------
    >>> lora_parameters("Llama-3-8B", r=16, target_modules=["q_proj", "v_proj"])
    6815744
    """
    a = architecture(config)
    if isinstance(target_modules, str) and target_modules != "all-linear":
        target_modules = [target_modules]
    names = LINEAR_LAYERS if target_modules == "all-linear" else set(target_modules)
    if not names or not set(names) <= set(LINEAR_LAYERS):
        raise ValueError(
            f"target_modules is {target_modules!r}: give 'all-linear' or some of "
            f"{', '.join(LINEAR_LAYERS)}"
        )
    depth = a.num_hidden_layers if layers is None else layers
    if r < 1 or not 1 <= depth <= a.num_hidden_layers:
        raise ValueError(
            f"r={r}, layers={layers}: the rank is at least 1, and the model has "
            f"{a.num_hidden_layers} layers"
        )
    return depth * sum(r * sum(shapes(a)[name]) for name in names)


def bits_per_weight(block: int = BLOCK, *, double: bool = True) -> float:
    """Bits that a weight takes in NF4, with its share of the scales.

    `block` weights share a scale, of 32 bits; or, if `double`, of 8 bits, with one of
    32 bits for each 256 of them.

    Notes
    -----
    T. Dettmers et al. (2023), "QLoRA", section 3, https://arxiv.org/abs/2305.14314:
    double quantization saves 0.373 bits a weight at blocks of 64.

    Examples
    --------
    >>> bits_per_weight(double=False), round(bits_per_weight(), 3)
    (4.5, 4.127)
    """
    if block < 1:
        raise ValueError(f"block={block}: a block holds at least one weight")
    return 4 + (8 + 32 / SCALE_BLOCK if double else 32) / block


def memory(
    config: Any,
    method: Method | None = None,
    *,
    labels: int | None = None,
    quantization: Literal["nf4"] | None = None,
    dtype: str | torch.dtype = "bfloat16",
    trained_dtype: str | torch.dtype = "float32",
    r: int = 16,
    target_modules: Sequence[str] | Literal["all-linear"] = ATTENTION,
    layers: int | None = None,
) -> Memory:
    """Bytes of a model at rest, or while a method trains it with AdamW.

    Parameters
    ----------
    config
        As for `parameters`.
    method : {"lora", "qlora", "full", "head"}, optional
        What is trained; by default nothing, as for inference.
    labels : int, optional
        As for `parameters`.
    quantization : "nf4", optional
        Linear layers in NF4 with double quantization, as `models.load` makes them;
        "qlora" implies it. Embeddings, norms, biases and head stay in `dtype`.
    dtype, trained_dtype
        Of the frozen weights; of what is trained, its gradients and both AdamW states.
    r, target_modules, layers
        As for `lora_parameters`.

    Examples
    --------
    >>> round(memory("Llama-3-8B").weights / 1e9, 2)
    16.06
    >>> round(memory("Llama-3-8B", quantization="nf4", labels=4).weights / 1e9, 2)
    4.65
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method is {method!r}: choose one of {', '.join(METHODS)}")
    if method == "head" and not labels:
        raise ValueError("method 'head' needs labels: say how many classes there are")
    if method == "full" and quantization:
        raise ValueError("weights of 4 bits can't be trained: use method 'qlora'")
    a = architecture(config)
    wide, narrow = as_dtype(trained_dtype).itemsize, as_dtype(dtype).itemsize
    if method == "full":
        everything = parameters(a, labels)
        size = wide * everything
        return Memory(size, 0, size, 2 * size, everything)
    if quantization or method == "qlora":
        weights = a.num_hidden_layers * sum(_nf4(*s) for s in shapes(a).values())
        weights += narrow * unpacked(a, labels)
    else:
        weights = narrow * parameters(a, labels)
    trained = (labels or 0) * a.hidden_size if method else 0
    if method in ("lora", "qlora"):
        trained += lora_parameters(a, r, target_modules, layers)
    size = wide * trained
    return Memory(weights, size, size, 2 * size, trained)


def _nf4(out: int, inputs: int) -> int:
    """Bytes of a matrix in NF4 with double quantization."""
    blocks = math.ceil(out * inputs / BLOCK)
    packed = math.ceil(out * inputs / 2)
    return packed + blocks + 4 * math.ceil(blocks / SCALE_BLOCK) + TABLES
