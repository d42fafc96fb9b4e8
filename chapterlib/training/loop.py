"""One run of finetuning from texts to a trained network, resumable at any step."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from sklearn.model_selection import train_test_split
from transformers import PreTrainedTokenizerBase

from chapterlib._logging import quiet
from chapterlib.models import devices, loading
from chapterlib.models.batching import Encoder
from chapterlib.settings import get_settings
from chapterlib.training import adapters
from chapterlib.training.adapters import Options
from chapterlib.training.prefix import FrozenPrefix
from chapterlib.training.trainer import (
    TrainingError,
    curve,
    explained,
    last_checkpoint,
    make_trainer,
    own_randomness,
    step_of,
)

# They change how a run is watched, where it is kept or what its outputs are called, not
# what comes out of it.
NOT_IDENTITY = (
    *("progress", "checkpoints", "resume", "cache_prefix"),
    *("task", "label_names"),
)


COUNT: Any = Integral, lambda n: n > 0, "a whole number of at least 1"
POSITIVE: Any = Real, lambda x: 0 < x < math.inf, "a number above 0"
SHARE: Any = Real, lambda x: 0 <= x < 1, "a share, from 0 to below 1"
LIMITS = {
    **dict.fromkeys(("r", "batch_size", "accumulate", "max_length"), COUNT),
    **dict.fromkeys(("patience", "checkpoint_steps"), COUNT),
    **dict.fromkeys(("alpha", "epochs", "learning_rate"), POSITIVE),
    **dict.fromkeys(("dropout", "validation", "warmup"), SHARE),
    "weight_decay": (Real, lambda x: 0 <= x < math.inf, "a number of at least 0"),
    "seed": (Integral, lambda n: n >= 0, "a whole number of at least 0"),
}


class Trained(NamedTuple):
    """A trained network and all that belongs to it."""

    network: Any  # PreTrainedModel or PeftModel, in evaluation mode
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    source: loading.ModelSource  # of the model that training started from
    history: list[dict[str, float]]
    trainable_parameters: int
    size_bytes: int
    cut_rows: int
    resumed_from: int = 0


def run(
    options: Options,
    texts: Sequence[str],
    targets: npt.NDArray[np.int64],
    label_names: Sequence[str],
) -> Trained:
    """Train on n texts, or finish the same run that was interrupted.

    `targets` [n] are places in `label_names` [k]. Raises as `FinetunedClassifier.fit`.
    """
    check_options(options)
    device, dtype = device_and_dtype(options["device"], options["dtype"])
    seed = options["seed"]
    source = loading.resolve(options["model"])
    folder = _run_folder(options, source.sha256, texts, targets)
    with ExitStack() as stack:
        stack.enter_context(explained("training", folder))
        if is_main():
            stack.enter_context(_alone(folder))
        last = last_checkpoint(folder) if options["resume"] else None
        stack.enter_context(own_randomness(seed))
        stack.enter_context(quiet())
        base = adapters.load_base(options, label_names, device, dtype)
        tokenizer, network = base
        encoder = make_encoder(options, base)
        ids, cut = encoder(texts), encoder.cut
        train, held_out = _split(options, ids, targets)
        prefix = _install_prefix(options, network, source.sha256, dtype)
        try:
            if options["head_init"] == "probe":
                with arithmetic(options):
                    adapters.probe_head(
                        network, train["input_ids"][:], train["labels"][:], seed
                    )
            trained = adapters.make_trainable(options, network)
            trainer = make_trainer(
                options, trained, tokenizer, train, held_out, folder, device, dtype
            )
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            if prefix is not None:
                prefix.remove()
        if trainer.is_fsdp_enabled:
            trained = _unsharded(options, trained, label_names, device)
        trainer.accelerator.wait_for_everyone()  # another may still read the best one
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
    weights = adapters.trainable(trained).values()
    return Trained(
        network=trained.eval(),
        tokenizer=tokenizer,
        encoder=encoder,
        source=source,
        history=curve(trainer.state.log_history),
        trainable_parameters=sum(p.numel() for p in weights),
        size_bytes=sum(p.numel() * p.itemsize for p in weights),
        cut_rows=cut,
        resumed_from=step_of(last) if last else 0,
    )


def check_options(options: Options) -> None:
    """Raise ValueError where a parameter is out of range, naming it."""
    choices = {"method": adapters.METHODS, "head_init": ("random", "probe")}
    for name, known in choices.items():
        if options[name] not in known:
            raise ValueError(
                f"{name} is {options[name]!r}: choose one of {', '.join(known)}"
            )
    for name, value in options.items():
        kind, fits, what = LIMITS.get(name, (object, None, ""))
        good = isinstance(value, kind) and not isinstance(value, bool)
        if fits and value is not None and not (good and fits(value)):
            raise ValueError(f"{name} is {value!r}: give {what}")
    if options["patience"] is not None and not options["validation"]:
        raise ValueError(
            "patience needs held-out rows to judge by: set validation as well, say 0.1"
        )


def device_and_dtype(
    device: str | torch.device | None, dtype: str | torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Device of this process, and the type that the layers compute in."""
    place, kind = devices.device_and_dtype(device, dtype)
    if place.type == "cuda" and "LOCAL_RANK" in os.environ:
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    if place.type == "cpu" and kind == torch.float16:
        raise ValueError(
            "training in float16 needs a GPU: set dtype to 'bfloat16' or 'float32', or "
            "leave it out"
        )
    return place, kind


