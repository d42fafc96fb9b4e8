"""Time and memory of finetuning at Llama 3's size on this GPU, without its weights.

    python benchmarks/llama_size.py [--shape Llama-3-8B] [--rows 512] [--output FILE]

What a step costs hangs on the shapes of the matrices, not on what they hold: a model
of the shape with random weights takes the memory and the time of the real one, needs
no license and no download (and learns nothing: no accuracy is read here). Each method
trains by the preset "llama3-8b" on the same rows of AG News for one epoch; beside the
peak stands what `models.memory` computes for weights, adapters and optimizer. The
difference is the activations.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch
import transformers

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models import embedded, sizes
from chapterlib.reporting import machine
from chapterlib.settings import versions
from chapterlib.tasks import sampling
from chapterlib.tasks.task import AG_NEWS
from chapterlib.training.presets import preset

METHODS = ("qlora", "lora", "head")
# Rows that are trained before the clock runs: the first steps build caches.
WARM = 32


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Keep seconds, steps and peak of memory of each `Trainer.train` in the block."""
    found: dict[str, float] = {}
    plain = transformers.Trainer.train

    def train(trainer: Any, *args: Any, **options: Any) -> Any:
        gc.collect()  # what an earlier model has left counts for none
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        done = plain(trainer, *args, **options)
        torch.cuda.synchronize()
        found["seconds"] = time.perf_counter() - start
        found["steps"] = trainer.state.global_step
        found["peak"] = torch.cuda.max_memory_allocated()
        return done

    with patch.object(transformers.Trainer, "train", train):
        yield found


def write_model(shape: str, folder: Path) -> None:
    """Save a causal model of the shape with random weights in bf16, and a tokenizer.

    The tokenizer is that of the embedded model: its ids are a part of any vocabulary
    that is larger.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            network = transformers.AutoModelForCausalLM.from_config(
                sizes.PRESETS[shape]
            )
    finally:
        torch.set_default_dtype(before)
    transformers.AutoTokenizer.from_pretrained(embedded.model_folder()).save_pretrained(
        folder
    )
    network.save_pretrained(folder)


def measure(
    method: str, shape: str, folder: Path, texts: list[str], labels: list[int]
) -> dict[str, Any]:
    """Train one method on the rows and predict them; times, tokens and bytes."""
    options = preset("llama3-8b", method=method, epochs=1, validation=0.0)
    options |= {"model": folder, "progress": False, "resume": False}
    with tempfile.TemporaryDirectory() as scratch, timed() as found:
        FinetunedClassifier(**options, checkpoints=f"{scratch}/warm").fit(
            texts[:WARM], labels[:WARM]
        )
        model = FinetunedClassifier(**options, checkpoints=f"{scratch}/run")
        model.fit(texts, labels)
    start = time.perf_counter()
    model.predict(texts)
    predicting = time.perf_counter() - start
    computed = sizes.memory(shape, method, labels=4, r=options["r"])  # type: ignore[arg-type]
    rate = len(texts) / found["seconds"]
    return {
        "method": method,
        "rows": len(texts),
        "tokens": sum(map(len, model.encoder_(texts))),
        "steps": int(found["steps"]),
        "batch_size": options["batch_size"],
        "gradient_checkpointing": options["gradient_checkpointing"],
        "train_seconds": round(found["seconds"], 2),
        "train_rows_per_second": round(rate, 2),
        "predict_rows_per_second": round(len(texts) / predicting, 2),
        "peak_gb": round(found["peak"] / 1e9, 2),
        "computed_gb": round(computed.total / 1e9, 2),
        "trainable": model.trainable_parameters_,
        "hours_for_120000_rows_3_epochs": round(3 * 120_000 / rate / 3600, 1),
    }


def main() -> None:
    """Measure each method, and print or write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=sizes.PRESETS, default="Llama-3-8B")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--folder", type=Path, help="for 16 GB of weights meanwhile")
    parser.add_argument("--output", type=Path, help="write all of it there as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("This measures a CUDA GPU, and there is none here.")
    per_class = -(-options.rows // 4)
    rows = sampling.balanced_sample(AG_NEWS.load()["train"], per_class)
    texts, labels = list(rows["text"]), list(rows["label"])
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        write_model(options.shape, folder)
        torch.cuda.empty_cache()
        runs = []
        for method in options.methods:
            runs.append(measure(method, options.shape, folder, texts, labels))
            print(runs[-1], flush=True)
            torch.cuda.empty_cache()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(pd.DataFrame(runs).set_index("method").T.to_string())
    if options.output:
        found = {
            "shape": options.shape,
            "weights": "random, bfloat16",
            "hardware": machine.hardware(),
            "versions": versions(),
            "runs": runs,
        }
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
