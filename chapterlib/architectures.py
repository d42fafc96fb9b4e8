"""The numbers of a Llama-type model that decide its size, and how many weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ATTENTION",
    "LINEAR_LAYERS",
    "PRESETS",
    "Architecture",
    "architecture",
    "parameters",
    "unpacked",
]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
TYPES = ("llama", "mistral")


@dataclass(frozen=True)
class Architecture:
    """The numbers of a Llama-type model that decide its size.

    Attributes
    ----------
    hidden_size, intermediate_size, num_hidden_layers : int
        Width of the model, width inside an MLP, and depth.
    num_attention_heads, num_key_value_heads, head_dim : int
        Query heads, key and value heads, and the width of one.
    vocab_size : int
    tie_word_embeddings : bool
        Whether the output layer is the embedding matrix once more.
    attention_bias, mlp_bias : bool
        Whether linear layers add a vector.
    source : str
        Where the numbers come from.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    source: str = ""

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each linear layer of a block, by name."""
        d, ff = self.hidden_size, self.intermediate_size
        q = self.num_attention_heads * self.head_dim
        kv = self.num_key_value_heads * self.head_dim
        sizes = ((q, d), (kv, d), (kv, d), (d, q), (ff, d), (ff, d), (d, ff))
        return dict(zip(LINEAR_LAYERS, sizes, strict=True))


# Read in `config.json` of the model's repository on the Hugging Face Hub.
PRESETS = {
    "Llama-3-8B": Architecture(
        4096, 14336, 32, 32, 8, 128, 128256, source="meta-llama/Meta-Llama-3-8B"
    ),
    "Llama-3.2-1B": Architecture(
        2048, 8192, 16, 32, 8, 64, 128256, True, source="meta-llama/Llama-3.2-1B"
    ),
    "SmolLM2-135M": Architecture(
        576, 1536, 30, 9, 3, 64, 49152, True, source="HuggingFaceTB/SmolLM2-135M"
    ),
}


def architecture(config: Any) -> Architecture:
    """Take the numbers out of a config, or look them up by name.

    Parameters
    ----------
    config : str, Architecture or transformers.PreTrainedConfig
        A name of `PRESETS`, or a config of a Llama-type model (Llama, Mistral).

    Raises
    ------
    ValueError
        If the name is unknown, or the config is that of another type of model.
    """
    if isinstance(config, Architecture):
        return config
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
    heads = config.num_attention_heads
    return Architecture(
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        heads,
        config.num_key_value_heads or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.vocab_size,
        config.tie_word_embeddings,
        getattr(config, "attention_bias", False),
        getattr(config, "mlp_bias", False),
        source=str(getattr(config, "name_or_path", "")),
    )


def parameters(config: Any, labels: int | None = None) -> int:
    """Count the weights of a model.

    Parameters
    ----------
    config
        As for `architecture`.
    labels : int, optional
        Classes of a sequence classifier, whose head replaces the output layer; by
        default the model is a language model.
    """
    a = architecture(config)
    packed = sum(math.prod(shape) for shape in a.shapes.values())
    return a.num_hidden_layers * packed + unpacked(a, labels)


def unpacked(a: Architecture, labels: int | None = None) -> int:
    """Count the weights that 4-bit models keep whole: all but the linear layers.

    These are embeddings, norms, biases, and the output layer or head.

    Parameters
    ----------
    a : Architecture
    labels : int, optional
        As for `parameters`.
    """
    d = a.hidden_size
    biased: tuple[str, ...] = ATTENTION if a.attention_bias else ()
    biased += LINEAR_LAYERS[4:] if a.mlp_bias else ()
    block = 2 * d + sum(a.shapes[name][0] for name in biased)
    embeddings = a.vocab_size * d
    head = labels * d if labels else 0 if a.tie_word_embeddings else embeddings
    return embeddings + a.num_hidden_layers * block + d + head
