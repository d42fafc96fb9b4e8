"""Chat models of Together, OpenAI, any such server, or this machine; and a look inside.

All are LangChain's own clients. The SDK below them retries what may pass; here errors
get a remedy, and a reply with status 200 that holds no completion is asked for again.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache as cached_once
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from langchain_core import exceptions
from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatResult, LLMResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import Runnable
from pydantic import Field, SecretStr, ValidationError

from chapterlib.prompting.cache import ReplyCache
from chapterlib.prompting.errors import Endpoint, LLMError, explain, lacking, mask
from chapterlib.prompting.local_server import local_server
from chapterlib.settings import Settings, get_settings

if TYPE_CHECKING:
    from langchain_openai.chat_models.base import BaseChatOpenAI as _Client
else:
    _Client = object

Provider = Literal["together", "openai", "local"]
TOGETHER_URL = "https://api.together.xyz/v1"
OPENAI_URL = "https://api.openai.com/v1"
# Hosts withdraw models: then the error lists what they serve instead.
DEFAULT_MODELS = {
    "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "openai": "gpt-4.1-mini",
}
# A reply may have to wait for a slot, and for a busy machine of few cores.
TIMEOUTS = {"together": 120.0, "openai": 120.0, "local": 600.0}
PAUSE = 0.5  # seconds before a reply without a completion is asked for again, doubled


def chat_model(
    provider: Provider | None = None,
    model: str | None = None,
    *,
    temperature: float | None = 0.0,
    max_tokens: int = 1024,
    cache: bool | BaseCache = True,
    retries: int = 4,
    timeout: float | None = None,
    requests_per_second: float | None = None,
    base_url: str | None = None,
    api_key: str | SecretStr | None = None,
    **options: Any,
) -> BaseChatModel:
    """Make the chat model that the settings or the arguments name.

    Parameters
    ----------
    provider : {"together", "openai", "local"}, optional
        By default as `choose_provider` says.
    model : str, optional
        Its name at the provider; for ``"local"`` a GGUF file. By default the setting
        `llm_model` if the provider is that of the settings, else the provider's own
        default, or the one model that the server at `base_url` serves.
    temperature, max_tokens : float or None, int
        0: the likeliest token each time; None leaves it to the service, as some
        reasoning models demand. And the longest reply.
    cache : bool or BaseCache
        Whether a reply that was paid for once is taken from the disk (`ReplyCache`).
        With a temperature above 0 it then stays the same draw.
    retries : int
        Requests after the first, where it fails for a reason that may pass. The
        ``openai`` SDK waits as the server asks, else half a second, doubled each time.
    timeout, requests_per_second, base_url, api_key : optional
        Seconds for each request, by default 120, and 600 for the local server; the
        others are by default those of the settings.
    **options
        Further fields of `ChatTogether` or `ChatOpenAI`.

    Raises
    ------
    LLMError
        If a key or a package is missing, or the local server does not start; and, when
        the model is asked, for whatever does not give a reply.
    """
    settings = get_settings()
    chosen = provider or choose_provider(settings)
    if chosen not in TIMEOUTS:
        raise LLMError(
            f"there is no provider {provider!r}: take one of {', '.join(TIMEOUTS)}",
            fatal=True,
        )
    if model is None and chosen == choose_provider(settings):
        model = settings.llm_model
    if chosen == "local":
        server = local_server(model or "embedded")
        here = "The local server", server.base_url, server.model, "no setting"
        endpoint, identity = Endpoint(*here, server.key), server.identity
    else:
        endpoint = _endpoint(chosen, model, base_url, api_key, settings)
        identity = endpoint.base_url
    if cache is True:
        cache = ReplyCache(settings.cache / "replies.sqlite", identity)
    rate = requests_per_second or settings.requests_per_second
    if rate is not None:
        limiter = InMemoryRateLimiter(
            requests_per_second=rate, check_every_n_seconds=min(0.1, 0.25 / rate)
        )
        options.setdefault("rate_limiter", limiter)
    if chosen != "together":
        options.setdefault("use_responses_api", False)
    given = {
        "model": endpoint.model,
        "base_url": endpoint.base_url,
        "api_key": endpoint.key,
        "endpoint": endpoint,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "cache": cache,
        "max_retries": retries,
        "timeout": TIMEOUTS[chosen] if timeout is None else timeout,
        "disable_streaming": True,  # streams would pass by the cache and the retries
    }
    client: BaseChatModel = _clients()[chosen](**given | options)
    return client


def choose_provider(settings: Settings | None = None) -> Provider:
    """Name the provider that the settings point to.

    The setting `llm_provider`; else ``"openai"`` where `llm_base_url` is set; else the
    one whose key is there, Together first; else ``"local"``.
    """
    settings = settings or get_settings()
    if settings.llm_provider is not None:
        return settings.llm_provider
    if settings.llm_base_url:
        return "openai"
    if _shown(settings.together_api_key):
        return "together"
    return "openai" if _shown(settings.openai_api_key) else "local"


def _endpoint(
    provider: Provider,
    model: str | None,
    base_url: str | None,
    api_key: str | SecretStr | None,
    settings: Settings,
) -> Endpoint:
    if provider == "together":
        name, variable, url = "Together", "TOGETHER_API_KEY", base_url or TOGETHER_URL
        key = _shown(api_key or settings.together_api_key)
    else:
        name, variable = "OpenAI", "OPENAI_API_KEY"
        url = base_url or settings.llm_base_url or OPENAI_URL
        key = _shown(api_key or settings.openai_api_key)
    url = url.rstrip("/")
    usual = url in (TOGETHER_URL, OPENAI_URL)
    if not usual:
        name = "The server"
        key = key or "none"  # vLLM and its like need none, but the client does
    if not key:
        raise LLMError(
            f"{name} needs an API key: put it into {variable}, in the environment or "
            'in .env; or set CHAPTERLIB_LLM_PROVIDER to "local", which needs none',
            fatal=True,
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LLMError(
            f"{variable} holds what can't be an API key (blanks, or letters beyond "
            "ASCII): copy the key again",
            fatal=True,
        )
    model = model or (DEFAULT_MODELS[provider] if usual else _only_model(url, key))
    return Endpoint(name, url, model, variable, SecretStr(key))


def _shown(key: str | SecretStr | None) -> str:
    value = key.get_secret_value() if isinstance(key, SecretStr) else key
    return (value or "").strip()


def _only_model(url: str, key: str) -> str:
    _clients()
    from openai import APIConnectionError, OpenAI

    with OpenAI(base_url=url, api_key=key) as client:
        try:
            names = _listed_models(client)
        except APIConnectionError as error:
            at = Endpoint("The server", url, "", "no setting", SecretStr(key))
            raise explain(error, at) from None
        except Exception:  # of whatever kind: then it does not say
            names = []
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names[:20]) or "it does not say which ones it has"
    raise LLMError(
        f"the server at {mask(url, key)} needs a model's name: set "
        f"CHAPTERLIB_LLM_MODEL to one that it serves ({listed})",
        fatal=True,
    )


def _served_models(client: Any) -> list[str]:
    """Ask an endpoint for the names of its chat models; empty if it won't say."""
    try:
        return _listed_models(client)
    except Exception:
        return []


