"""The model card of a finetuned classifier: what it is, how it was made, how good."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

from chapterlib._logging import quiet
from chapterlib.models import embedded, loading
from chapterlib.settings import get_settings, versions
from chapterlib.training import adapters, loop

if TYPE_CHECKING:
    from chapterlib.reporting.records import RunRecord


def model_card(known: dict[str, Any], record: RunRecord | None = None) -> str:
    """Write the card as Markdown with the Hub's YAML header.

    Parameters
    ----------
    known : dict
        As `finetuned.describe` gives it.
    record : RunRecord, optional
        A measured run of this classifier: its scores go into the card.

    Returns
    -------
    str
    """
    base, params = known["base"], known["params"]
    head: dict[str, Any] = {
        "library_name": "peft" if known["adapter"] else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["chapterlib", params["method"]],
    }
    if base["hub_id"]:
        head["base_model"] = base["hub_id"]
    kind = "Low-rank adapters and a head" if known["adapter"] else "A classifier"
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {base['name']}, finetuned to tell {_listed(known['labels'])}",
        "",
        f"{kind} for `{base['name']}` (weights `{base['sha256'][:16]}`), trained with "
        f"method `{params['method']}`: {known['trainable_parameters']:,} numbers were "
        "trained.",
        "",
        "## Use",
        "",
        "```python",
        "from chapterlib.training import FinetunedClassifier",
        "",
        'classifier = FinetunedClassifier.load("path/to/this/folder")',
        'classifier.predict(["Shares fell on Friday"])',
        "```",
        "",
        f"The model reads `{params['template']!r}` with the text in its place, cut to "
        f"{params['max_length']} tokens; the pad token is `{known['pad_token']}`. "
        "Outputs are in the order of the classes below.",
        "",
        *_table(
            ("class id", "label"), zip(known["classes"], known["labels"], strict=True)
        ),
    ]
    lines += ["", "## Result", ""]
    if record is None:
        lines.append("No measured run was recorded with this model.")
    else:
        scores, data = record.metrics, record.data
        lines += [
            f"Accuracy {scores.accuracy:.4f} (95% interval {scores.low:.4f} to "
            f"{scores.high:.4f}), macro-F1 {scores.macro_f1:.4f}, on {data.n_test:,} "
            f"test rows of {data.name} (`{data.test_fingerprint}`) after training on "
            f"{data.n_train:,} rows (`{data.train_fingerprint}`). Training took "
            f"{record.fit_seconds:,.0f} s.",
        ]
    lines += ["", "## Training", ""]
    lines += _table(("parameter", "value"), sorted(params.items()))
    lines += [
        "",
        "Versions: " + _listed(f"{n} {v}" for n, v in known["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def _listed(words: Any) -> str:
    return ", ".join(str(word) for word in words)


def _table(head: tuple[str, str], rows: Any) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *(f"| {a} | `{b!r}` |" for a, b in rows),
    ]


# What only this package knows of a saved classifier.
FILE = "chapterlib.json"
FORMAT = 1


class SavedModelError(RuntimeError):
    """A folder holds no finetuned classifier, or one that does not fit its base."""


def save(classifier: Any, folder: Path, record: RunRecord | None = None) -> Path:
    """Write a fitted classifier; see `persistence.PersistenceMixin.save`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)  # until the rest is whole
    network: Any = classifier.network_
    adapted = isinstance(network, PeftModel)
    known = describe(classifier)
    with quiet():
        if adapted:
            # The base is named, never located: where it lies is this machine's affair.
            for config in network.peft_config.values():
                config.base_model_name_or_path = classifier.source_.name
            network.save_pretrained(folder, save_embedding_layers=False)
        else:
            network.save_pretrained(folder)
        classifier.tokenizer_.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(known, record), encoding="utf-8")
    text = json.dumps(known, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def describe(classifier: Any) -> dict[str, Any]:
    """Everything of a fitted classifier but its weights, as plain JSON values."""
    params = {
        name: list(value) if isinstance(value, (tuple, list)) else value
        for name, value in classifier.get_params().items()
        if name not in ("model", "device", "checkpoints", "progress", "resume")
    }
    if isinstance(params["dtype"], torch.dtype):
        params["dtype"] = str(params["dtype"]).removeprefix("torch.")
    source = classifier.source_
    local = Path(source.location).is_dir()
    network: Any = adapters.plain(classifier.network_)
    return {
        "format": FORMAT,
        "adapter": isinstance(classifier.network_, PeftModel),
        "params": params,
        "classes": classifier.classes_.tolist(),
        "labels": [network.config.id2label[i] for i in range(len(classifier.classes_))],
        "pad_token": classifier.tokenizer_.pad_token,
        "base": {
            "name": source.name,
            "sha256": source.sha256,
            "hub_id": None if local else source.location,
        },
        "history": classifier.history_,
        "trainable_parameters": classifier.trainable_parameters_,
        "size_bytes": classifier.size_bytes_,
        "cut_rows": classifier.cut_rows_,
        "versions": versions(),
    }


def load(
    kind: Any,
    folder: Path,
    *,
    model: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Any:
    """Read what `save` wrote; see `persistence.PersistenceMixin.load`."""
    known = _read_known(folder)
    whole = folder if not known["adapter"] else _base_of(known, model)
    classifier = kind(**known["params"])
    classifier.set_params(model=str(whole), device=device, dtype=dtype)
    place = loop.place(classifier)
    method = known["params"]["method"]
    merged = not known["adapter"] and method in ("lora", "qlora")
    tokenizer, network = adapters.load_base(
        "head" if merged else method,
        whole,
        known["labels"],
        device=place[0],
        dtype=place[1],
    )
    trained: Any = network
    with quiet():
        if known["adapter"]:
            trained = PeftModel.from_pretrained(network, folder)
    if tokenizer.pad_token != known["pad_token"]:
        tokenizer.pad_token = known["pad_token"]
        network.config.pad_token_id = tokenizer.pad_token_id
    classifier.source_ = loading.resolve(whole)
    classifier.network_, classifier.tokenizer_ = trained.eval(), tokenizer
    classifier.encoder_ = loop.make_encoder(
        classifier, loading.LoadedModel(tokenizer, network)
    )
    classifier.classes_ = np.array(known["classes"], np.int64)
    classifier.history_ = known["history"]
    classifier.trainable_parameters_ = known["trainable_parameters"]
    classifier.size_bytes_ = known["size_bytes"]
    classifier.cut_rows_, classifier.resumed_from_ = known["cut_rows"], 0
    return classifier


def merge(classifier: Any, *, dtype: str | torch.dtype | None = None) -> Any:
    """Fold adapters into their base; see `persistence.PersistenceMixin.merge`."""
    from sklearn.base import clone

    adapted: Any = classifier.network_
    if not isinstance(adapted, PeftModel):
        raise ValueError(
            f"this classifier (method {classifier.method!r}) holds no adapters, so "
            "there is nothing to merge: it is a plain model already"
        )
    target = clone(classifier).set_params(dtype=dtype)
    device, kind = loop.place(target)
    tokenizer, network = adapters.load_base(
        classifier.method,
        classifier.source_.location,
        describe(classifier)["labels"],
        device=device,
        dtype=kind,
    )
    fresh: Any = network
    with quiet():
        if classifier.method == "qlora":
            # The adapters were trained on rounded weights: these are what they mend.
            fresh = network.dequantize(dtype=kind)
            adapters.widen_head(fresh)
        name = adapted.active_adapter
        wrapped = get_peft_model(fresh, adapted.peft_config[name])
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        set_peft_model_state_dict(wrapped, state)
        merged = wrapped.merge_and_unload(safe_merge=True)
    for name, value in vars(classifier).items():
        if name.endswith("_") and not name.startswith("_"):
            setattr(target, name, value)
    target.network_, target.tokenizer_ = merged.eval(), tokenizer
    return target


def push(
    classifier: Any,
    repo_id: str,
    *,
    private: bool = True,
    record: RunRecord | None = None,
) -> str:
    """Publish on the Hub; see `persistence.PersistenceMixin.push`."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    secret = get_settings().hf_token
    api = HfApi(token=secret.get_secret_value() if secret else None)
    with tempfile.TemporaryDirectory() as draft:
        save(classifier, Path(draft), record)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repo_id, folder_path=draft)
        except (HfHubHTTPError, OSError) as error:
            raise SavedModelError(
                f"{repo_id!r} could not be written on the Hub: {error}\nSet HF_TOKEN "
                "to a token with write access to it, and check the network."
            ) from error
    return str(done.commit_url)


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
    if known.get("format") != FORMAT:
        raise SavedModelError(
            f"{file} has format {known.get('format')!r}, this version reads {FORMAT}: "
            "update chapterlib, or save it again"
        )
    return known


def _base_of(known: dict[str, Any], model: str | Path | None) -> str:
    """Find the very base model that the adapter was trained on."""
    base = known["base"]
    named = model if model is not None else base["hub_id"]
    if named is None and base["sha256"] == embedded.GGUF_SHA256:
        named = "embedded"
    found = loading.resolve(named)  # the setting's model where nothing is named
    if found.sha256 != base["sha256"]:
        raise SavedModelError(
            f"the adapter belongs to {base['name']} ({base['sha256'][:12]}…), but "
            f"{found.name} is {found.sha256[:12]}…: pass the folder or Hub id of its "
            "base as model="
        )
    return str(named if named is not None else found.location)
