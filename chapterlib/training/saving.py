"""Finetuned classifiers in folders: save, load, merge, model card."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from huggingface_hub import ModelCard, ModelCardData
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError

from chapterlib._logging import quiet
from chapterlib.models import embedded, loading
from chapterlib.models.embedded import file_sha256
from chapterlib.models.sizes import Method
from chapterlib.settings import data_file, get_settings, versions
from chapterlib.tasks.task import AG_NEWS, Label, Task
from chapterlib.training import adapters, loop
from chapterlib.training.trainer import digests

# What only this package knows of a saved classifier.
FILE = "chapterlib.json"
FORMAT = 1
HOUR = 3600  # seconds that no save takes
NEEDED = {"adapter", "params", "classes", "labels", "pad_token", "base", "history"}
NEEDED |= {"trainable_parameters", "size_bytes", "cut_rows"}
# Parameters that belong to a machine or a moment; the task has a place of its own.
NOT_SAVED = ("model", "device", "checkpoints", "progress", "resume", "task")


class SavedModelError(RuntimeError):
    """A folder holds no finetuned classifier, or one that does not fit its base."""


def describe(
    trained: loop.Trained, options: adapters.Options, classes: npt.ArrayLike, task: Task
) -> dict[str, Any]:
    """Everything of a fitted classifier but its weights, as plain JSON values."""
    source = trained.source
    known = {
        "format": FORMAT,
        "adapter": isinstance(trained.network, PeftModel),
        "params": {n: v for n, v in options.items() if n not in NOT_SAVED},
        "task": asdict(task),
        "classes": np.asarray(classes).tolist(),
        "labels": _label_names(trained.network),
        "pad_token": trained.tokenizer.pad_token,
        "base": {
            "name": source.name,
            "sha256": source.sha256,
            "revision": source.revision,
            "hub_id": None if Path(source.location).is_dir() else source.location,
        },
        "history": trained.history,
        "trainable_parameters": trained.trainable_parameters,
        "size_bytes": trained.size_bytes,
        "cut_rows": trained.cut_rows,
        "versions": versions(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(known, default=_as_json))
    return plain


def _as_json(value: Any) -> Any:
    number = isinstance(value, np.generic)
    return value.item() if number else str(value).removeprefix("torch.")


def save(
    folder: Path,
    trained: loop.Trained,
    known: Mapping[str, Any],
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write a classifier that `describe` describes; see `FinetunedClassifier.save`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".draft-*"):  # of one that was killed
            if time.time() - left.stat().st_mtime > HOUR:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".draft-") as scratch:
            _write(Path(scratch), trained, known, scores)
            with FileLock(folder / ".lock"):  # one saver at a time
                _take_over(Path(scratch), folder)
    except (OSError, SafetensorError) as error:
        # The old description goes first, so where it stands its files do too.
        kept = "; what it held before is whole" if (folder / FILE).exists() else ""
        raise SavedModelError(
            f"{folder} can't be written ({error}): make room on its disk, or name "
            f"another folder{kept}"
        ) from error
    return folder


def _write(
    draft: Path,
    trained: loop.Trained,
    known: Mapping[str, Any],
    scores: Mapping[str, Any] | None,
) -> None:
    network = trained.network
    with quiet():
        if known["adapter"]:
            # The base is named, never located: that is this machine's affair.
            for config in network.peft_config.values():
                config.base_model_name_or_path = known["base"]["name"]
            network.save_pretrained(draft, save_embedding_layers=False)
        else:
            network.save_pretrained(draft)
        trained.tokenizer.save_pretrained(draft)
    files = digests(draft)
    files.pop("README.md", None)  # which anyone may edit
    known = {**known, "files": files}
    (draft / "README.md").write_text(model_card(known, scores), encoding="utf-8")
    text = json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False)
    (draft / FILE).write_text(text + "\n", encoding="utf-8")


def _take_over(draft: Path, folder: Path) -> None:
    """Put the files of a draft in the place of those that were saved before."""
    names = [*_files_of(draft / FILE), "README.md", FILE]
    # Without its description a folder holds nothing: that goes first and comes last.
    for name in (FILE, *_files_of(folder / FILE)):
        (folder / name).unlink(missing_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (draft / name).replace(folder / name)


def _files_of(file: Path) -> dict[str, str]:
    """Read which files of its folder a description names, and their digests."""
    with suppress(OSError, ValueError, AttributeError):
        files = json.loads(file.read_text(encoding="utf-8")).get("files", {})
        return {n: x for n, x in files.items() if ".." not in n and n[0] not in "/\\"}
    return {}


def load(
    folder: Path,
    *,
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[dict[str, Any], loop.Trained]:
    """Read what `save` wrote: its description, with all parameters, and the network."""
    known = _read_known(folder)
    whole = folder if not known["adapter"] else _base_of(known, model)
    options = known["params"]
    options |= {"model": str(whole), "device": device, "dtype": dtype}
    options["task"] = _task_of(known)
    method = options["method"]
    merged = not known["adapter"] and method in ("lora", "qlora")
    place, kind = loop.device_and_dtype(device, dtype)
    start = {"method": "head" if merged else method, "model": whole, "seed": 0}
    base = adapters.load_base(start, known["labels"], place, kind)
    tokenizer, network = base
    trained: Any = network
    with quiet():
        if known["adapter"]:
            trained = PeftModel.from_pretrained(network, folder)
    if tokenizer.pad_token != known["pad_token"]:
        tokenizer.pad_token = known["pad_token"]
        network.config.pad_token_id = tokenizer.pad_token_id
    return known, loop.Trained(
        network=trained.eval(),
        tokenizer=tokenizer,
        encoder=loop.make_encoder(options, base),
        source=loading.resolve(whole),
        history=known["history"],
        trainable_parameters=known["trainable_parameters"],
        size_bytes=known["size_bytes"],
        cut_rows=known["cut_rows"],
    )


def merge(
    trained: loop.Trained,
    method: Method,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> loop.Trained:
    """Fold adapters into their base; see `FinetunedClassifier.merge`."""
    adapted = trained.network
    if not isinstance(adapted, PeftModel):
        raise ValueError(
            f"this classifier (method {method!r}) holds no adapters, so there is "
            "nothing to merge: it is a plain model already"
        )
    place, kind = loop.device_and_dtype(device, dtype)
    source = trained.source
    at = source.location
    model = at if Path(at).is_dir() else f"{at}@{source.revision}"
    start = {"method": method, "model": model, "seed": 0}
    base = adapters.load_base(start, _label_names(adapted), place, kind)
    tokenizer, network = base
    fresh: Any = network
    with quiet():
        if method == "qlora":
            # The adapters were trained on rounded weights: these are what they mend.
            fresh = network.dequantize(dtype=kind)
            adapters.widen_head(fresh)
        config: Any = adapted.peft_config[adapted.active_adapter]
        wrapped = get_peft_model(fresh, config)
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        set_peft_model_state_dict(wrapped, state)
        merged: Any = wrapped.merge_and_unload(safe_merge=True)
    return trained._replace(network=merged.eval(), tokenizer=tokenizer)


def model_card(
    known: Mapping[str, Any], scores: Mapping[str, Any] | None = None
) -> str:
    """Write the card of what `describe` gives, as Markdown with the Hub's YAML head."""
    head = ModelCardData(
        library_name="peft" if known["adapter"] else "transformers",
        pipeline_tag="text-classification",
        tags=["chapterlib", known["params"]["method"]],
        base_model=known["base"]["hub_id"],
    )
    card = ModelCard.from_template(
        head,
        template_path=str(data_file("model_card.md")),
        cell=lambda value: repr(value).replace("|", "\\|"),
        outputs=zip(known["classes"], known["labels"], strict=True),
        scores=(scores or {}).items(),
        **known,
    )
    return f"{card}\n"