def _listed_models(client: Any) -> list[str]:
    raw = client.with_options(timeout=10, max_retries=0).models.with_raw_response
    listed = json.loads(raw.list().text)
    if isinstance(listed, dict):
        listed = listed.get("data")
    kinds = ("chat", "model", None)
    return [str(entry["id"]) for entry in listed if entry.get("type") in kinds]


class _Careful(_Client):
    """Raises `LLMError`, and asks again where a reply holds no completion."""

    if TYPE_CHECKING:
        endpoint: Endpoint

    @classmethod
    def is_lc_serializable(cls) -> bool:
        # A serializable model's key in the reply cache holds every argument: a longer
        # time-out would forget all that was paid for.
        return False

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        import openai

        # What with_structured_output raises on what a model says is for the caller.
        content = openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError
        retries = self.max_retries or 0
        for tried in range(retries + 1):
            try:
                return super()._generate(*args, **kwargs)
            except (*content, ValidationError):
                raise
            except LLMError as found:
                error = found
            except (openai.OpenAIError, exceptions.ModelError) as found:
                missing = getattr(found, "status_code", None) in (400, 404, 410)
                models = _served_models(self.root_client) if missing else ()
                error = explain(found, self.endpoint, models)
            except Exception as found:
                # LangChain hangs the response on what was raised while it was read.
                if getattr(found, "response", None) is None:
                    raise
                error = explain(found, self.endpoint, status=200)
            if error.status != 200 or tried == retries:
                break
            time.sleep(min(PAUSE * 2**tried, 8))
            if self.rate_limiter is not None:
                self.rate_limiter.acquire(blocking=True)
        # Outside of the handler: the error found may quote the key, and is not chained.
        raise error

    def _create_chat_result(self, *args: Any, **kwargs: Any) -> ChatResult:
        try:
            result = super()._create_chat_result(*args, **kwargs)
            found = lacking(result.generations)
        except Exception as error:
            found = error
        if found is None:
            return result
        if isinstance(found, LLMError):
            raise found
        raise explain(found, self.endpoint, status=200)


