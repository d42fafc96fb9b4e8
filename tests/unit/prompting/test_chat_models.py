from __future__ import annotations

import builtins
from pathlib import Path

import pytest
from fault_server import FaultServer
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langchain_together import ChatTogether
from pydantic import BaseModel, SecretStr

from chapterlib.prompting import chat_models
from chapterlib.prompting.chat_models import (
    chat_model,
    choose_provider,
    debug_llm,
)
from chapterlib.prompting.errors import LLMError
from chapterlib.prompting.local_server import LocalServer
from chapterlib.settings import get_settings

PROMPT = '1. "coach praises keeper"'


@pytest.fixture(autouse=True)
def no_keys(monkeypatch, tmp_path):
    for name in ("TOGETHER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path))


@pytest.fixture
def server():
    with FaultServer(lambda text: "Sports") as running:
        yield running


def of(server, provider="openai", **options):
    return chat_model(provider, "m", base_url=server.base_url, api_key="k", **options)


@pytest.mark.parametrize(
    ("settings", "provider"),
    [
        ({}, "local"),
        ({"OPENAI_API_KEY": "k"}, "openai"),
        ({"TOGETHER_API_KEY": "k", "OPENAI_API_KEY": "k"}, "together"),
        ({"TOGETHER_API_KEY": " "}, "local"),
        ({"TOGETHER_API_KEY": "k", "CHAPTERLIB_LLM_BASE_URL": "http://h/v1"}, "openai"),
        ({"TOGETHER_API_KEY": "k", "CHAPTERLIB_LLM_PROVIDER": "local"}, "local"),
    ],
)
def test_settings_and_keys_choose_the_provider(settings, provider, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert choose_provider() == provider


def test_the_same_clients_as_the_readers_own(server, monkeypatch):
    together, openai = of(server, "together"), of(server)
    assert isinstance(together, ChatTogether)
    assert isinstance(openai, ChatOpenAI)
    for llm in (together, openai):
        assert "Sports" in llm.invoke(PROMPT).text
        assert llm.max_tokens == 1024
        assert llm.request_timeout == 120
        assert llm.root_client.max_retries == 4
    assert [r.body["temperature"] for r in server.requests] == [0.0, 0.0]


def test_hosted_models_have_defaults_and_their_own_address(monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "t-key")
    monkeypatch.setenv("OPENAI_API_KEY", "o-key")
    together, openai = chat_model(), chat_model("openai")
    assert together.root_client.base_url.host == "api.together.xyz"
    assert together.root_client.api_key == "t-key"
    assert openai.root_client.base_url.host == "api.openai.com"
    assert openai.root_client.api_key == "o-key"
    assert together.model_name == chat_models.DEFAULT_MODELS["together"]
    assert openai.model_name == chat_models.DEFAULT_MODELS["openai"]


def test_the_model_of_the_settings_is_that_of_their_provider(monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("CHAPTERLIB_LLM_MODEL", "theirs")
    assert chat_model().model_name == chat_model("together").model_name == "theirs"
    assert chat_model("openai").model_name != "theirs"
    assert chat_model("openai", "mine").model_name == "mine"


@pytest.mark.parametrize("provider", ["together", "openai"])
def test_a_missing_key_is_named(provider):
    with pytest.raises(LLMError, match=f"{provider.upper()}_API_KEY.*local") as caught:
        chat_model(provider)
    assert caught.value.fatal


@pytest.mark.parametrize("key", ["…", "two words", "new\nline"])
def test_a_key_that_can_be_none_is_refused_and_not_shown(key):
    with pytest.raises(LLMError, match="TOGETHER_API_KEY holds") as caught:
        chat_model("together", api_key=key)
    assert key not in str(caught.value)


def test_an_unknown_provider_is_refused():
    with pytest.raises(LLMError, match="together, openai, local"):
        chat_model("pigeon")


def test_a_server_of_ones_own_needs_no_key(server, monkeypatch):
    monkeypatch.setenv("CHAPTERLIB_LLM_BASE_URL", server.base_url + "/")
    server.models = ["only-one"]
    llm = chat_model()
    assert llm.model_name == "only-one"
    assert "Sports" in llm.invoke(PROMPT).text


@pytest.mark.parametrize(("models", "said"), [(["a", "b"], "a, b"), ([], "not say")])
def test_a_server_of_many_models_asks_for_a_name(server, models, said):
    server.models = models
    with pytest.raises(LLMError, match=f"CHAPTERLIB_LLM_MODEL.*{said}"):
        chat_model("openai", base_url=server.base_url)


def test_a_reply_is_paid_for_once_even_by_another_object(server):
    first = of(server).invoke(PROMPT)
    again = of(server, timeout=5, retries=9, requests_per_second=99).invoke(PROMPT)
    assert again.text == first.text
    assert again.response_metadata["cached"]
    assert len(server.requests) == 1
    assert len(of(server).cache) == 1


def test_what_shapes_the_reply_asks_anew(server):
    llm = of(server)
    asked = [
        llm,
        of(server, temperature=1.0),
        of(server, max_tokens=9),
        of(server, "together"),
        llm.bind(stop=["x"]),
        llm.bind(extra_body={"response_format": {"type": "json_object"}}),
        chat_model("openai", "other", base_url=server.base_url),
    ]
    for model in asked:
        model.invoke(PROMPT)
    assert len(server.requests) == len(asked)
    with FaultServer(lambda text: "World") as other:
        assert "World" in of(other).invoke(PROMPT).text


def test_the_cache_may_be_off_or_another(server):
    for cache in (False, InMemoryCache()):
        of(server, cache=cache).invoke(PROMPT)
    of(server, cache=False).invoke(PROMPT)
    assert len(server.requests) == 3


def test_what_was_cut_off_is_kept_for_that_length():
    with FaultServer(faults={"cut-off": 1.0}) as server:
        for _ in range(2):
            reply = of(server).invoke(PROMPT)
            assert reply.response_metadata["finish_reason"] == "length"
        assert len(server.requests) == 1
        of(server, max_tokens=2000).invoke(PROMPT)
        assert len(server.requests) == 2


def test_the_rate_of_the_settings_is_kept_to(monkeypatch, server):
    monkeypatch.setenv("CHAPTERLIB_REQUESTS_PER_SECOND", "50")
    assert of(server).rate_limiter.requests_per_second == 50
    assert of(server, requests_per_second=2).rate_limiter.requests_per_second == 2
    monkeypatch.delenv("CHAPTERLIB_REQUESTS_PER_SECOND")
    assert of(server).rate_limiter is None


def test_options_reach_the_client(server):
    assert of(server, top_p=0.5).top_p == 0.5
    llm = of(server, max_retries=7)
    assert (llm.max_retries, llm.root_client.max_retries) == (7, 7)


def test_local_is_spoken_to_by_the_same_client(server, monkeypatch):
    for identity in ("one", "two", "one"):
        key = SecretStr("local-key")
        running = LocalServer(server.base_url, key, "tiny", identity, None)
        monkeypatch.setattr(chat_models, "local_server", lambda model, r=running: r)
        llm = chat_model("local")
        assert isinstance(llm, ChatOpenAI)
        assert llm.request_timeout == 600
        llm.invoke(PROMPT)
    assert [r.authorization for r in server.requests] == ["Bearer local-key"] * 2


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "langchain_openai":
            raise ImportError("No module named 'langchain_openai'")
        return real(name, *rest)

    monkeypatch.setattr(chat_models, "_clients", chat_models._clients.__wrapped__)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LLMError, match="pip install langchain-openai") as caught:
        chat_model("together", api_key="k")
    assert caught.value.fatal


class Topic(BaseModel):
    results: list[dict[str, int | str]]


def chain_of(llm, parser=Topic):
    prompt = ChatPromptTemplate([("system", "Be brief."), ("human", "{articles}")])
    return prompt | llm | PydanticOutputParser(pydantic_object=parser)


def test_debugging_shows_prompt_reply_tokens_and_parse(server):
    chain = chain_of(of(server))
    found = debug_llm(chain, {"articles": PROMPT})
    assert found.error is None
    (exchange,) = found.exchanges
    assert exchange.prompt == [("system", "Be brief."), ("human", PROMPT)]
    assert exchange.completion_tokens == len(exchange.reply) // 4
    assert found.output.results == [{"article": 1, "label": "Sports"}]
    shown = repr(found)
    for part in ("Be brief.", PROMPT, exchange.reply, "reply", "Topic(results="):
        assert part in shown
    assert "from the cache" not in shown
    assert "from the cache" in str(debug_llm(chain, {"articles": PROMPT}))


def test_debugging_shows_a_parse_that_failed():
    class Other(BaseModel):
        other: int

    with FaultServer(faults={"refusal": 1.0}) as server:
        found = debug_llm(chain_of(of(server), Other), {"articles": PROMPT})
    assert found.output is None
    assert found.exchanges[0].reply in str(found)
    assert "--- failed ---\nOutputParserException" in str(found)


def test_debugging_shows_a_request_that_failed_and_no_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "gr4fted-key")
    with FaultServer(key="right") as server:
        llm = chat_model("openai", "m", base_url=server.base_url)
        found = debug_llm(llm, "my key is gr4fted-key")
    assert "refused the API key" in str(found)
    assert "(none)" in str(found)
    assert "gr4fted" not in str(found)


def test_debugging_shows_what_was_cut_off():
    with FaultServer(faults={"cut-off": 1.0}) as server:
        assert "cut off at max_tokens" in str(debug_llm(of(server), PROMPT))


def test_debugging_a_template_that_fails_shows_why():
    found = debug_llm(chain_of(FakeListChatModel(responses=["x"])), {"wrong": "x"})
    assert not found.exchanges
    assert "articles" in str(found)


def test_replies_are_kept_where_the_settings_say(server):
    of(server).invoke(PROMPT)
    assert [p.name for p in Path(get_settings().cache).glob("*.sqlite")] == [
        "replies.sqlite"
    ]
