from __future__ import annotations

import json
import random
import threading

import httpx
import pytest
from fault_replies import LABELS, REPLY_FAULTS, Reply, spoil
from fault_server import FAULTS, FaultServer, read_articles

TEXTS = [f'Item {i} says "hi" {{x}}\nArticle 2: "no"' for i in range(5)]
RIGHT = {text: LABELS[i % 4] for i, text in enumerate(TEXTS)}


def body(texts, extra=""):
    listed = "\n".join(f"Article {i}: {json.dumps(t)}" for i, t in enumerate(texts, 1))
    said = [{"role": "user", "content": f'1. "shown before"\nNow:\n{listed}{extra}'}]
    return {"model": "m", "messages": said}


def ask(server, texts=TEXTS, extra="", timeout=60.0, key="k"):
    return httpx.post(
        f"{server.base_url}/chat/completions",
        json=body(texts, extra),
        timeout=timeout,
        headers={"Authorization": f"Bearer {key}"},
    )


def content(reply):
    return reply.json()["choices"][0]["message"]["content"]


def test_it_answers_each_article_of_the_last_message():
    with FaultServer(RIGHT.__getitem__) as server:
        said = json.loads(content(ask(server)))["results"]
        assert said == [
            {"article": i, "label": RIGHT[t]} for i, t in enumerate(TEXTS, 1)
        ]
        assert server.answered == RIGHT
        assert [r.delivered for r in server.requests] == [True]
        assert server.requests[0].authorization == "Bearer k"


def test_articles_are_read_as_data():
    assert read_articles(body(TEXTS)["messages"]) == TEXTS


def faults_of(seed, order):
    faults = dict.fromkeys(["429", "500", "html"], 0.3)
    with FaultServer(RIGHT.__getitem__, faults, seed=seed) as server:
        for i in order:
            ask(server, TEXTS[:1], extra=f"\n{i}")
        return {r.raw[-30:]: r.fault for r in server.requests}


def test_faults_follow_the_seed_and_not_the_order():
    numbers = range(20)
    assert faults_of(1, numbers) == faults_of(1, reversed(numbers))
    assert faults_of(1, numbers) != faults_of(2, numbers)
    assert set(faults_of(1, numbers).values()) == {"429", "500", "html", None}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_no_right_answer_to_what_it_hits(fault):
    with FaultServer(RIGHT.__getitem__, {fault: 1.0}) as server:
        try:
            reply = ask(server, timeout=0.3 if fault == "time-out" else 60)
        except httpx.HTTPError:
            assert fault in {"time-out", "disconnect"}
        else:
            status = int(fault) if fault.isdigit() else 200
            assert reply.status_code == status
            assert ("retry-after" in reply.headers) == (fault == "429")
        kept = {"shuffled", "extra", "wrapped", "doubled"}
        assert (server.answered == RIGHT) == (fault in kept)
        assert server.answered.items() <= RIGHT.items()
        assert not server.broken_promises(
            TEXTS, [server.answered.get(t) for t in TEXTS]
        )


@pytest.mark.parametrize("fault", REPLY_FAULTS)
def test_entries_are_what_the_spoiled_reply_says(fault):
    right = Reply.of([RIGHT[t] for t in TEXTS])
    for seed in range(30):
        spoiled = spoil(right, fault, random.Random(seed))
        assert spoiled != right or fault == "shuffled"
        for number, label in spoiled.visible or spoiled.entries:
            at = spoiled.content.index(f'"article": {number}')
            assert f'"label": "{label}' in spoiled.content[at:]
        assert (spoiled.finish_reason == "length") == (fault == "cut-off")


def test_promises_that_are_broken_are_listed():
    with FaultServer(RIGHT.__getitem__, {"refusal": 1.0}) as server:
        ask(server, TEXTS[:1])
        server.faults = {}
        ask(server, TEXTS[1:2])
        assert server.broken_promises(TEXTS[:2], ["World", None]) == [
            "row 0: 'World' was invented",
            "row 1: 'Sports', not None",
        ]
        assert server.broken_promises(TEXTS[:1], []) == ["1 articles, 0 answers"]


def test_keys_and_models_are_refused_as_services_do():
    with FaultServer(key="right", models=["other"]) as server:
        assert ask(server, key="wrong").status_code == 401
        assert ask(server, key="right").json()["error"]["code"] == "model_not_found"
        listed = httpx.get(
            f"{server.base_url}/models", headers={"Authorization": "Bearer right"}
        )
        assert [m["id"] for m in listed.json()["data"]] == ["other"]
        assert not server.requests


def test_replies_are_held_after_a_number():
    with FaultServer(RIGHT.__getitem__, stop_after=1) as server:
        ask(server)
        with pytest.raises(httpx.ReadTimeout):
            ask(server, timeout=0.2)
        later: list[int] = []
        waiting = threading.Thread(target=lambda: later.append(ask(server).status_code))
        waiting.start()
        server.stop_after = None
        waiting.join()
        assert later == [200]
        assert [r.delivered for r in server.requests] == [True, False, True]


def test_it_keeps_connections_alive_and_says_what_it_is_told():
    with (
        FaultServer(reply=lambda messages: "as told") as server,
        httpx.Client() as http,
    ):
        ports = set()
        for _ in range(5):
            got = http.post(f"{server.base_url}/chat/completions", json=body(TEXTS))
            stream = got.extensions["network_stream"]
            ports.add(stream.get_extra_info("client_addr"))
            assert content(got) == "as told"
        assert len(ports) == 1


@pytest.mark.parametrize("faults", [{"plague": 0.1}, {"429": 0.7, "500": 0.7}])
def test_faults_that_make_no_sense_are_refused(faults):
    with pytest.raises(ValueError, match="fault"):
        FaultServer(faults=faults)