def arithmetic(options: Options) -> torch.autocast:
    """Context in which the network predicts with the numbers that it was trained with.

    Weights that are trained whole are kept in float32; training casts them to the type
    that is fast here as it goes, and so does this.
    """
    device, dtype = device_and_dtype(options["device"], options["dtype"])
    narrowed = options["method"] == "full" and dtype != torch.float32
    return torch.autocast(device.type, dtype if narrowed else None, enabled=narrowed)


def make_encoder(options: Options, base: loading.LoadedModel) -> Encoder:
    """Build the encoder of the template, held to the model's context."""
    return Encoder(
        base.tokenizer,
        options["template"],
        options["max_length"],
        getattr(base.model.config, "max_position_embeddings", None),
    )


def is_main() -> bool:
    """Whether this process is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def _unsharded(
    options: Options, sharded: Any, names: Sequence[str], device: torch.device
) -> Any:
    """Load the network anew, whole, and give it the weights that were trained.

    In the type that the device is fast in, since a whole one in float32 may be more
    than fits; the processes after the first keep their shards.
    """
    state = adapters.gathered(sharded)
    if not is_main():
        return sharded
    dtype = devices.pick_dtype(device)
    fresh = adapters.load_base(options, names, device, dtype)
    network = adapters.make_trainable(options, fresh.model)
    network.load_state_dict(state, strict=False)
    return network


def _split(
    options: Options, ids: list[list[int]], targets: npt.NDArray[np.int64]
) -> tuple[Dataset, Dataset | None]:
    share = options["validation"]
    if not share:
        return _dataset(ids, targets), None
    try:
        kept, held, *labels = train_test_split(
            ids,
            targets,
            test_size=share,
            stratify=targets,
            random_state=options["seed"],
        )
    except ValueError as error:
        raise ValueError(
            f"validation={share} of {len(ids)} rows leaves a class without a row on "
            "one side: give more rows, another share, or 0"
        ) from error
    return _dataset(kept, labels[0]), _dataset(held, labels[1])


def _dataset(ids: list[list[int]], labels: npt.NDArray[np.int64]) -> Dataset:
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _install_prefix(
    options: Options, network: Any, sha256: str, dtype: torch.dtype
) -> FrozenPrefix | None:
    only_head = options["method"] == "head"
    depth = int(network.config.num_hidden_layers)
    first = adapters.layer_number(options["first_layer"], depth)
    layers = depth if only_head else first
    # What reads the disk can't be compiled.
    if not layers or not options["cache_prefix"] or options["compile_model"]:
        return None
    # All that can change a state, the arithmetic included.
    weights = network.base_model.embed_tokens.weight
    quantized = options["method"] == "qlora"
    types = (weights.dtype, dtype, weights.device.type)
    key = (sha256, layers, only_head, quantized, types)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = get_settings().cache / "prefixes"
    if options["cache_prefix"] is not True:
        folder = Path(options["cache_prefix"])
    return FrozenPrefix(network, layers, folder / f"{name}.sqlite", only_last=only_head)


def _run_folder(
    options: Options, sha256: str, texts: Sequence[str], targets: npt.NDArray[np.int64]
) -> Path:
    """Folder of the checkpoints of this very run: its options, model and rows."""
    if options["checkpoints"] is not None:
        return Path(options["checkpoints"]).expanduser().absolute()
    known = {n: repr(options[n]) for n in sorted(options) if n not in NOT_IDENTITY}
    digest = hashlib.sha256(json.dumps([sha256, known]).encode())
    for text, target in zip(texts, targets.tolist(), strict=True):
        digest.update(f"{target}:{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return get_settings().cache / "training" / digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, so that no other process trains into it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            yield
    except Timeout as error:
        raise TrainingError(
            f"the same run is under way in another process (its checkpoints are in "
            f"{folder}): wait for it, or set checkpoints to another folder"
        ) from error
