"""Measure the book's methods on AG News and write one record a run.

``python -m chapterlib.runs`` (or ``make results``) measures whatever has no record yet,
or whose rows, model or parameters changed. A run that is interrupted loses itself
alone: what was measured before stands in ``results/``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from chapterlib import data, estimators, models, records
from chapterlib.apart import apart
from chapterlib.hosted import hosted_methods
from chapterlib.methods import METHODS, Method
from chapterlib.rates import embedding_rate, scoring_rate

PER_CLASS = (8, 32, 128, 512, None)  # None: every train row there is
SEEDS_UP_TO = 128  # rows a class; a larger draw hardly depends on the seed
# Among a record's parameters, what the run found out about itself.
FOUND = "found"


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
        return data.balanced_sample(ds["train"], self.per_class, seed=self.seed)

    def test_rows(self, ds: DatasetDict) -> Dataset:
        """Give the test rows of this run: all of them, or as many as fit its time."""
        per_class = self.method.test_per_class
        if per_class is None or per_class * len(data.LABEL_NAMES) >= len(ds["test"]):
            return ds["test"]
        return data.balanced_sample(ds["test"], per_class)

    def __str__(self) -> str:
        budget = {None: "all rows", 0: "no rows"}.get(
            self.per_class, f"{self.per_class} a class"
        )
        return f"{self.method.slug}, {budget}, seed {self.seed}"


def plan(ds: DatasetDict, only: Sequence[str] = ()) -> list[Run]:
    """List the runs, the cheap ones first.

    Parameters
    ----------
    ds : DatasetDict
        Budgets that its train split can't fill are left out.
    only : sequence of str
        Slugs of methods; all by default, those that ask a hosted model included where
        the settings name one.

    Raises
    ------
    ValueError
        If a slug is no method's.
    """
    methods = (*METHODS, *hosted_methods())
    known = [method.slug for method in methods]
    if strange := sorted(set(only) - set(known)):
        raise ValueError(
            f"no method {', '.join(strange)}: there are {', '.join(known)}"
        )
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
        stored = {name: record.model_dump()[name] for name in wanted}
        stored["params"].pop(FOUND, None)
        if stored == wanted:
            return True
    return False


def execute(run: Run, ds: DatasetDict, rate: float | None = None) -> records.RunRecord:
    """Fit, predict and make the record.

    Parameters
    ----------
    run : Run
    ds : DatasetDict
        With the splits "train" and "test".
    rate : float, optional
        Rows a second of embedding, as `embedding_rate` measures it. Hidden states may
        come from the cache, so their time is reckoned at this rate and added. So it
        is with scores, whose speed is measured here on some rows without the cache.
    """
    method, train = run.method, run.train_rows(ds)
    estimator = run.estimator()
    test = run.test_rows(ds)
    texts = list(test["text"])
    with estimators.without_earlier_work(estimator):
        with records.measure() as fitting:
            estimator.fit(list(train["text"]), list(train["label"]))
        with records.measure() as predicting:
            predicted = estimator.predict(texts)
    embedding = 1 / rate if rate and method.embeds else 0
    predict_seconds = predicting.seconds + len(texts) * embedding
    if method.scores:
        predict_seconds = len(texts) * (1 / scoring_rate(estimator, texts) + embedding)
    trained, stored = estimators.weights(estimator)
    identity = _identity(run, ds)
    if method.asks:
        identity["params"][FOUND] = estimators.accounting(estimator)
    return records.RunRecord.from_predictions(
        test["label"],
        predicted,
        **identity,
        title=method.title,
        fit_seconds=estimators.whole_time(fitting.seconds, estimator)
        + len(train) * embedding,
        predict_seconds=predict_seconds,
        peak_memory_bytes=max(fitting.peak_bytes, predicting.peak_bytes),
        peak_gpu_bytes=predicting.peak_gpu_bytes,
        trainable_parameters=trained,
        size_bytes=None if method.asks else stored,
    )


def measure_all(
    ds: DatasetDict,
    folder: Path | None = None,
    *,
    only: Sequence[str] = (),
    force: bool = False,
    one_process: bool = True,
) -> list[Path]:
    """Run what is missing or out of date, and write its records.

    A run that fails keeps none of the others from being measured.

    Parameters
    ----------
    ds : DatasetDict
    folder : path, optional
        By default `records.results_folder`.
    only : sequence of str
        Slugs of methods; all by default.
    force : bool
        Run also what has a current record.
    one_process : bool
        Run all here. Otherwise each run of a language model has a process of its own,
        so that its peak memory holds nothing that another run left there.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    RunError
        After all runs, if some of them failed; the message names each and its error.
    """
    source = folder or records.results_folder()
    known = records.read(source) if source.is_dir() else []
    todo = [run for run in plan(ds, only) if force or not is_current(run, ds, known)]
    for model in sorted({str(r.method.served_as) for r in todo if r.method.served_as}):
        tqdm.write(
            f"Rows go to {model}, and its host may bill each token. "
            "CHAPTERLIB_BUDGET_TOKENS or CHAPTERLIB_BUDGET_USD bounds every run, "
            "CHAPTERLIB_LLM_PROVIDER=local leaves them out."
        )
    rate = None
    if any(run.method.embeds for run in todo):
        rate = embedding_rate(ds) if one_process else apart(embedding_rate, ds)
    written, failed = [], {}
    with tqdm(todo, desc="Runs", disable=None) as bar:
        for run in bar:
            bar.set_postfix_str(str(run))
            try:
                if one_process or not run.method.uses_model:
                    record = execute(run, ds, rate)
                else:
                    record = apart(_execute_named, *run.name, ds, rate)
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


def _execute_named(
    slug: str, per_class: int | None, seed: int, ds: DatasetDict, rate: float | None
) -> records.RunRecord:
    """Find the run of this name, and execute it: a method itself can't be pickled."""
    (method,) = (m for m in METHODS if m.slug == slug)
    return execute(Run(method, per_class, seed), ds, rate)


def _identity(run: Run, ds: DatasetDict) -> dict[str, Any]:
    """Return what makes a run this run, as the record stores it."""
    source = models.resolve() if run.method.uses_model else None
    estimator = run.estimator()
    train = run.train_rows(ds)
    used = records.DataUsed.of(
        data.describe(ds),
        train=train if len(train) else None,
        test=run.test_rows(ds),
        per_class=run.per_class or None,
    )
    return {
        "method": run.method.slug,
        "model": source.name if source else run.method.served_as,
        "model_sha256": source.sha256 if source else None,
        "data": used.model_dump(),
        "seed": run.seed,
        "params": estimators.plain_params(estimator.get_params()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure from the command line: ``--only probe``, ``--force``, ``--list``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--force", action="store_true", help="run what is current too")
    parser.add_argument(
        "--list", action="store_true", help="print the plan, run nothing"
    )
    parser.add_argument("--results", type=Path, help="folder of the records")
    parser.add_argument(
        "--all-rows",
        action="store_true",
        help="measure on every row there is, not on those of the book's records",
    )
    options = parser.parse_args(arguments)
    ds = data.load_ag_news(rows=None if options.all_rows else "book")
    if options.list:
        folder = options.results or records.results_folder()
        known = records.read(folder) if folder.is_dir() else []
        for run in plan(ds, options.only):
            print("current " if is_current(run, ds, known) else "to do   ", run)
        return
    written = measure_all(
        ds,
        options.results,
        only=options.only,
        force=options.force,
        one_process=False,
    )
    print(f"{len(written)} records written")


if __name__ == "__main__":
    main()
