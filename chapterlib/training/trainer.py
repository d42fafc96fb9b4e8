"""The trainer of a run: rows and their order, a watch, checkpoints, clear errors."""

from __future__ import annotations

import errno
import json
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler
from tqdm.auto import tqdm
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from chapterlib.models.embedded import file_sha256
from chapterlib.settings import get_settings

# Batches drawn at random that are sorted by length together: enough for like
# lengths in a batch, few enough for other neighbors in every epoch.
GROUP = 20
# Points of a loss curve that are kept, at most about twice as many.
CURVE_POINTS = 200
MEMORY = (
    "out of memory while {what}: halve batch_size and double accumulate (only the "
    "last step of an epoch changes), lower max_length, set "
    "gradient_checkpointing=True, or take method='qlora' or a smaller model"
)


DISK = (
    "the disk is full while {what}: make room under {folder}, or name another folder "
    "with CHAPTERLIB_CACHE (or checkpoints); the same run then goes on from its last "
    "checkpoint, and what was saved before is safe"
)
# Of a checkpoint: the digests of its files.
MANIFEST = "manifest.json"


class TrainingError(RuntimeError):
    """Training can't go on; the message says what to change."""


class EpochOrder(Sampler[int]):
    """The order of rows, another one every epoch, and nothing but seed and epoch in it.

    So an interrupted epoch goes on with the rows that it still lacks, and several
    processes agree on the order without a word between them. `lengths` are tokens of
    each row, `batch_size` rows over all processes; `by_length` puts rows of like length
    into a batch, and the batches in random order.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        *,
        by_length: bool = True,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.by_length = batch_size, seed, by_length
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that is given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Give the rows' numbers in the order of this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        if not self.by_length:  # as the trainer of transformers orders its rows
            plain = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(self.lengths), generator=plain).numpy()
        else:
            size = self.batch_size * GROUP
            batches, rest = [], []
            for start in range(0, len(order), size):
                group = order[start : start + size]
                group = group[np.argsort(self.lengths[group], kind="stable")]
                whole = len(group) - len(group) % self.batch_size
                batches += list(group[:whole].reshape(-1, self.batch_size))
                rest += list(group[whole:])
            shuffled = [batches[i] for i in rng.permutation(len(batches))]
            # The incomplete batch has to come last: the loader cuts by count.
            order = np.concatenate([*shuffled, np.array(rest, dtype=int)])
        return iter(order.tolist())


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, or None.

    The manifest is its last file. One that lacks it, or a file of it, was being written
    when the process was killed, or is damaged: a warning names it.
    """
    for path in sorted(folder.glob("checkpoint-[0-9]*"), key=step_of, reverse=True):
        with suppress(OSError, ValueError):
            if json.loads((path / MANIFEST).read_text()) == digests(path):
                return path
        warnings.warn(
            f"the checkpoint {path} is not whole: training goes on from the one before",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def step_of(checkpoint: Path) -> int:
    """Read the step at which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def digests(folder: Path) -> dict[str, str]:
    """Compute the sha256 of each file in a folder, by its name there."""
    return {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }


@contextmanager
def explained(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn a lack of memory or disk in the block into an error with its remedies."""
    try:
        yield
    except Exception as error:
        said = str(error).lower()
        folder = folder or get_settings().cache
        words = ("not enough memory", "can't allocate memory")
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if known or any(w in said for w in words):
            raise TrainingError(MEMORY.format(what=what)) from error
        # The second is how torch.save tells it.
        if "no space left" in said or "inline_container" in said:
            raise TrainingError(DISK.format(what=what, folder=folder)) from error
        if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise TrainingError(
                f"{folder} can't be written while {what} ({error}): name another "
                "folder with CHAPTERLIB_CACHE (or checkpoints)"
            ) from error
        raise


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the block, and leave every generator outside of it as it was."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class ClassifierTrainer(Trainer):
    """The library's trainer, with an order of rows that survives interruptions."""

    def __init__(self, order: EpochOrder, **options: Any) -> None:
        super().__init__(**options)
        self.order = order
        # The classifiers of transformers take any keyword, but do not scale their
        # loss by it: without this, accumulated gradients would be summed, not averaged.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        super()._save_checkpoint(*args, **options)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"checkpoint-{self.state.global_step}"
            folder = Path(str(self.args.output_dir), name)
            (folder / MANIFEST).write_text(json.dumps(digests(folder)))

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """Take one step, and stop where the loss is not finite."""
        loss = super().training_step(*args, **options)
        if not torch.isfinite(loss):
            rate = self._get_learning_rate()
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}: "
                f"lower learning_rate (it is {rate:.1e} at this step), or set "
                "dtype='float32' if it is a half-precision type now"
            )
        return loss


