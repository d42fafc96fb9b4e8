"""The model card of a finetuned classifier: what it is, how it was made, how good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from chapterlib.records import RunRecord


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
