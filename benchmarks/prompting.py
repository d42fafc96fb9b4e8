"""Articles a second through a chat model: batch after batch against `PromptClassifier`.

    python benchmarks/prompting.py [--rows 1280] [--latency 0.2] [--concurrency 16]
        [--faulty 0.1] [--tries 3]

Plain: batches of 10 one after another through ``Dataset.map``, and a batch is dropped
when its reply has not exactly one label an article. Ours: the same batches, several
requests at once, into an empty reply cache; then again from that cache. Both speak
through the same client to a server on loopback that waits before each reply. At the end
a tenth of the replies are faulty, and what counts is how many articles get an answer:
ours asks again about each article that has none, alone, up to `--tries` times.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import PydanticOutputParser

from chapterlib.classifiers.prompt import PromptClassifier
from chapterlib.prompting import chat_models, parsers, prompts
from chapterlib.prompting.cache import ReplyCache
from chapterlib.tasks.task import AG_NEWS

BATCH = 10


def serve(pipe: Connection, latency: float, faulty: float) -> None:
    """Answer in a process of its own, so that it takes no time from the client."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/doubles"))
    from fault_server import FAULTS, FaultServer

    faults = dict.fromkeys(FAULTS, faulty / len(FAULTS))
    with FaultServer(latency=latency, faults=faults, retry_after=latency) as server:
        pipe.send(server.base_url)
        pipe.recv()


@contextmanager
def server(latency: float, faulty: float) -> Iterator[str]:
    """Start the server, yield its address, stop it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, latency, faulty))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("stop")
        process.join()


def one_after_another(texts: list[str], llm: BaseChatModel) -> list[str | None]:
    """Label texts by `Dataset.map`; None where a batch was dropped."""
    reads = PydanticOutputParser(pydantic_object=parsers.Results)
    chain = prompts.zero_shot() | llm | reads

    def label(batch: dict[str, list[str]]) -> dict[str, list[str | None]]:
        n = len(batch["text"])
        try:
            articles = prompts.number_articles(batch["text"])
            results = chain.invoke({"articles": articles}).results
        except Exception:  # whatever it was, the batch is lost
            results = []
        if len(results) != n:
            return {"said": [None] * n}
        return {"said": [result.label for result in results]}

    rows = Dataset.from_dict({"text": texts})
    return rows.map(label, batched=True, batch_size=BATCH)["said"][:]


def ours(
    texts: list[str], llm: BaseChatModel, options: argparse.Namespace
) -> list[int | None]:
    """Label texts by `PromptClassifier`; None where there is no answer."""
    classifier = PromptClassifier(
        llm,
        batch_size=BATCH,
        max_concurrency=options.concurrency,
        retries=options.tries,
        progress=False,
    )
    return [answer.label for answer in classifier.predict_answers(texts)]


def timed(way: Any, texts: list[str], *arguments: Any) -> tuple[float, int]:
    """Articles a second, and how many got an answer."""
    start = time.perf_counter()
    found = way(texts, *arguments)
    seconds = time.perf_counter() - start
    return len(texts) / seconds, sum(label is not None for label in found)


def measure(
    texts: list[str], url: str, options: argparse.Namespace
) -> dict[str, tuple[float, int]]:
    """Time each way against one server."""
    with tempfile.TemporaryDirectory() as folder:

        def model(cache: bool) -> BaseChatModel:
            return chat_models.chat_model(
                "openai",
                "benchmark",
                base_url=url,
                api_key="none",
                max_tokens=400,
                timeout=10 * options.latency,
                retries=1,
                cache=cache and ReplyCache(Path(folder) / "replies.sqlite", url),
            )

        ours(texts[:BATCH], model(False), options)  # imports and the server wake up
        plain = timed(one_after_another, texts, model(False))
        cold = timed(ours, texts, model(True), options)
        warm = timed(ours, texts, model(True), options)
    return {"plain": plain, "ours": cold, "again": warm}


def main() -> None:
    """Print speeds and their ratios, then shares of articles answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--faulty", type=float, default=0.1)
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore")
    sample = list(AG_NEWS.load("sample")["train"]["text"])
    texts = [f"{sample[i % len(sample)]} ({i})" for i in range(options.rows)]
    for faulty in (0.0, options.faulty):
        with server(options.latency, faulty) as url:
            measured = measure(texts, url, options)
        for name, (speed, answered) in measured.items():
            if faulty:
                print(
                    f"{name:6} {answered:,} of {len(texts):,} articles answered "
                    f"({answered / len(texts):.2%}) with {faulty:.0%} faulty replies"
                )
            else:
                ratio = speed / measured["plain"][0]
                print(f"{name:6} {speed:8.1f} articles/s {ratio:7.1f} times")


if __name__ == "__main__":
    main()
