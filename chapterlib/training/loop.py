"""One run of finetuning from texts to a trained network, resumable at any step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from sklearn.model_selection import train_test_split
from transformers import PreTrainedModel

from chapterlib._logging import quiet
from chapterlib.models import loading
from chapterlib.models.batching import Encoder
from chapterlib.models.devices import device_and_dtype as chosen, pick_dtype
from chapterlib.settings import get_settings
from chapterlib.tasks.task import LABEL_NAMES, check_labels
from chapterlib.training import adapters
from chapterlib.training.prefix import FrozenPrefix
from chapterlib.training.trainer import (
    Rows,
    TrainingError,
    curve,
    explained,
    last_checkpoint,
    make_trainer,
    own_randomness,
)

if TYPE_CHECKING:
    from chapterlib.classifiers.finetuned import FinetunedClassifier


# They change how a run is watched or where it is kept, not what comes out of it.
NOT_IDENTITY = ("progress", "checkpoints", "resume", "cache_prefix")


def fit(
    classifier: FinetunedClassifier, texts: Sequence[str], labels: Sequence[int]
) -> FinetunedClassifier:
    """Fit a classifier; see `training.FinetunedClassifier.fit`."""
    check_options(classifier)
    classes, targets = check_labels(texts, labels)
    device, dtype = place(classifier)
    source = loading.resolve(classifier.model)
    folder = _run_folder(classifier, source.sha256, texts, targets)
    with ExitStack() as stack:
        stack.enter_context(own_randomness(classifier.seed))
        stack.enter_context(explained("training"))
        stack.enter_context(quiet())
        if is_main():
            stack.enter_context(_alone(folder))
        tokenizer, network = base = _base(classifier, classes, device, dtype)
        encoder = make_encoder(classifier, base)
        ids, cut = encoder(texts), encoder.cut
        train, held_out = _split(classifier, ids, targets)
        prefix = _install_prefix(classifier, network, source.sha256, dtype)
        try:
            if classifier.head_init == "probe":
                with arithmetic(classifier):
                    adapters.probe_head(
                        network, train.ids, train.labels or [], seed=classifier.seed
                    )
            trained = _trainable(classifier, network)
            trainer = make_trainer(
                trained,
                tokenizer,
                train,
                held_out,
                folder,
                device=device,
                dtype=dtype,
                options=classifier.get_params(),
            )
            last = last_checkpoint(folder) if classifier.resume else None
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            if prefix is not None:
                prefix.remove()
        if trainer.is_fsdp_enabled:
            trained = _unsharded(classifier, trained, classes, device)
        trainer.accelerator.wait_for_everyone()  # another may still read the best one
        if is_main():
            shutil.rmtree(folder, ignore_errors=True)
    weights = adapters.trainable(trained)
    classifier.classes_ = classes
    classifier.tokenizer_, classifier.network_ = tokenizer, trained.eval()
    classifier.encoder_ = encoder
    classifier.history_ = curve(trainer.state.log_history)
    classifier.cut_rows_ = cut
    classifier.resumed_from_ = int(last.name.rpartition("-")[2]) if last else 0
    classifier.trainable_parameters_ = sum(p.numel() for p in weights.values())
    classifier.size_bytes_ = sum(p.numel() * p.itemsize for p in weights.values())
    classifier.source_ = source
    return classifier


def check_options(classifier: FinetunedClassifier) -> None:
    """Raise ValueError where a parameter is out of range, naming it."""
    if classifier.method not in adapters.METHODS:
        raise ValueError(
            f"method is {classifier.method!r}: choose one of "
            f"{', '.join(adapters.METHODS)}"
        )
    if classifier.head_init not in ("random", "probe"):
        raise ValueError(
            f"head_init is {classifier.head_init!r}: choose 'random' or 'probe'"
        )
    for name in ("r", "batch_size", "accumulate", "epochs", "learning_rate"):
        if not getattr(classifier, name) > 0:
            raise ValueError(f"{name} is {getattr(classifier, name)}: it must be > 0")
    if not 0 <= classifier.validation < 1:
        raise ValueError(
            f"validation is {classifier.validation}: give a share of the rows, from 0 "
            "to below 1"
        )
    if classifier.patience is not None and not classifier.validation:
        raise ValueError(
            "patience needs held-out rows to judge by: set validation as well, say 0.1"
        )


def names_of(
    classes: npt.NDArray[np.int64], label_names: Sequence[str] | None
) -> list[str]:
    """Name of each class that was seen, in the order of the head's outputs."""
    names = list(label_names) if label_names is not None else list(LABEL_NAMES)
    if classes.max() < len(names):
        return [names[number] for number in classes]
    if label_names is None:
        return [str(number) for number in classes]
    raise ValueError(
        f"{len(names)} label_names, but a label is {classes.max()}: name every class"
    )


