"""Runs of the book's methods: planned, measured, and recorded; the `train` command."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm

from chapterlib import settings
from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models import loading
from chapterlib.reporting import machine, records
from chapterlib.reporting.methods import ALIASES, METHODS, Method, hosted_methods
from chapterlib.tasks import sampling
from chapterlib.tasks.task import AG_NEWS, Task
from chapterlib.training.loop import check_options, is_main
from chapterlib.training.presets import ConfigError, RunConfig, preset

PER_CLASS = (8, 32, 128, 512, None)  # None: every train row there is
SEEDS_UP_TO = 128  # rows a class; a larger draw hardly depends on the seed
# Among a record's parameters, what the run found out about itself.
FOUND = "found"
# What a fresh cache is given: the embedded model, no results of a run.
KEPT = "embedded"

P = ParamSpec("P")
T = TypeVar("T")


class RunError(RuntimeError):
    """Runs that ended in an error, of which the first is the cause."""


@dataclass(frozen=True)
class Run:
    """One method at one budget and seed."""

    method: Method
    per_class: int | None
    seed: int

    @property
    def name(self) -> tuple[str, int | None, int]:
        """Slug of the method, rows a class and seed: what tells runs apart."""
        return self.method.slug, self.per_class, self.seed

    def estimator(self) -> Any:
        """Make the unfitted estimator of this run."""
        return self.method.estimator(self.per_class, self.seed)

    def train_rows(self, ds: DatasetDict) -> Dataset:
        """Draw the train rows of this run; the same at every call."""
        if self.per_class is None:
            return ds["train"]
        if self.per_class == 0:
            return ds["train"].select([])
        return sampling.balanced_sample(ds["train"], self.per_class, seed=self.seed)

    def test_rows(self, ds: DatasetDict) -> Dataset:
        """Give the test rows of this run: all of them, or as many as fit its time."""
        per_class, test = self.method.test_per_class, ds["test"]
        classes = len(test.features["label"].names)
        if per_class is None or per_class * classes >= len(test):
            return test
        return sampling.balanced_sample(test, per_class)

    def __str__(self) -> str:
        budget = {None: "all rows", 0: "no rows"}.get(
            self.per_class, f"{self.per_class} a class"
        )
        return f"{self.method.slug}, {budget}, seed {self.seed}"


def plan(ds: DatasetDict, only: Sequence[str] = ()) -> list[Run]:
    """List the runs of the methods with these slugs (all by default), cheap ones first.

    Budgets that the train split can't fill are left out; methods that ask a hosted
    model are in where the settings name one. RunError if a slug is no method's.
    """
    methods = (*METHODS, *hosted_methods())
    known = [method.slug for method in methods]
    if strange := sorted(set(only) - set(known)):
        raise RunError(f"no method {', '.join(strange)}: there are {', '.join(known)}")
    smallest = int(np.bincount(ds["train"]["label"]).min())
    runs = []
    for method in methods:
        if only and method.slug not in only:
            continue
        budgets = PER_CLASS if method.budgets is None else method.budgets
        for per_class in (*budgets, *method.also):
            if per_class is not None and per_class > smallest:
                continue
            several = per_class and per_class <= SEEDS_UP_TO
            seeds = method.seeds if several else 1
            runs += [Run(method, per_class, seed) for seed in range(seeds)]
    return sorted(runs, key=lambda r: np.inf if r.per_class is None else r.per_class)


def is_current(run: Run, ds: DatasetDict, known: Sequence[records.RunRecord]) -> bool:
    """Tell whether a record of this very run is there: same rows, model, parameters."""
    wanted = _identity(run, ds)
    for record in known:
        stored = record.model_dump(include=set(wanted))
        if {**stored, "params": recorded_params(record)} == wanted:
            return True
    return False


def execute(run: Run, ds: DatasetDict) -> records.RunRecord:
    """Fit and predict rows of the splits "train" and "test", and make the record."""
    estimator, train = run.estimator(), run.train_rows(ds)
    fitting = _fit(estimator, train)
    identity, test = _identity(run, ds), run.test_rows(ds)
    return _record(estimator, fitting, test, title=run.method.title, **identity)


def _fit(estimator: Any, train: Dataset) -> machine.Measured:
    with machine.measure() as fitting:
        estimator.fit(list(train["text"]), list(train["label"]))
    return fitting


def _record(
    estimator: Any, fitting: machine.Measured, test: Dataset, **fields: Any
) -> records.RunRecord:
    """Let a fitted estimator predict, and make the record of the run."""
    with machine.measure() as predicting:
        predicted = estimator.predict(list(test["text"]))
    trained, stored = _weights_of(estimator)
    if asks := hasattr(estimator, "answers_"):  # what became of each text
        fields["params"][FOUND] = {
            "articles": dict(Counter(answer.verdict for answer in estimator.answers_)),
            "usage": dataclasses.asdict(estimator.usage_),
        }
    gpu = [m.peak_gpu_bytes for m in (fitting, predicting) if m.peak_gpu_bytes]
    return records.RunRecord.from_predictions(
        test["label"],
        predicted,
        **fields,
        fit_seconds=fitting.seconds,
        predict_seconds=predicting.seconds,
        peak_memory_bytes=max(fitting.peak_bytes, predicting.peak_bytes),
        peak_gpu_bytes=max(gpu, default=None),
        trainable_parameters=trained,
        size_bytes=None if asks else stored,
    )


def measure_all(
    ds: DatasetDict,
    folder: Path | None = None,
    *,
    only: Sequence[str] = (),
    force: bool = False,
) -> list[Path]:
    """Run methods (`only`: their slugs) whose record is missing or, by `force`, all.

    Each run of a language model has a process and an empty cache of its own, so that
    its times are those of all its work. RunError, at the end, names those that failed.
    """
    source = folder or settings.results_folder()
    known = records.read(source) if source.is_dir() else []
    todo = [run for run in plan(ds, only) if force or not is_current(run, ds, known)]
    for model in sorted({str(r.method.served_as) for r in todo if r.method.served_as}):
        tqdm.write(
            f"Rows go to {model}, and its host may bill each token. "
            "CHAPTERLIB_BUDGET_TOKENS or CHAPTERLIB_BUDGET_USD bounds every run, "
            "CHAPTERLIB_LLM_PROVIDER=local leaves them out."
        )
    written, failed = [], {}
    with tqdm(todo, desc="Runs", disable=None) as bar:
        for run in bar:
            bar.set_postfix_str(str(run))
            try:
                if run.method.uses_model:
                    record = in_own_process(_execute_named, *run.name, ds)
                else:
                    record = execute(run, ds)
            except Exception as error:  # of whatever kind: the others go on
                failed[run] = error
                tqdm.write(f"{run}: {type(error).__name__}: {error}")
            else:
                written.append(records.write(record, source))
    if failed:
        told = "; ".join(f"{run} ({error})" for run, error in failed.items())
        raise RunError(
            f"{len(failed)} of {len(todo)} runs failed: {told}. Mend the cause and "
            "start again: what was measured is kept."
        ) from next(iter(failed.values()))
    return written


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process, and return what it returns or raises.

    Function and arguments are pickled; the process starts out with the environment of
    this one. MemoryError if the system ended it, as where memory runs out.
    """
    # A forked process would begin with the memory, and the threads, of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            name = getattr(function, "__name__", str(function))
            raise MemoryError(
                f"the process that ran {name} was ended by the system, most likely for "
                "want of memory: close other programs, or use a smaller model"
            ) from error


