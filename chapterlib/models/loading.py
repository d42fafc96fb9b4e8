"""Load a causal language model for generation, hidden states or classification.

The model is the embedded one, a local folder, or an id on the Hugging Face Hub; the
settings name it. What comes back are plain ``transformers`` objects.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from chapterlib._logging import quiet as quiet
from chapterlib.models import embedded
from chapterlib.models.devices import device_and_dtype
from chapterlib.models.quantization import check, keep_layout, quantization_config
from chapterlib.settings import get_settings

Head = Literal["generate", "features", "classify"]
CLASSES: dict[Head, Any] = {
    "generate": AutoModelForCausalLM,
    "features": AutoModel,
    "classify": AutoModelForSequenceClassification,
}

# What makes a folder this model: weights, configuration, tokenizer.
MODEL_FILES = (
    *("model*.safetensors*", "pytorch_model*.bin*", "adapter_model.safetensors"),
    *("config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.tiktoken"),
    *("vocab*", "merges.txt", "*.model", "chat_template*"),
)

# Tokens that model makers reserve: never part of a text, so safe for padding.
PAD_CANDIDATES = (
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|padding|>",
    "<pad>",
    "[PAD]",
    "<unk>",
)


class ModelError(RuntimeError):
    """A model could not be found or loaded."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from, and which one it is exactly."""

    name: str  # for tables
    location: str  # what `from_pretrained` takes: a folder or a Hub id
    sha256: str  # of the GGUF file or of a folder's model; or the Hub's commit
    revision: str = "main"  # of the Hub: that commit


class LoadedModel(NamedTuple):
    """Tokenizer and model, ready for use: ``tokenizer, model = models.load(...)``."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel


def load(
    head: Head = "generate",
    model: str | Path | None = None,
    *,
    labels: list[str] | tuple[str, ...] | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Literal["nf4"] | BitsAndBytesConfig | None = None,
    seed: int = 0,
    **options: Any,
) -> LoadedModel:
    """Load tokenizer and model.

    Parameters
    ----------
    head : {"generate", "features", "classify"}
        What stands on the transformer: the language-modeling head, none (hidden
        states), or a new linear layer with one output a label.
    model : str or path, optional
        "embedded", a folder, or a Hub id; by default the setting ``CHAPTERLIB_MODEL``.
    labels : sequence of str, optional
        Label names in the order of their ids; needed for "classify" alone.
    device, dtype : optional
        By default those of `pick_device` and `pick_dtype`.
    quantization : "nf4" or transformers.BitsAndBytesConfig, optional
        Load the linear layers in 4 bits: "nf4" is `quantization_config` for the device
        and type. Embeddings, norms and the head stay in `dtype`.
    seed : int
        Of the new classification head.
    **options
        Handed to ``from_pretrained``.

    Returns
    -------
    LoadedModel
        In evaluation mode, with one pad token in tokenizer and config.

    Raises
    ------
    ModelError, QuantizationError
        If the model can't be found or loaded; 4-bit weights don't work on the device.
    """
    if head not in CLASSES:
        raise ValueError(f"head is {head!r}: choose one of {', '.join(CLASSES)}")
    if head == "classify":
        if not labels:
            raise ValueError("head 'classify' needs labels: hand over their names")
        options["num_labels"] = len(labels)
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {name: i for i, name in enumerate(labels)}
    source = resolve(model)
    options.setdefault("revision", source.revision)
    device, options["dtype"] = device_and_dtype(device, dtype)
    if quantization is not None:
        config = _as_config(quantization, options["dtype"], device)
        options["quantization_config"] = config
        options.setdefault("device_map", {"": device})
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = AutoTokenizer.from_pretrained(
                source.location, revision=options["revision"]
            )
            network = CLASSES[head].from_pretrained(source.location, **options)
    except (OSError, ValueError) as error:
        raise ModelError(_explain(source.location, error)) from error
    set_pad_token(tokenizer, network)
    if "quantization_config" not in options and "device_map" not in options:
        network = network.to(device)
    return LoadedModel(tokenizer, keep_layout(network).eval())


def resolve(model: str | Path | None = None) -> ModelSource:
    """Find a model, given as for `load`, and its identity, without loading its weights.

    A Hub id may name a revision: ``"owner/name@commit"``.
    ModelError if a folder holds no model, or the Hub has none of that name.
    """
    name = str(model if model is not None else get_settings().model)
    if name == "embedded":
        folder = embedded.model_folder()
        return ModelSource(embedded.TITLE, str(folder), embedded.GGUF_SHA256)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(
                f"the folder {path} holds no config.json, so no model: name the folder "
                "that save_pretrained wrote"
            )
        return ModelSource(path.resolve().name, str(path), _folder_sha256(path))
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"there is no folder {path}: check CHAPTERLIB_MODEL")
    name, _, revision = name.partition("@")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise ModelError(_explain(name, error)) from error
    commit = getattr(config, "_commit_hash", None)
    identity = commit or hashlib.sha256(config.to_json_string().encode()).hexdigest()
    return ModelSource(name, name, identity, commit or revision or "main")


def set_pad_token(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give tokenizer and model one pad token, without a new row of embeddings."""
    # Where there is none (Llama 3), a reserved token of the vocabulary serves. The
    # end-of-text token comes last: as padding it would hide real ends of text from a
    # loss that skips padding.
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        known = (token for token in PAD_CANDIDATES if token in vocabulary)
        tokenizer.pad_token = next(known, tokenizer.eos_token)
    if tokenizer.pad_token is None:
        raise ModelError(
            "the tokenizer has neither a pad nor an end-of-text token: set "
            "tokenizer.pad_token to a token that no text contains, and save it"
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _as_config(
    quantization: str | BitsAndBytesConfig, dtype: torch.dtype, device: torch.device
) -> BitsAndBytesConfig:
    if quantization == "nf4":
        return quantization_config(dtype, device)
    if isinstance(quantization, BitsAndBytesConfig):
        check(device)
        return quantization
    raise ValueError(
        f"quantization is {quantization!r}: give 'nf4', a BitsAndBytesConfig, or None"
    )


def _folder_sha256(folder: Path) -> str:
    files = sorted({file for glob in MODEL_FILES for file in folder.glob(glob)})
    stats = [(file, file.stat()) for file in files if file.is_file()]
    # Size and time are part of the key, so that a folder written anew is read anew.
    return _hash_files(tuple((file, s.st_size, s.st_mtime_ns) for file, s in stats))


@lru_cache(maxsize=32)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.name.encode() + b"\0" + embedded.file_sha256(file).encode())
    return digest.hexdigest()


def _explain(location: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    if Path(location).is_dir():
        return f"the model in {location} can't be loaded: {reason}"
    return (
        f"no model {location!r} could be loaded from the Hub: {reason}\nCheck the id "
        "in CHAPTERLIB_MODEL and the network; a gated model (Llama) also needs "
        "HF_TOKEN and an accepted license. CHAPTERLIB_MODEL=embedded works without "
        "any of it."
    )
