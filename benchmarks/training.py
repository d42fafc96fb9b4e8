"""Rows a second of LoRA finetuning: the naive way against `FinetunedClassifier`.

    python benchmarks/training.py [--rows 400] [--epochs 2] [--test-rows 400]

Naive: fp32, rows in random order, batches of 8 padded to 128 tokens, attention in
separate steps, every layer adapted and computed every time. Ours: the preset "cpu".
Both see the same rows as often, with the same rank, each in a process of its own that
starts without anything computed before; the time is that from texts to a trained
model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import numpy as np
import torch

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.metrics import evaluation
from chapterlib.models import devices, loading
from chapterlib.reporting import machine
from chapterlib.reporting.runs import in_own_process
from chapterlib.tasks import sampling, task
from chapterlib.tasks.task import AG_NEWS
from chapterlib.training.presets import preset

RECIPE = preset("cpu")
# Adapters in every layer have the classifier's default rate, which is meant for them.
EVERY_LAYER_RATE = FinetunedClassifier().learning_rate


class Naive:
    """What a first attempt looks like: right, and slow."""

    def __init__(self, model: str, epochs: int, seed: int = 0) -> None:
        self.model, self.epochs, self.seed = model, epochs, seed

    def fit(self, texts: list[str], labels: list[int]) -> Naive:
        """Train adapters on every layer, batch after batch as it comes."""
        from peft import LoraConfig, TaskType, get_peft_model

        self.tokenizer, network = loading.load(
            "classify",
            self.model,
            labels=task.AG_NEWS.label_names,
            device="cpu",
            dtype="float32",
            seed=self.seed,
            attn_implementation="eager",
        )
        torch.manual_seed(self.seed)
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=RECIPE["r"],
            lora_alpha=RECIPE["alpha"],
            lora_dropout=RECIPE["dropout"],
            target_modules=list(RECIPE["target_modules"]),
        )
        self.network: Any = get_peft_model(network, config).train()
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, EVERY_LAYER_RATE, weight_decay=RECIPE["weight_decay"]
        )
        steps = self.epochs * -(-len(texts) // 8)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in range(self.epochs):
            order = torch.randperm(len(texts)).tolist()
            for start in range(0, len(order), 8):
                part = order[start : start + 8]
                loss = self.network(
                    **self._batch([texts[i] for i in part]),
                    labels=torch.tensor([labels[i] for i in part]),
                ).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        return self

    def predict(self, texts: list[str]) -> np.ndarray:
        """Class ids, batch after batch."""
        self.network.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(texts), 8):
                logits = self.network(**self._batch(texts[start : start + 8])).logits
                found.append(logits.argmax(1).numpy())
        return np.concatenate(found)

    def _batch(self, texts: list[str]) -> Any:
        return self.tokenizer(
            [task.AG_NEWS.template.format(text=text) for text in texts],
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )


def measure(way: str, options: argparse.Namespace) -> dict[str, float]:
    """Train and predict in one way; run it in a fresh process."""
    ds = AG_NEWS.load()
    classes, seed = len(task.AG_NEWS.labels), options.seed
    train = sampling.balanced_sample(ds["train"], options.rows // classes, seed=seed)
    test = sampling.balanced_sample(ds["test"], options.test_rows // classes, seed=seed)
    model = loading.resolve().location
    devices.pick_dtype("cpu")  # measured once a machine, so not part of the time
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CHAPTERLIB_CACHE"] = cache
        os.environ["CHAPTERLIB_DTYPE"] = options.dtype
        classifier: Any = (
            Naive(model, options.epochs, options.seed)
            if way == "naive"
            else FinetunedClassifier(
                **preset(
                    "cpu",
                    model=model,
                    epochs=options.epochs,
                    seed=options.seed,
                    device="cpu",
                    progress=False,
                )
            )
        )
        with machine.measure() as cost:
            classifier.fit(list(train["text"]), list(train["label"]))
        predicted = classifier.predict(list(test["text"]))
    found = evaluation.evaluate(test["label"], predicted)
    return {
        "rows_a_second": len(train) * options.epochs / cost.seconds,
        "seconds": cost.seconds,
        "peak_bytes": cost.peak_bytes,
        "accuracy": found.accuracy,
        "low": found.interval.low,
        "high": found.interval.high,
    }


def main() -> None:
    """Print speed, memory and accuracy of both ways, and the ratio of the speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--test-rows", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", help="by default what is fastest here")
    options = parser.parse_args()
    if options.dtype is None:
        options.dtype = str(devices.pick_dtype("cpu")).removeprefix("torch.")
    found = {}
    for way in ("naive", "ours"):
        found[way] = in_own_process(measure, way, options)
        it = found[way]
        print(
            f"{way}: {it['rows_a_second']:.2f} rows a second ({it['seconds']:.0f} s), "
            f"peak memory {it['peak_bytes'] / 2**20:,.0f} MiB, accuracy "
            f"{it['accuracy']:.3f} ({it['low']:.3f} to {it['high']:.3f})",
            flush=True,
        )
    ratio = found["ours"]["rows_a_second"] / found["naive"]["rows_a_second"]
    print(
        f"ratio {ratio:.2f} over {options.epochs} epochs of {options.rows} rows, ours "
        f"in {options.dtype}"
    )


if __name__ == "__main__":
    main()
