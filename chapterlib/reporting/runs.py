"""What a record keeps of a fitted estimator: parameters, weights, accounts, time."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from chapterlib.metrics import evaluation
from chapterlib.models import hidden_states, loading
from chapterlib.models.likelihood import TAIL, log_likelihoods, word_tokens
from chapterlib.prompting import chat_models
from chapterlib.reporting import machine, records
from chapterlib.reporting.methods import METHODS, Method, hosted_methods
from chapterlib.tasks import sampling, task
from chapterlib.training.loop import is_main
from chapterlib.training.presets import ConfigError, RunConfig, preset


def plain_params(params: dict[str, Any]) -> dict[str, Any]:
    """Keep the parameters that JSON can hold; the rest are steps listed by name.

    Parameters
    ----------
    params : dict
        Of an estimator's `get_params`.
    """
    simple = (bool, int, float, str, list, tuple, dict, type(None))
    kept = {
        name: value
        for name, value in sorted(params.items())
        if isinstance(value, simple)
        and value == value  # scikit-learn's error_score is NaN
        and name != "estimator__steps"
        and name.split("__")[-1] != "progress"
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept))  # lists for tuples, all deep
    return plain


@contextmanager
def without_earlier_work(estimator: Any) -> Iterator[None]:
    """Let a run find nothing that an earlier one kept, so that it is timed whole.

    Parameters
    ----------
    estimator
        With `cache_prefix` where it keeps states of frozen layers, or with ``"local"``
        as its `llm`, whose replies are kept; any other is left alone, a hosted model
        too: its replies were paid for.
    """
    params = estimator.get_params(deep=False)
    with TemporaryDirectory(prefix="chapterlib-run-") as folder:
        fresh: dict[str, Any] = {}
        if params.get("cache_prefix"):
            fresh = {"cache_prefix": folder}
        elif params.get("llm") == "local":
            model = chat_models.chat_model("local", cache=False)
            fresh = {"llm": model, "price_prompt": 0.0, "price_completion": 0.0}
        estimator.set_params(**fresh)
        try:
            yield
        finally:
            estimator.set_params(**{name: params[name] for name in fresh})


def _answers_found(estimator: Any) -> dict[str, Any]:
    """Tell what became of each article, and what it took, after a prediction."""
    return {
        "articles": dict(Counter(answer.verdict for answer in estimator.answers_)),
        "usage": dataclasses.asdict(estimator.usage_),
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


def whole_time(seconds: float, estimator: Any) -> float:
    """Reckon the time of a training that was taken up again from the part run here.

    Parameters
    ----------
    seconds : float
        That this part took.
    estimator
        With `resumed_from_` and `history_` where it trains in steps.
    """
    before = getattr(estimator, "resumed_from_", 0)
    if not before:
        return seconds
    steps = estimator.history_[-1]["step"]
    return seconds * steps / max(steps - before, 1)


P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process, and return what it returns.

    Parameters
    ----------
    function : callable
        Of a module that the new process can import; it starts out with the environment
        variables of this one and nothing else.
    *args, **kwargs
        Of the function; they are pickled.

    Raises
    ------
    MemoryError
        If the system ended the process, as it does where memory runs out.
    Exception
        Whatever the function raises.

    Examples
    --------
    >>> import os
    >>> apart(os.getpid) == os.getpid()
    False
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


EMBEDDED_ROWS = 256
SCORED_ROWS = 64


def embedding_rate(ds: DatasetDict) -> float:
    """Rows a second of `features.embed` on this machine now, without the cache."""
    texts = list(ds["train"]["text"])[:EMBEDDED_ROWS]
    with machine.measure() as cost:
        hidden_states.embed(texts, cache=False, progress=False)
    return len(texts) / cost.seconds


def scoring_rate(estimator: Any, texts: Sequence[str]) -> float:
    """Rows a second of a fitted estimator's `LabelScorer`, once its model is loaded.

    Parameters
    ----------
    estimator : LabelScorer, or an estimator that holds one as `scorer_`
    texts : sequence of str
        The first of them are timed.
    """
    scorer = getattr(estimator, "scorer_", estimator)
    prompts = scorer.prompts(list(texts)[:SCORED_ROWS])
    tokenizer, network = loading.load(
        "generate", scorer.model, device=scorer.device, dtype=scorer.dtype
    )
    words = [word_tokens(tokenizer, prompts[0][-TAIL:], w) for w in scorer.words]
    with machine.measure() as cost:
        for _ in log_likelihoods(
            prompts, words, tokenizer, network, batch_tokens=scorer.batch_tokens
        ):
            pass
    return len(prompts) / cost.seconds


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
        return sampling.balanced_sample(ds["train"], self.per_class, seed=self.seed)

    def test_rows(self, ds: DatasetDict) -> Dataset:
        """Give the test rows of this run: all of them, or as many as fit its time."""
        per_class = self.method.test_per_class
        if per_class is None or per_class * len(task.LABEL_NAMES) >= len(ds["test"]):
            return ds["test"]
        return sampling.balanced_sample(ds["test"], per_class)

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
    with without_earlier_work(estimator):
        with machine.measure() as fitting:
            estimator.fit(list(train["text"]), list(train["label"]))
        with machine.measure() as predicting:
            predicted = estimator.predict(texts)
    embedding = 1 / rate if rate and method.embeds else 0
    predict_seconds = predicting.seconds + len(texts) * embedding
    if method.scores:
        predict_seconds = len(texts) * (1 / scoring_rate(estimator, texts) + embedding)
    trained, stored = _weights_of(estimator)
    identity = _identity(run, ds)
    if method.asks:
        identity["params"][FOUND] = _answers_found(estimator)
    return records.RunRecord.from_predictions(
        test["label"],
        predicted,
        **identity,
        title=method.title,
        fit_seconds=whole_time(fitting.seconds, estimator) + len(train) * embedding,
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
    source = folder or settings.results_folder()
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
        rate = embedding_rate(ds) if one_process else in_own_process(embedding_rate, ds)
    written, failed = [], {}
    with tqdm(todo, desc="Runs", disable=None) as bar:
        for run in bar:
            bar.set_postfix_str(str(run))
            try:
                if one_process or not run.method.uses_model:
                    record = execute(run, ds, rate)
                else:
                    record = in_own_process(_execute_named, *run.name, ds, rate)
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
    source = loading.resolve() if run.method.uses_model else None
    estimator = run.estimator()
    train = run.train_rows(ds)
    used = records.DataUsed.of(
        sampling.describe(ds),
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
        "params": plain_params(estimator.get_params()),
    }


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

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    RunRecord or None
        None in every process but the first.
    """
    ds = sampling.load_ag_news(config.data)
    train, test = ds["train"], ds["test"]
    if config.train_per_class is not None:
        train = sampling.balanced_sample(
            train, config.train_per_class, seed=config.seed
        )
    if config.test_per_class is not None:
        test = sampling.balanced_sample(test, config.test_per_class, seed=config.seed)
    options = preset(config.preset, **{"seed": config.seed, **config.params})
    try:
        classifier = FinetunedClassifier(**options)
    except TypeError as error:
        raise ConfigError(f"params: {error}") from error
    with machine.measure() as fitting:
        classifier.fit(list(train["text"]), list(train["label"]))
    if not is_main():
        return None
    with machine.measure() as predicting:
        predicted = classifier.predict(list(test["text"]))
    source = loading.resolve(classifier.model)
    record = records.RunRecord.from_predictions(
        test["label"],
        predicted,
        method=classifier.method,
        title=f"Finetuned ({classifier.method})",
        model=source.name,
        model_sha256=source.sha256,
        data=records.DataUsed.of(
            sampling.describe(ds),
            train=train,
            test=test,
            per_class=config.train_per_class,
        ),
        seed=config.seed,
        params={name: repr(value) for name, value in sorted(options.items())},
        fit_seconds=fitting.seconds,
        predict_seconds=predicting.seconds,
        peak_memory_bytes=max(fitting.peak_bytes, predicting.peak_bytes),
        peak_gpu_bytes=fitting.peak_gpu_bytes,
        trainable_parameters=classifier.trainable_parameters_,
        size_bytes=classifier.size_bytes_,
    )
    folder = classifier.save(config.output, _scores(record))
    print(evaluation.evaluate(test["label"], predicted, test.features["label"].names))
    print(f"saved in {folder}")
    return record