@contextmanager
def empty_cache() -> Iterator[Path]:
    """Give this process a cache without results: a run then does all its work."""
    kept = settings.get_settings().cache / KEPT
    before = os.environ.get("CHAPTERLIB_CACHE")
    with TemporaryDirectory(prefix="chapterlib-run-") as folder:
        if kept.is_dir():
            try:
                Path(folder, KEPT).symlink_to(kept, target_is_directory=True)
            except OSError:  # Windows allows links to few users
                shutil.copytree(kept, Path(folder, KEPT))
        os.environ["CHAPTERLIB_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["CHAPTERLIB_CACHE"]
            if before is not None:
                os.environ["CHAPTERLIB_CACHE"] = before


def _execute_named(
    slug: str, per_class: int | None, seed: int, ds: DatasetDict
) -> records.RunRecord:
    """Find the run of this name, and execute it: a method itself can't be pickled."""
    (method,) = (m for m in METHODS if m.slug == slug)
    with empty_cache():
        return execute(Run(method, per_class, seed), ds)


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve an estimator's `get_params` into what JSON can hold.

    What is None and comes from the task is filled in; objects, the task among them, are
    left out, and so is what does not change a result.
    """
    simple = (bool, int, float, str, list, tuple, dict, type(None))
    kept = {
        _todays(name): value
        for name, value in sorted(_filled(params).items())
        if isinstance(value, simple)
        and value == value  # scikit-learn's error_score is NaN
        and name != "estimator__steps"
        and name.split("__")[-1] not in ("progress", "task")
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept))  # lists for tuples, all deep
    return plain


def recorded_params(record: records.RunRecord) -> dict[str, Any]:
    """Return a record's parameters under today's names, without what the run found."""
    return {_todays(name): v for name, v in record.params.items() if name != FOUND}


def _todays(name: str) -> str:
    *owners, last = name.split("__")
    return "__".join([*owners, ALIASES.get(last, last)])


def _filled(params: Mapping[str, Any]) -> dict[str, Any]:
    """Fill template and verbalizers that stand for those of the estimator's task."""
    filled = dict(params)
    for name, task in params.items():
        if not isinstance(task, Task) or name.split("__")[-1] != "task":
            continue
        # As an author writes them: a class of one word by this word alone.
        words = [w[0] if len(w) == 1 else w for w in task.verbalizers]
        for part, value in (("template", task.template), ("verbalizers", words)):
            own = name.removesuffix("task") + part
            if own in filled and filled[own] is None:
                filled[own] = value
    return filled


def _identity(run: Run, ds: DatasetDict) -> dict[str, Any]:
    """Return what makes a run this run, as the record stores it."""
    source = loading.resolve() if run.method.uses_model else None
    train = run.train_rows(ds)
    used = records.DataUsed.of(
        sampling.describe(ds), train, run.test_rows(ds), run.per_class or None
    )
    return {
        "method": run.method.slug,
        "model": source.name if source else run.method.served_as,
        "model_sha256": source.sha256 if source else None,
        "data": used.model_dump(),
        "seed": run.seed,
        "params": plain_params(run.estimator().get_params()),
    }


def _weights_of(estimator: Any) -> tuple[int, int]:
    """Count the numbers that training set, and the bytes of what has to be kept."""
    if hasattr(estimator, "trainable_parameters_"):
        return estimator.trainable_parameters_, estimator.size_bytes_
    fitted = getattr(estimator, "best_estimator_", estimator)
    fitted = getattr(fitted, "pipeline_", fitted)
    final = fitted[-1] if isinstance(fitted, Pipeline) else fitted
    parts = (getattr(final, name, None) for name in ("coef_", "intercept_"))
    count = sum(int(part.size) for part in parts if part is not None)
    return count, len(pickle.dumps(fitted))


def _scores(record: records.RunRecord) -> dict[str, Any]:
    """Tell for a model card what was measured, and on which rows."""
    scores, data = record.metrics, record.data
    rows = f"rows of {data.name}"
    return {
        "accuracy": f"{scores.accuracy:.4f}",
        "its 95% interval": f"{scores.low:.4f} to {scores.high:.4f}",
        "macro-F1": f"{scores.macro_f1:.4f}",
        "measured on": f"{data.n_test:,} test {rows} ({data.test_fingerprint})",
        "trained on": f"{data.n_train:,} train {rows} ({data.train_fingerprint})",
        "seconds of training": f"{record.fit_seconds:,.0f}",
    }


def train(config: RunConfig) -> records.RunRecord | None:
    """Train, measure on the test rows, and save model and card.

    Returns None in every process but the first. ConfigError for an unknown parameter.
    """
    ds = AG_NEWS.load(config.data)
    train, test = ds["train"], ds["test"]
    if n := config.train_per_class:
        train = sampling.balanced_sample(train, n, seed=config.seed)
    if n := config.test_per_class:
        test = sampling.balanced_sample(test, n, seed=config.seed)
    try:
        options = preset(config.preset, **{"seed": config.seed, **config.params})
        classifier = FinetunedClassifier(**options)
        check_options(classifier.get_params(deep=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"params: {error}") from error
    fitting = _fit(classifier, train)
    if not is_main():
        return None
    source = loading.resolve(classifier.model)
    record = _record(
        classifier,
        fitting,
        test,
        method=classifier.method,
        title=f"Finetuned ({classifier.method})",
        model=source.name,
        model_sha256=source.sha256,
        data=records.DataUsed.of(
            sampling.describe(ds), train, test, config.train_per_class
        ),
        seed=config.seed,
        params={name: repr(value) for name, value in sorted(options.items())},
    )
    folder = classifier.save(config.output, _scores(record))
    print(record.recompute(test["label"]))
    print(f"saved in {folder}")
    return record
