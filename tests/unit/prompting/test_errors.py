from __future__ import annotations

import itertools
import logging
import pickle
import traceback

import httpx
import pytest
from fault_http import HTTP_FAULTS
from fault_server import FaultServer
from langchain_core.messages import AIMessage
from openai import APIStatusError, LengthFinishReasonError
from pydantic import BaseModel, SecretStr

from chapterlib.prompting import chat_models
from chapterlib.prompting.chat_models import chat_model
from chapterlib.prompting.errors import (
    Endpoint,
    LLMError,
    explain,
    mask,
)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(chat_models, "PAUSE", 0.0)


KEY = "sk-gr4fted-0123456789abcdef"
PROMPT = '1. "ministers sign treaty"'


def client(server, provider="openai", **options):
    given = {"api_key": KEY, "cache": False, "retries": 2} | options
    return chat_model(provider, "m", base_url=server.base_url, **given)


@pytest.mark.parametrize("provider", ["openai", "together"])
@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_each_fault_of_a_service_is_one_error_that_may_pass(fault, provider):
    with FaultServer(faults={fault: 1.0}) as server:
        quick = {"timeout": 0.2} if fault == "time-out" else {}
        with pytest.raises(LLMError) as caught:
            client(server, provider, **quick).invoke(PROMPT)
        assert len(server.requests) == 3
    error = caught.value
    assert (error.retryable, error.fatal) == (True, False)
    if fault in {"429", "500"}:
        assert error.status == int(fault)
    elif fault in {"time-out", "disconnect"}:
        assert error.status is None
    else:
        assert error.status == 200
        assert "no completion" in str(error)


@pytest.mark.parametrize("fault", [f for f in HTTP_FAULTS if f != "time-out"])
def test_what_passes_is_retried_and_forgotten(fault):
    with FaultServer(faults={fault: 0.5}) as server:
        llm = client(server, retries=30)
        for i in range(4):
            assert "World" in llm.invoke(f"{PROMPT}\n{i}").text
        assert {r.fault for r in server.requests} == {fault, None}


def test_retry_after_is_honoured():
    with FaultServer(faults={"429": 1.0}, retry_after=0.3) as server:
        with pytest.raises(LLMError):
            client(server).invoke(PROMPT)
        times = [r.arrived for r in server.requests]
    assert all(b - a >= 0.3 for a, b in itertools.pairwise(times))


def test_a_wait_that_is_too_long_is_reported_at_once():
    with FaultServer(faults={"429": 1.0}, retry_after=3600) as server:
        with pytest.raises(LLMError, match="later"):
            client(server).invoke(PROMPT)
        assert len(server.requests) == 1


def status_error(status, message="it said so", code=None, headers=None):
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response = httpx.Response(status, request=request, headers=headers)
    body = {"message": message, "code": code}
    return APIStatusError(message, response=response, body=body)


ENDPOINT = Endpoint("Host", "http://u:p@h/v1", "lama-3", "HOST_KEY", SecretStr(KEY))


@pytest.mark.parametrize(
    ("status", "code", "fatal", "retryable", "names"),
    [
        (400, None, False, False, "shorten the prompt"),
        (400, "model_not_available", True, False, "CHAPTERLIB_LLM_MODEL"),
        (401, None, True, False, "HOST_KEY"),
        (402, None, True, False, "credit"),
        (403, None, True, False, "rights"),
        (404, None, True, False, "serves: llama-3, gpt"),
        (410, None, True, False, "CHAPTERLIB_LLM_MODEL"),
        (413, None, False, False, "shorten"),
        (422, None, False, False, "option"),
        (429, None, False, True, "CHAPTERLIB_REQUESTS_PER_SECOND"),
        (429, "insufficient_quota", True, False, "credit"),
        (503, None, False, True, "later"),
    ],
)
def test_a_status_says_what_to_do(status, code, fatal, retryable, names):
    error = explain(status_error(status, code=code), ENDPOINT, ["gpt", "llama-3"])
    assert (error.fatal, error.retryable) == (fatal, retryable)
    assert error.status == status
    assert names in str(error)
    assert "u:p" not in str(error)


