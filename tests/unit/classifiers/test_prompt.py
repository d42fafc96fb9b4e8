"""The prompted classifier: one answer a text, whatever the service does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, load_from_disk
from fault_replies import REPLY_FAULTS
from fault_server import FAULTS, FaultServer, Messages, read_articles
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from sklearn.base import clone, is_classifier
from sklearn.model_selection import cross_val_score

from chapterlib.classifiers.prompt import PromptClassifier
from chapterlib.prompting import chat_models, errors, requests
from chapterlib.prompting.budget import BudgetExceeded, longest_reply
from chapterlib.prompting.cache import ReplyCache, ReplyCacheError
from chapterlib.prompting.parsers import (
    Answer,
    accounting,
    answers_to_dataset,
    results_schema,
)
from chapterlib.prompting.requests import GIVE_UP_AFTER
from chapterlib.tasks.task import AG_NEWS

LABEL_NAMES = AG_NEWS.label_names
REMINDER = requests.REMINDER.format(item="article", subjects="topics")

KEY = "sk-planted-0123456789abcdefghij"
FEW = [f'Item {i}: "a" {{b}} {{{{ c }}}}' for i in range(25)]


def label_of(text: str) -> str:
    return LABEL_NAMES[int(text.split()[1].rstrip(":")) % 4]


def names(answers: list[Answer]) -> list[str | None]:
    return [None if a.label is None else LABEL_NAMES[a.label] for a in answers]


def listed(*entries: tuple[int, str]) -> str:
    rows = [{"article": number, "label": label} for number, label in entries]
    return json.dumps({"results": rows})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def chat(server: FaultServer, **options: Any) -> Any:
    chosen = {"max_tokens": 400, "timeout": 10.0, "retries": 0, **options}
    return chat_models.chat_model(
        "openai", "m", base_url=server.base_url, api_key=KEY, **chosen
    )


def classifier(server: FaultServer, **options: Any) -> PromptClassifier:
    return PromptClassifier(chat(server), progress=False, **options)


def test_answers_come_in_the_order_of_the_texts() -> None:
    with FaultServer(label_of) as server:
        asked = classifier(server)
        answers = asked.predict_answers(FEW)
        assert [a.article for a in answers] == list(range(1, 26))
        assert names(answers) == [label_of(text) for text in FEW]
        assert sorted(len(r.articles) for r in server.requests) == [5, 10, 10]
        assert asked.answers_ == answers
        assert (asked.usage_.requests, asked.usage_.cached) == (3, 0)
        np.testing.assert_array_equal(asked.predict(FEW), [i % 4 for i in range(25)])
        assert asked.usage_.cached == 3
        assert len(server.requests) == 3


def test_what_occurs_twice_is_asked_about_once() -> None:
    with FaultServer(label_of) as server:
        answers = classifier(server).predict_answers([FEW[3], FEW[1], FEW[3]])
        assert names(answers) == [LABEL_NAMES[3], LABEL_NAMES[1], LABEL_NAMES[3]]
        assert [a.article for a in answers] == [1, 2, 3]
        assert [r.articles for r in server.requests] == [[FEW[3], FEW[1]]]


@pytest.mark.filterwarnings("ignore:.*have no answer:RuntimeWarning")
@pytest.mark.parametrize("seed", range(3))
def test_with_a_third_of_replies_faulty_no_article_is_lost(seed: int) -> None:
    texts = [f"Item {i}: {'news ' * (i % 7)}" for i in range(500)]
    quick = [fault for fault in FAULTS if fault != "time-out"]
    faults = dict.fromkeys(quick, 0.29 / len(quick)) | {"time-out": 0.01}
    with FaultServer(label_of, faults, seed=seed) as server:
        asked = PromptClassifier(chat(server, timeout=5.0), progress=False)
        answers = asked.predict_answers(texts)
        assert not server.broken_promises(texts, names(answers))
        assert [a.article for a in answers] == list(range(1, 501))
        for answer in answers:
            assert (answer.label is not None) == (answer.verdict == "parsed")
        assert accounting(answers)["articles"].sum() == 500
        assert accounting(answers).loc["parsed", "share"] > 0.9
        # Once in a batch and once alone: nothing is asked about more than twice.
        asked_about = Counter(t for r in server.requests for t in r.articles)
        assert max(asked_about.values()) <= 2
        # Run again, only requests that brought no reply are sent.
        before = [r.raw for r in server.delivered]
        sent = len(server.requests)
        again = asked.predict_answers(texts)
        assert not {r.raw for r in server.requests[sent:]} & set(before)
        assert not server.broken_promises(texts, names(again))
        settled = [a for a in answers if a.verdict == "parsed"]
        assert [again[a.article - 1] for a in settled] == settled


@pytest.mark.filterwarnings("ignore:.*have no answer:RuntimeWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_when_every_reply_is_faulty_all_are_accounted_for(fault: str) -> None:
    with FaultServer(label_of, {fault: 1.0}) as server:
        llm = chat(server, timeout=0.2 if fault == "time-out" else 10.0)
        answers = PromptClassifier(llm, progress=False).predict_answers(FEW)
        assert not server.broken_promises(FEW, names(answers))
        assert len(server.requests) <= 3 + 25
        kept = {"shuffled", "extra", "wrapped", "doubled"}
        assert all(a.verdict == "parsed" for a in answers) == (fault in kept)
        if fault == "500":
            assert {a.verdict for a in answers} == {"missing"}
            assert all("500" in (a.said or "") for a in answers)


def scripted(first: str, then: dict[str, str]) -> Any:
    """Reply with `first` to a batch, and to a lone article as told."""

    def reply(messages: Messages) -> str:
        texts = read_articles(messages)
        return first if len(texts) > 1 else then[texts[0]]

    return reply


def test_a_batch_keeps_what_was_answered_and_asks_for_the_rest() -> None:
    first = listed((2, "Sports"), (1, "World"), (3, "Pop"), (5, "World"), (5, "Sports"))
    then = {FEW[i]: listed((1, label_of(FEW[i]))) for i in range(25)}
    then[FEW[2]] = "I cannot help with that."
    with FaultServer(reply=scripted(first, then)) as server:
        answers = classifier(server).predict_answers(FEW[:5])
        lone = sorted(read_articles(r.body["messages"])[0] for r in server.requests[1:])
        assert lone == sorted(FEW[2:5])
    assert [a.verdict for a in answers] == ["parsed"] * 2 + ["refused"] + ["parsed"] * 2
    assert names(answers) == ["World", "Sports", None, "Sci/Tech", "World"]


def test_a_reply_that_is_cut_off_keeps_its_whole_entries() -> None:
    with FaultServer(label_of, {"cut-off": 1.0}, seed=3) as server:
        asked = classifier(server)
        answers = asked.predict_answers(FEW[:10])
        assert 0 < len(server.answered) < 10
        assert not server.broken_promises(FEW[:10], names(answers))
        # It was paid for, so it is not asked for again.
        sent = len(server.requests)
        assert asked.predict_answers(FEW[:10]) == answers
        assert len(server.requests) == sent


def test_a_lone_article_is_asked_about_in_other_words() -> None:
    told = ["no idea", listed((1, "Sports"))]

    def reply(messages: Messages) -> str:
        return told[REMINDER in messages[-1]["content"]]

    with FaultServer(reply=reply) as server:
        asked = classifier(server, batch_size=1)
        assert names(asked.predict_answers(FEW[:2])) == ["Sports", "Sports"]
        assert len(server.requests) == 4
        told[1] = "no idea at all"
        asked.predict(FEW[:2])
        assert len(server.requests) == 4
        assert asked.predict(FEW[2:3]).tolist() == [-1]


def test_an_article_may_be_asked_about_alone_more_often() -> None:
    def reply(messages: Messages) -> str:
        *_, (last, text) = enumerate(read_articles(messages))
        if last or "This is try 3." not in messages[-1]["content"]:
            return "no idea"
        return listed((1, label_of(text)))

    with FaultServer(reply=reply) as server:
        asked = classifier(server, retries=2)
        assert names(asked.predict_answers(FEW[:3])) == [None] * 3
        assert len(server.requests) == 1 + 3 * 2
        # What was told is not asked for again: one request more for each article.
        asked.set_params(retries=5)
        assert names(asked.predict_answers(FEW[:3])) == [label_of(t) for t in FEW[:3]]
        assert len(server.requests) == 1 + 3 * 3
        told = [r.body["messages"][-1]["content"] for r in server.requests[1:]]
        assert sorted(text.count(REMINDER) for text in told) == [0] * 3 + [1] * 6
        asked.set_params(retries=0)
        assert asked.predict(FEW[:3]).tolist() == [-1] * 3
        assert len(server.requests) == 1 + 3 * 3


@pytest.mark.parametrize("seed", range(2))
def test_with_more_tries_a_third_of_faulty_replies_leaves_none_without(seed) -> None:
    texts = [f"Item {i}: {'news ' * (i % 7)}" for i in range(500)]
    quick = [fault for fault in FAULTS if fault != "time-out"]
    faults = dict.fromkeys(quick, 0.3 / len(quick))
    with FaultServer(label_of, faults, seed=seed) as server:
        answers = classifier(server, retries=9).predict_answers(texts)
        assert names(answers) == [label_of(text) for text in texts]


def test_the_text_of_a_refusal_is_read() -> None:
    refusal = AIMessage("", additional_kwargs={"refusal": "I cannot help with that."})
    asked = PromptClassifier(RunnableLambda(lambda _: refusal), progress=False)
    assert asked.predict_answers(FEW[:1])[0].verdict == "refused"


def test_any_runnable_will_do_as_a_model() -> None:
    def reply(messages: list[BaseMessage]) -> str:
        texts = read_articles([{"content": messages[-1].content}])
        return listed(*((i, label_of(t)) for i, t in enumerate(texts, start=1)))

    asked = PromptClassifier(RunnableLambda(reply), progress=False, batch_size=4)
    assert names(asked.predict_answers(FEW)) == [label_of(t) for t in FEW]
    assert asked.usage_.requests == 7
    with pytest.raises(ValueError, match="max_tokens"):
        clone(asked).set_params(budget_tokens=10_000).predict(FEW)


def test_bound_arguments_and_retries_stay_around_the_model() -> None:
    with FaultServer(label_of) as server:
        llm = chat(server, extra_body={"top_k": 1}).with_retry(stop_after_attempt=2)
        asked = PromptClassifier(llm, constrained=True, progress=False)
        asked.predict(FEW[:12])
        assert (asked.usage_.requests, asked.usage_.cached) == (2, 0)
        asked.predict(FEW[:12])
        assert (asked.usage_.requests, asked.usage_.cached) == (0, 2)
        bodies = sorted((r.body for r in server.requests), key=lambda b: len(str(b)))
        for body, n in zip(bodies, [2, 10], strict=True):
            assert body["top_k"] == 1
            schema = body["response_format"]["json_schema"]["schema"]
            assert schema == results_schema(n)


def test_the_longest_reply_may_be_set() -> None:
    with FaultServer(label_of) as server:
        asked = classifier(server, max_tokens=77)
        asked.predict(FEW[:1])
        body = server.requests[0].body
        assert {body.get("max_tokens"), body.get("max_completion_tokens")} == {None, 77}
        asked.set_params(budget_tokens=76)
        with pytest.raises(BudgetExceeded, match="may take up to"):
            asked.predict(FEW[1:2])
        asked.set_params(llm=asked.llm.bind(max_tokens=5), max_tokens=None)
        assert longest_reply(asked.llm) == 5


# --- interrupted, and run again ---

RUN = """
import sys
sys.path[:0] = {paths!r}
from tests.unit.classifiers.test_prompt import PromptClassifier, chat, names
class Server: base_url = {url!r}
texts = [f"Item {{i}}: news" for i in range({n})]
print(names(PromptClassifier(chat(Server), progress=False).predict_answers(texts)))
"""


def run_elsewhere(server: FaultServer, n: int) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    paths = [str(root), str(root / "tests" / "doubles")]
    code = RUN.format(paths=paths, url=server.base_url, n=n)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def settled(server: FaultServer, delivered: int) -> None:
    """Wait until so many replies were delivered, and the next requests are sent."""
    while len(server.delivered) < delivered:
        time.sleep(0.02)
    sent = -1
    while sent != len(server.requests):
        sent = len(server.requests)
        time.sleep(0.5)


@pytest.mark.slow
def test_killed_half_way_it_pays_for_nothing_twice() -> None:
    texts = [f"Item {i}: news" for i in range(300)]
    faults = dict.fromkeys(REPLY_FAULTS, 0.3 / len(REPLY_FAULTS))
    with FaultServer(label_of, faults, stop_after=20) as server:
        process = run_elsewhere(server, 300)
        settled(server, 20)
        assert process.poll() is None
        process.kill()
        process.wait()
        arrived = [r.raw for r in server.delivered]
        assert len(arrived) == 20
        server.stop_after, sent = None, len(server.requests)
        output, _ = run_elsewhere(server, 300).communicate()
        later = [r.raw for r in server.requests[sent:]]
        assert not set(arrived) & set(later)
        assert not server.broken_promises(texts, eval(output))
        counts = Counter(r.raw for r in server.delivered)
        assert set(counts.values()) == {1}


def test_an_interrupt_waits_for_what_is_under_way(
    request: pytest.FixtureRequest,
) -> None:
    # A suite that was started in the background (`make test &`) inherits "ignore".
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with FaultServer(label_of, stop_after=4) as server:
        asked = classifier(server, batch_size=1, max_concurrency=2)

        def interrupt() -> None:
            settled(server, 4)
            os.kill(os.getpid(), signal.SIGINT)
            server.stop_after = None

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            asked.predict(FEW)
        thread.join()
        assert len(server.requests) == 6
        assert asked.usage_.requests == 6
        assert names(asked.predict_answers(FEW)) == [label_of(t) for t in FEW]
        assert len(server.requests) == 25


def test_it_works_where_an_event_loop_runs() -> None:
    async def cell() -> Any:
        return classifier(server).predict(FEW)

    with FaultServer(label_of) as server:
        assert len(asyncio.run(cell())) == 25


# --- budgets ---


def test_a_budget_stops_before_the_call_that_would_pass_it() -> None:
    with FaultServer(label_of) as server:
        asked = classifier(server, batch_size=1, budget_tokens=2500)
        done = spent = 0
        for _ in range(100):
            try:
                answers = asked.predict_answers(FEW)
                break
            except BudgetExceeded as stop:
                answers, usage = stop.answers, stop.usage
            assert (answers, usage) == (asked.answers_, asked.usage_)
            assert 0 < asked.usage_.tokens <= 2500
            spent += asked.usage_.tokens
            assert [a.article for a in answers] == list(range(1, 26))
            told = [a for a in answers if a.verdict == "parsed"]
            rest = [a for a in answers if a.verdict != "parsed"]
            assert {(a.verdict, a.said) for a in rest} == {("missing", "not asked")}
            assert done < len(told) == len(server.requests)
            done = len(told)
        assert done > 0
        assert names(answers) == [label_of(t) for t in FEW]
        assert len(server.requests) == 25
        # A budget of nothing is enough for what is cached.
        asked.set_params(budget_tokens=0)
        assert asked.predict_answers(FEW) == answers
        with pytest.raises(BudgetExceeded):
            asked.predict(["Item 99"])


def test_a_budget_in_dollars_needs_prices() -> None:
    with FaultServer(label_of) as server:
        asked = classifier(server, batch_size=1, budget_usd=0.002)
        with pytest.raises(ValueError, match="price_prompt"):
            asked.predict(FEW)
        asked.set_params(price_prompt=1.0, price_completion=2.0)
        with pytest.raises(BudgetExceeded, match=r"the budget is \$0.002"):
            asked.predict(FEW)
        assert 0 < asked.usage_.usd <= 0.002


def test_the_settings_may_hold_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_BUDGET_TOKENS", "700")
    with FaultServer(label_of) as server:
        with pytest.raises(BudgetExceeded, match="the budget is 700 tokens"):
            classifier(server).predict(FEW)
        assert not server.requests


# --- when nothing helps ---


def test_a_wrong_key_is_an_error_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [f"Item {i}" for i in range(1000)]
    with FaultServer(label_of, key="right") as server:
        with pytest.raises(errors.LLMError) as caught:
            classifier(server).predict(texts)
        assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in caplog.text


def test_another_ones_client_does_not_tell_the_key_either() -> None:
    with FaultServer(label_of, key="right") as server:
        llm = ChatOpenAI(model="m", api_key=KEY, base_url=server.base_url)
        with pytest.raises(errors.LLMError, match="401") as caught:
            PromptClassifier(llm, progress=False).predict(FEW)
        assert caught.value.fatal
        assert KEY not in "".join(traceback.format_exception(caught.value))
        assert len(server.requests) == 0


def test_a_server_that_is_down_is_not_asked_for_ever() -> None:
    texts = [f"Item {i}" for i in range(1000)]
    with FaultServer(label_of, {"500": 1.0}) as server:
        asked = classifier(server)
        with pytest.warns(RuntimeWarning, match="1,000 of 1,000 articles have no"):
            answers = asked.predict_answers(texts)
        assert GIVE_UP_AFTER <= len(server.requests) <= GIVE_UP_AFTER + 16
        assert {a.verdict for a in answers} == {"missing"}
        assert all("500" in (a.said or "") for a in answers)
        assert asked.usage_.failed == len(server.requests)
        server.faults = {}
        assert names(asked.predict_answers(texts)) == [label_of(t) for t in texts]


def test_what_costs_nothing_needs_no_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_BUDGET_USD", "0.01")
    with FaultServer(label_of) as server:
        llm = chat(server)
        monkeypatch.setattr(chat_models, "chat_model", lambda _: llm)
        asked = PromptClassifier("local", progress=False)
        assert asked.predict(FEW[:2]).tolist() == [0, 1]
        assert asked.usage_.usd == 0


def test_requests_refused_for_what_they_are_stop_no_other() -> None:
    texts = [f"Item {i}: {'too long' if i < 50 else 'short'}" for i in range(60)]

    def reply(messages: list[BaseMessage]) -> str:
        said = [{"content": messages[-1].content}]
        if "too long" in said[0]["content"]:
            raise errors.LLMError("maximum context length is 10", status=400)
        told = enumerate(read_articles(said), start=1)
        return listed(*((i, label_of(text)) for i, text in told))

    asked = PromptClassifier(RunnableLambda(reply), progress=False, max_concurrency=1)
    with pytest.warns(RuntimeWarning, match="50 of 60 .*maximum context length"):
        answers = asked.predict_answers(texts)
    assert names(answers) == [None] * 50 + [label_of(t) for t in texts[50:]]
    assert asked.usage_.failed == 5 + 50


def test_a_text_that_cannot_be_sent_harms_no_other() -> None:
    texts = [*FEW[:3], "Item 3: \ud800"]
    with FaultServer(label_of) as server:
        llm = chat(server, cache=False)
        answers = PromptClassifier(llm, progress=False).predict_answers(texts)
    assert names(answers)[:3] == [label_of(t) for t in FEW[:3]]
    assert len(answers) == 4


class Broken(ReplyCache):
    def __init__(self, *, reads: bool) -> None:
        super().__init__(__file__)  # which exists
        self.reads = reads

    def _run(self, statement: str, values: Any) -> list[Any]:
        if statement.startswith("SELECT") and self.reads:
            return []
        raise self._error("the disk is full")


def test_a_cache_that_fails_loses_no_reply() -> None:
    with FaultServer(label_of) as server:
        llm = chat(server).model_copy(update={"cache": Broken(reads=True)})
        with pytest.warns(RuntimeWarning, match="could not be stored"):
            answers = PromptClassifier(llm, progress=False).predict_answers(FEW)
        assert names(answers) == [label_of(t) for t in FEW]
        llm = chat(server).model_copy(update={"cache": Broken(reads=False)})
        sent = len(server.requests)
        with pytest.raises(ReplyCacheError, match="the disk is full"):
            PromptClassifier(llm, progress=False).predict(FEW)
        assert len(server.requests) == sent


def test_the_cache_of_all_models_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = InMemoryCache()
    monkeypatch.setattr(
        "langchain_core.language_models.chat_models.get_llm_cache", lambda: shared
    )
    with FaultServer(label_of) as server:
        llm = chat(server).model_copy(update={"cache": None})
        for _ in range(2):
            PromptClassifier(llm, progress=False).predict(FEW)
        assert len(server.requests) == 3
        assert len(shared._cache) == 3


# --- scikit-learn, datasets ---


def test_it_is_a_scikit_learn_estimator() -> None:
    with FaultServer(label_of) as server:
        asked = classifier(server, batch_size=4)
        copy = clone(asked)
        assert copy.get_params() == asked.get_params()
        assert copy.llm is asked.llm
        assert is_classifier(copy)
        assert copy.classes_.tolist() == [0, 1, 2, 3]
        labels = [i % 4 for i in range(25)]
        scores = cross_val_score(asked, FEW, labels, cv=3)
        assert scores.tolist() == [1, 1, 1]
        assert asked.fit(FEW, labels).score(FEW, labels) == 1
        assert KEY not in repr(asked)
        assert KEY not in asked._repr_html_()


def test_without_a_model_the_settings_choose_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FaultServer(label_of) as server:
        monkeypatch.setenv("CHAPTERLIB_LLM_BASE_URL", server.base_url)
        monkeypatch.setenv("CHAPTERLIB_LLM_MODEL", "m")
        for llm in (None, "openai"):
            asked = PromptClassifier(llm, progress=False)
            assert names(asked.predict_answers(FEW[:1])) == ["World"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no texts"),
        (["a", " \n"], r"text 1 is ' \\n'"),
        (["a", None], "text 1 is None"),
        (["a", 3.5], "text 1 is 3.5"),
        ("a", "one text"),
        (
            Dataset.from_dict({"text": ["a"]}),
            "a Dataset: hand over",
        ),
    ],
)
def test_texts_that_are_none_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptClassifier(RunnableLambda(str)).predict(texts)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("max_concurrency", 0), ("retries", -1)]
)
def test_sizes_are_checked(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        PromptClassifier(RunnableLambda(str), **{name: value}).predict(FEW)


def rows(n: int) -> Dataset:
    return Dataset.from_dict({"text": FEW[:n], "label": [0] * n})


def test_answers_go_beside_their_rows(tmp_path: Path) -> None:
    with FaultServer(label_of, {"unknown label": 1.0}) as server:
        dataset = rows(12)
        answers = classifier(server).predict_answers(dataset["text"])
    found = answers_to_dataset(dataset, answers)
    found.save_to_disk(str(tmp_path / "rows"))
    again = load_from_disk(str(tmp_path / "rows"))
    assert again.column_names == ["text", "label", "predicted", "verdict", "said"]
    assert again.features["predicted"] == ClassLabel(names=list(LABEL_NAMES))
    assert again["predicted"][:] == [
        -1 if a.label is None else a.label for a in answers
    ]
    assert again["verdict"][:] == [a.verdict for a in answers]
    assert again["said"][:] == [a.said for a in answers]
    assert -1 in again["predicted"][:]


def test_fingerprints_tell_answers_apart() -> None:
    one = [Answer(article=i, label=0, verdict="parsed", said="x") for i in (1, 2)]
    other = [one[0], one[1].model_copy(update={"label": 3})]
    dataset = rows(2)
    first = answers_to_dataset(dataset, one)
    assert answers_to_dataset(dataset, one)._fingerprint == first._fingerprint
    assert answers_to_dataset(dataset, other)._fingerprint != first._fingerprint
    replaced = answers_to_dataset(first, other)
    assert replaced["predicted"][:] == [0, 3]
    doubled = replaced.map(lambda row: {"twice": 2 * row["predicted"]})
    assert doubled["twice"][:] == [0, 6]


@pytest.mark.parametrize("numbers", [[1], [1, 2, 3], [2, 1], []])
def test_answers_to_other_rows_are_refused(numbers: list[int]) -> None:
    answers = [Answer(article=i, label=0, verdict="parsed", said="x") for i in numbers]
    with pytest.raises(ValueError, match="2 rows need the answers 1 to 2"):
        answers_to_dataset(rows(2), answers)


def test_the_accounts_add_up() -> None:
    verdicts = ["parsed", "refused", "parsed", "missing"]
    answers = [
        Answer(article=i, label=1 if v == "parsed" else None, verdict=v, said=None)
        for i, v in enumerate(verdicts, start=1)
    ]
    table = accounting(answers)
    assert table["articles"].to_dict() == {
        "parsed": 2,
        "missing": 1,
        "ambiguous": 0,
        "refused": 1,
        "invalid": 0,
    }
    assert table["share"].sum() == 1
    assert accounting([])["articles"].sum() == 0


def test_the_key_is_nowhere(
    own_cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    faults = dict.fromkeys(["500", "429", "html", "error body", "refusal"], 0.15)
    with FaultServer(label_of, faults) as server:
        asked = PromptClassifier(chat(server), batch_size=3)
        with pytest.warns(RuntimeWarning) as told:
            answers = asked.predict_answers(FEW)
        assert {r.authorization for r in server.requests} == {f"Bearer {KEY}"}
        folder = tmp_path / "rows"
        answers_to_dataset(rows(25), answers).save_to_disk(str(folder))
    printed = capfd.readouterr()
    shown = [caplog.text, printed.out, printed.err, repr(asked), str(told.list)]
    shown += [repr(vars(asked)), repr(answers)]
    assert not [text for text in shown if KEY in text]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(own_cache in p.parents for p in files)
    assert any(folder in p.parents for p in files)
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