def _label_names(network: Any) -> list[str]:
    """Names of the outputs of a classifier, in their order."""
    names: Any = adapters.plain(network).config.id2label
    return [names[i] for i in range(len(names))]


def _read_known(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    try:
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SavedModelError(
            f"{folder} holds no {FILE}: name a folder that FinetunedClassifier.save "
            "wrote to the end"
        ) from None
    except ValueError as error:
        raise SavedModelError(f"{file} is damaged ({error}): save it again") from error
    for name, digest in _files_of(file).items():  # version 0.1.0 named none
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            raise SavedModelError(
                f"{folder / name} is missing or not what was saved there: save the "
                "classifier again"
            )
    if not isinstance(known, dict) or known.get("format") != FORMAT:
        raise SavedModelError(
            f"{file} is not of format {FORMAT}, which this version reads: update "
            "chapterlib, or save it again"
        )
    if missing := sorted(NEEDED - known.keys()):
        raise SavedModelError(f"{file} lacks {', '.join(missing)}: save it again")
    return known


def _task_of(known: Mapping[str, Any]) -> Task:
    """Return the task; version 0.1.0 kept nothing of it but the labels."""
    if stored := known.get("task"):
        tuples = ("words", "spellings")
        labels = [{**x, **{n: tuple(x[n]) for n in tuples}} for x in stored["labels"]]
        return Task(**{**stored, "labels": tuple(Label(**x) for x in labels)})
    seen = dict(zip(known["classes"], known["labels"], strict=True))
    if seen.items() <= dict(enumerate(AG_NEWS.label_names)).items():
        return AG_NEWS
    names = [seen.get(i, f"class {i}") for i in range(max(seen) + 1)]
    given = known["params"]["label_names"] or names
    return Task("Labels of a saved model", tuple(given))


def _base_of(known: Mapping[str, Any], model: str | Path | None) -> str:
    """Find the very base model that the adapter was trained on."""
    base = known["base"]
    named = get_settings().model if model is None else model
    if model is None and base["hub_id"]:
        # As it was: its repository may have gone on.
        named = f"{base['hub_id']}@{base.get('revision', 'main')}"
    elif model is None and base["sha256"] == embedded.GGUF_SHA256:
        named = "embedded"
    if str(named) == "embedded":  # known without being fetched
        name, digest = embedded.TITLE, embedded.GGUF_SHA256
    else:
        found = loading.resolve(named)
        name, digest = found.name, found.sha256
    if digest != base["sha256"]:
        raise SavedModelError(
            f"the adapter belongs to {base['name']} ({base['sha256'][:12]}…), but "
            f"{name} is {digest[:12]}…: pass the folder or Hub id of its base as model="
        )
    return str(named)