@cached_once
def _clients() -> dict[Provider, Any]:
    """Import LangChain's clients, which are slow to load and may be missing."""
    try:
        from langchain_openai import ChatOpenAI
        from langchain_together import ChatTogether
    except ImportError as error:
        raise LLMError(
            f"chat models need packages that are missing ({error}): install them with "
            "`python -m pip install langchain-openai langchain-together xllamacpp`",
            fatal=True,
        ) from error

    class TogetherChat(_Careful, ChatTogether):
        endpoint: Endpoint = Field(exclude=True, repr=False)

    class OpenAIChat(_Careful, ChatOpenAI):
        endpoint: Endpoint = Field(exclude=True, repr=False)

    return {"together": TogetherChat, "openai": OpenAIChat, "local": OpenAIChat}


@dataclass
class Exchange:
    """One prompt (role and text of each message) and its reply, if there was one."""

    prompt: list[tuple[str, str]]
    reply: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass
class Debugged:
    """The exchanges of one call of a chain, and what it returned or raised."""

    exchanges: list[Exchange] = field(default_factory=list)
    output: Any = None
    error: Exception | None = None

    def __str__(self) -> str:
        lines: list[str] = []
        for exchange in self.exchanges:
            for role, text in exchange.prompt:
                lines += [f"--- prompt: {role} ---", text]
            lines += ["--- reply ---", exchange.reply or "(none)", "--- tokens ---"]
            line = f"{exchange.prompt_tokens} prompt"
            line += f" + {exchange.completion_tokens} reply"
            if exchange.finish_reason == "length":
                line += ", cut off at max_tokens"
            lines += [f"{line}, from the cache" if exchange.cached else line]
        if self.error is None:
            lines += ["--- parsed ---", repr(self.output)]
        else:
            lines += ["--- failed ---", f"{type(self.error).__name__}: {self.error}"]
        return mask("\n".join(lines))

    __repr__ = __str__


def debug_llm(chain: Runnable, inputs: Any) -> Debugged:
    """Call a chain once and show what went over the wire and what came of it.

    `chain` is such as ``prompt | llm | parser``, or a chat model alone, and `inputs`
    what its `invoke` takes. If it fails, the error is there and all that came before
    it. What is printed holds no API key.
    """
    listener = _Listener()
    found = Debugged()
    try:
        found.output = chain.invoke(inputs, {"callbacks": [listener]})
    except Exception as error:
        found.error = error
    found.exchanges = list(listener.exchanges.values())
    return found


class _Listener(BaseCallbackHandler):
    def __init__(self) -> None:
        self.exchanges: dict[UUID, Exchange] = {}

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        said = [(m.type, str(m.text)) for batch in messages for m in batch]
        self.exchanges[run_id] = Exchange(said)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        exchange = self.exchanges[run_id]
        message: Any = response.generations[0][0].message  # type: ignore[union-attr]
        refusal = message.additional_kwargs.get("refusal")
        exchange.reply = str(message.text) or str(refusal or "")
        exchange.finish_reason = message.response_metadata.get("finish_reason")
        exchange.cached = bool(message.response_metadata.get("cached"))
        used: Any = message.usage_metadata or {}
        exchange.prompt_tokens = used.get("input_tokens", 0)
        exchange.completion_tokens = used.get("output_tokens", 0)