class Watch(TrainerCallback):
    """Set the order of each epoch, show progress, and save between epochs as well."""

    def __init__(self, order: EpochOrder, progress: bool, every: int | None) -> None:
        self.order, self.progress, self.every = order, progress, every
        self.bar: tqdm | None = None

    def on_train_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Open the bar, at the step where an interrupted run goes on."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="Training",
            disable=None if self.progress and state.is_world_process_zero else True,
        )

    def on_epoch_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Choose the order by the epoch alone, in whichever process and run."""
        # accelerate forwards `set_epoch` too, but not where one of several processes
        # skips the batches that it had before an interruption.
        self.order.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Move the bar, and ask for a checkpoint where one is due."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        if self.every and state.global_step % self.every == 0:
            control.should_save = True
        return control

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Show the latest figures beside the bar."""
        if self.bar is not None and logs:
            shown = {
                name.removeprefix("eval_"): f"{logs[name]:.3f}"
                for name in ("loss", "eval_loss", "eval_accuracy")
                if name in logs
            }
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy of held-out rows, for the trainer's own evaluation."""
    best = np.asarray(prediction.predictions).argmax(1)
    return {"accuracy": float((best == prediction.label_ids).mean())}


def make_trainer(
    options: Mapping[str, Any],
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    held_out: Dataset | None,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> ClassifierTrainer:
    """Make the trainer of one run; `options` are a `FinetunedClassifier`'s parameters.

    With held-out rows it evaluates after every epoch and ends with the best one. Raises
    ValueError if the batch can't be divided among the processes.
    """
    batch_size, accumulate = options["batch_size"], options["accumulate"]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise ValueError(
            f"batch_size is {batch_size}, but there are {processes} processes: choose "
            "a multiple of their number"
        )
    steps = max(1, round(len(train) * options["epochs"] / (batch_size * accumulate)))
    each_epoch = "epoch" if held_out is not None else "no"
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size // processes,
        per_device_eval_batch_size=max(1, 2 * batch_size // processes),
        gradient_accumulation_steps=accumulate,
        num_train_epochs=options["epochs"],
        learning_rate=options["learning_rate"],
        weight_decay=options["weight_decay"],
        lr_scheduler_type=options["schedule"],
        warmup_steps=round(options["warmup"] * steps),
        optim="adamw_torch",
        eval_strategy=each_epoch,
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=held_out is not None,
        metric_for_best_model="accuracy" if held_out is not None else None,
        logging_steps=max(1, steps // CURVE_POINTS),
        logging_nan_inf_filter=False,
        # Weights in bf16 need no more casting; those in fp32 get it from autocast,
        # and fp16 also needs the scaled gradients that come with it.
        bf16=dtype == torch.bfloat16 and options["method"] == "full",
        fp16=dtype == torch.float16,
        gradient_checkpointing=options["gradient_checkpointing"],
        gradient_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=options["compile_model"],
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if device.type == "cpu" and processes > 1 else None,
        seed=options["seed"],
        data_seed=options["seed"],
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    if device.type == "cuda" and processes == 1:
        args._n_gpu = 1  # never copies of the model in threads: processes are faster
    order = EpochOrder(
        [len(row) for row in train["input_ids"]],
        batch_size * accumulate,
        options["seed"],
        by_length=options["group_by_length"],
    )
    watch = Watch(order, options["progress"], options["checkpoint_steps"])
    callbacks: list[TrainerCallback] = [watch]
    if options["patience"] is not None:
        callbacks.append(EarlyStoppingCallback(options["patience"]))
    trainer = ClassifierTrainer(
        order,
        model=network,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def curve(log: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Keep of a trainer's log what a loss curve needs: step, epoch, losses, scores."""
    wanted = {"step", "epoch", "loss", "learning_rate", "grad_norm"}
    wanted |= {"eval_loss", "eval_accuracy"}
    return [
        {name: value for name, value in entry.items() if name in wanted}
        for entry in log
        if "loss" in entry or "eval_loss" in entry
    ]