def test_many_models_are_listed_by_likeness():
    error = explain(
        status_error(404), ENDPOINT, ["llama-3", *[f"x{i}" for i in range(50)]]
    )
    assert "serves: llama-3" in str(error)
    assert str(error).endswith("and 43 more")


def test_long_words_of_a_server_are_cut_short():
    assert len(str(explain(status_error(400, "so " * 999), ENDPOINT, []))) < 400


def test_an_unknown_error_keeps_its_name():
    error = explain(ValueError("odd"), ENDPOINT, [])
    assert "ValueError: odd" in str(error)
    assert not error.retryable


def test_a_wrong_key_names_its_variable_and_is_not_retried():
    with FaultServer(key="right") as server:
        for provider, name in [("openai", "OPENAI"), ("together", "TOGETHER")]:
            with pytest.raises(LLMError, match=f"{name}_API_KEY") as caught:
                client(server, provider).invoke(PROMPT)
            assert caught.value.fatal


def test_an_unknown_model_is_named_with_what_there_is():
    wanted = pytest.raises(LLMError, match=r"'m'.*MODEL to one.*: meta-llama/new")
    with FaultServer(models=["meta-llama/new"]) as server, wanted:
        client(server).invoke(PROMPT)


def test_models_that_a_server_does_not_list_are_done_without():
    with FaultServer(key="right") as server:
        assert chat_models._served_models(client(server).root_client) == []


def test_models_are_read_from_togethers_list_too(monkeypatch):
    with FaultServer() as server:
        real = server._http.RequestHandlerClass._send
        listed = [
            {"id": "talks", "type": "chat"},
            {"id": "paints", "type": "image"},
            {"id": "talks too"},
        ]

        def plain(handler, status, body, **more):
            real(handler, status, listed)

        monkeypatch.setattr(server._http.RequestHandlerClass, "_send", plain)
        served = chat_models._served_models(client(server, "together").root_client)
        assert served == ["talks", "talks too"]


def test_a_server_that_is_not_there_is_named():
    with FaultServer() as server:
        pass
    with pytest.raises(LLMError, match=r"can't be reached .*LLM_BASE_URL") as caught:
        client(server, retries=0).invoke(PROMPT)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("ended", "told"),
    [("length", "more max_tokens"), ("content_filter", "content filter")],
)
def test_an_empty_reply_that_would_come_again_is_not_asked_for_again(
    ended, told, monkeypatch
):
    with FaultServer(faults={"empty": 1.0}) as server:
        real = server._http.RequestHandlerClass._send

        def cut(handler, status, body, **more):
            real(handler, status, body.replace(b'"stop"', f'"{ended}"'.encode()))

        monkeypatch.setattr(server._http.RequestHandlerClass, "_send", cut)
        with pytest.raises(LLMError, match=told) as caught:
            client(server).invoke(PROMPT)
        assert len(server.requests) == 1
    assert not caught.value.fatal


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "No such thing here"}},
        {"error": "No such thing here"},
        {"message": "No such thing here"},
        {"detail": "No such thing here"},
        {"detail": [{"loc": ["body"], "msg": "No such thing here"}]},
        ["No such thing here"],
    ],
)
def test_a_servers_own_words_are_read_in_whatever_shape(body):
    error = status_error(422, "")
    error.body = body
    assert "No such thing here" in str(explain(error, ENDPOINT))


def test_an_address_without_its_end_is_doubted():
    error = status_error(404, "Not Found")
    told = str(explain(error, ENDPOINT))
    assert "CHAPTERLIB_LLM_BASE_URL" in told
    assert "/v1" in told


def test_a_server_that_is_not_there_is_named_where_no_model_is():
    with FaultServer() as server:
        pass
    with pytest.raises(LLMError, match="can't be reached"):
        chat_model("openai", base_url=server.base_url, api_key=KEY)