def place(classifier: FinetunedClassifier) -> tuple[torch.device, torch.dtype]:
    """Device of this process, and the type that the layers compute in."""
    device, dtype = chosen(classifier.device, classifier.dtype)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError(
            "training in float16 needs a GPU: set dtype to 'bfloat16' or 'float32', or "
            "leave it out"
        )
    return device, dtype


def arithmetic(classifier: FinetunedClassifier) -> torch.autocast:
    """Context in which the network predicts with the numbers that it was trained with.

    Weights that are trained whole are kept in float32; training casts them to the type
    that is fast here as it goes, and so does this.
    """
    device, dtype = place(classifier)
    narrowed = classifier.method == "full" and dtype != torch.float32
    return torch.autocast(device.type, dtype if narrowed else None, enabled=narrowed)


def make_encoder(classifier: FinetunedClassifier, base: loading.LoadedModel) -> Encoder:
    """Build the encoder of the classifier's template, held to the model's context."""
    return Encoder(
        base.tokenizer,
        classifier.template,
        classifier.max_length,
        getattr(base.model.config, "max_position_embeddings", None),
    )


def is_main() -> bool:
    """Whether this process is the only one, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def _base(
    classifier: FinetunedClassifier,
    classes: npt.NDArray[np.int64],
    device: torch.device,
    dtype: torch.dtype,
) -> loading.LoadedModel:
    return adapters.load_base(
        classifier.method,
        classifier.model,
        names_of(classes, classifier.label_names),
        device=device,
        dtype=dtype,
        seed=classifier.seed,
    )


def _trainable(classifier: FinetunedClassifier, network: PreTrainedModel) -> Any:
    return adapters.make_trainable(
        classifier.method,
        network,
        r=classifier.r,
        alpha=classifier.alpha,
        dropout=classifier.dropout,
        target_modules=classifier.target_modules,
        first_layer=classifier.first_layer,
        seed=classifier.seed,
    )


def _unsharded(
    classifier: FinetunedClassifier,
    sharded: Any,
    classes: npt.NDArray[np.int64],
    device: torch.device,
) -> Any:
    """Load the network anew, whole, and give it the weights that were trained.

    In the type that the device is fast in, since a whole one in float32 may be more
    than fits; the processes after the first keep their shards.
    """
    state = adapters.gathered(sharded)
    if not is_main():
        return sharded
    fresh = _base(classifier, classes, device, pick_dtype(device))
    network = _trainable(classifier, fresh.model)
    network.load_state_dict(state, strict=False)
    return network


def _split(
    classifier: FinetunedClassifier,
    ids: list[list[int]],
    targets: npt.NDArray[np.int64],
) -> tuple[Rows, Rows | None]:
    if not classifier.validation:
        return Rows(ids, targets.tolist()), None
    try:
        kept, held = train_test_split(
            np.arange(len(ids)),
            test_size=classifier.validation,
            stratify=targets,
            random_state=classifier.seed,
        )
    except ValueError as error:
        raise ValueError(
            f"validation={classifier.validation} of {len(ids)} rows leaves a class "
            "without a row on one side: give more rows, another share, or 0"
        ) from error
    parts = [Rows([ids[i] for i in p], targets[p].tolist()) for p in (kept, held)]
    return parts[0], parts[1]


def _install_prefix(
    classifier: FinetunedClassifier, network: Any, sha256: str, dtype: torch.dtype
) -> FrozenPrefix | None:
    only_head = classifier.method == "head"
    depth = int(network.config.num_hidden_layers)
    first = adapters.layer_number(classifier.first_layer, depth)
    layers = depth if only_head else first
    # What reads the disk can't be compiled.
    if not layers or not classifier.cache_prefix or classifier.compile_model:
        return None
    # All that can change a state, the arithmetic included.
    weights = network.base_model.embed_tokens.weight
    quantized = classifier.method == "qlora"
    types = (weights.dtype, dtype, weights.device.type)
    key = (sha256, layers, only_head, quantized, types)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    folder = get_settings().cache / "prefixes"
    if classifier.cache_prefix is not True:
        folder = Path(classifier.cache_prefix)
    return FrozenPrefix(network, layers, folder / f"{name}.sqlite", only_last=only_head)


def _run_folder(
    classifier: FinetunedClassifier,
    sha256: str,
    texts: Sequence[str],
    targets: npt.NDArray[np.int64],
) -> Path:
    """Folder of the checkpoints of this very run: its options, model and rows."""
    if classifier.checkpoints is not None:
        return Path(classifier.checkpoints).expanduser().absolute()
    options = classifier.get_params()
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