def test_a_choice_of_none_is_no_completion(monkeypatch):
    with FaultServer(faults={"null choices": 1.0}) as server:
        real = server._http.RequestHandlerClass._send

        def empty(handler, status, body, **more):
            real(handler, status, body.replace(b'"choices": null', b'"choices": []'))

        monkeypatch.setattr(server._http.RequestHandlerClass, "_send", empty)
        with pytest.raises(LLMError, match="no completion"):
            client(server).invoke(PROMPT)


def test_a_reply_cut_off_where_a_schema_was_asked_for_is_the_callers_to_see():
    with FaultServer(faults={"cut-off": 1.0}) as server:
        llm = client(server).with_structured_output(Topic, method="json_schema")
        with pytest.raises(LengthFinishReasonError):
            llm.invoke(PROMPT)
        assert len(server.requests) == 1


def test_a_bug_of_the_caller_is_not_called_the_services():
    with FaultServer() as server, pytest.raises(TypeError, match="nonsense"):
        client(server).invoke(PROMPT, nonsense=1)


class Topic(BaseModel):
    topic: int


def test_a_reply_that_fits_no_schema_is_the_callers_to_see():
    with FaultServer(reply=lambda messages: '{"topic": "x"}') as server:
        llm = client(server).with_structured_output(Topic, method="json_schema")
        with pytest.raises(ValueError, match="topic"):
            llm.invoke(PROMPT)
        assert len(server.requests) == 1


def test_retries_of_empty_replies_keep_to_the_rate_too():
    with FaultServer(faults={"html": 1.0}) as server:
        with pytest.raises(LLMError):
            client(server, requests_per_second=20).invoke(PROMPT)
        times = [r.arrived for r in server.requests]
    assert times[2] - times[0] >= 0.08


def test_the_rate_is_limited():
    with FaultServer() as server:
        llm = client(server, requests_per_second=20)
        llm.batch([f"{PROMPT} {i}" for i in range(5)])
        times = sorted(r.arrived for r in server.requests)
    assert times[-1] - times[0] >= 0.15


def test_an_error_survives_pickling():
    error = LLMError("why", retryable=True, status=429)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retryable, copy.fatal, copy.status) == (
        "why",
        True,
        False,
        429,
    )


@pytest.mark.parametrize("provider", ["openai", "together"])
@pytest.mark.parametrize("verb", ["invoke", "stream", "batch"])
def test_a_planted_key_shows_nowhere(
    provider, verb, monkeypatch, caplog, capsys, tmp_path
):
    from langchain_core.globals import set_debug

    other = "tgp_v1_gr4fted9876543210"
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TOGETHER_API_KEY", other)
    mine = KEY if provider == "openai" else other
    caplog.set_level(logging.DEBUG)
    set_debug(True)
    shown = []
    try:
        for right in ("right", mine):
            with FaultServer(
                key=right, faults={"500": 0.5}, reply=lambda messages: "World"
            ) as server:
                llm = chat_model(provider, "m", base_url=server.base_url, retries=20)
                shown += [repr(llm), str(llm), llm.model_dump_json(exclude={"cache"})]
                try:
                    shown.append(repr(ask_by(llm, verb)))
                    assert server.requests[-1].authorization == f"Bearer {mine}"
                except LLMError as error:
                    shown += traceback.format_exception(error)
                    shown += [repr(error.__context__), repr(error.__cause__)]
                    assert right == "right"
    finally:
        set_debug(False)
    shown += [caplog.text, *capsys.readouterr()]
    shown += [
        f.read_bytes().decode("latin-1") for f in tmp_path.rglob("*") if f.is_file()
    ]
    assert "gr4fted" not in "".join(shown)
    assert "World" in "".join(shown)


def ask_by(llm, verb):
    given = [PROMPT] if verb == "batch" else PROMPT
    found = getattr(llm, verb)(given)
    return found if isinstance(found, AIMessage) else list(found)


def test_masks_know_the_settings_and_what_keys_look_like(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "odd key ")
    said = f"odd key ,odd key b Bearer xyz {'0f' * 32} sk-abcd*****wxyz mine"
    assert mask(said, "mine", None, "") == "***,***b Bearer *** *** *** ***"
    monkeypatch.setenv("CHAPTERLIB_SEED", "minus one")
    assert mask("as it is") == "as it is"
