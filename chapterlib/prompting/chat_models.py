"""Count the tokens of every call, and leave out what came from the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import Runnable
from pydantic import SecretStr

from chapterlib.prompting.budget import Usage
from chapterlib.prompting.cache import ReplyCache
from chapterlib.prompting.errors import Endpoint, LLMError, mask
from chapterlib.prompting.local_server import local_server
from chapterlib.settings import Settings, get_settings

if TYPE_CHECKING:
    from chapterlib.prompting.clients import OpenAIChat, TogetherChat


class TokenCounter(BaseCallbackHandler):
    """Counts what the calls that it is handed to take; safe under threads.

    LangChain's own usage callbacks count a reply out of the cache like one that was
    paid for.

    Attributes
    ----------
    usage : Usage
        What was asked for so far. The tokens are those of the services' own counts;
        what a service may have charged for a reply that never arrived is not in it.

    Examples
    --------
    >>> counter = TokenCounter()
    >>> config = {"callbacks": [counter]}  # chain.invoke(inputs, config)
    >>> counter.usage.tokens
    0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"requests": 0, "cached": 0, "failed": 0}
        self._counts.update(prompt_tokens=0, completion_tokens=0)

    @property
    def usage(self) -> Usage:
        """What was counted until now."""
        with self._lock:
            return Usage(**self._counts)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Count a reply."""
        message = message_of(response)
        if message is not None and message.response_metadata.get("cached"):
            self._add(cached=1)
            return
        prompt, completion = tokens_of(message)
        self._add(requests=1, prompt_tokens=prompt, completion_tokens=completion)

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Count a request that brought no reply."""
        self._add(requests=1, failed=1)

    def _add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count


def message_of(response: LLMResult) -> AIMessage | None:
    """Take the message out of what a callback is given."""
    for generations in response.generations:
        for generation in generations:
            message = getattr(generation, "message", None)
            if isinstance(message, AIMessage):
                return message
    return None


def tokens_of(message: AIMessage | None) -> tuple[int, int]:
    """Tokens of prompt and reply, as the service counted them; 0 where it did not."""
    if message is None or message.usage_metadata is None:
        return 0, 0
    counts = message.usage_metadata
    return counts["input_tokens"], counts["output_tokens"]


@dataclass
class Exchange:
    """One prompt and its reply.

    Attributes
    ----------
    prompt : list of (str, str)
        Role and text of each message, as rendered.
    reply : str or None
        As the model gave it; None if there was none.
    finish_reason : str or None
        Why the reply ended: ``"length"`` for one that was cut off.
    prompt_tokens, completion_tokens : int
        As the service counted them.
    cached : bool
        Whether the reply came from the cache, at no cost.
    seconds : float
    """

    prompt: list[tuple[str, str]]
    reply: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    seconds: float = 0.0


@dataclass
class Debugged:
    """What happened in one call of a chain; print it, or let a cell show it.

    Attributes
    ----------
    exchanges : list of Exchange
        Every call of a model, in order of their beginning.
    output : Any
        What the chain returned; None if it failed.
    error : Exception or None
        What it raised instead. Its message may hold what `str` of this object masks.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    output: Any = None
    error: Exception | None = None

    def __str__(self) -> str:
        lines: list[str] = []
        for exchange in self.exchanges:
            for role, text in exchange.prompt:
                lines += [f"--- prompt: {role} ---", text]
            lines += ["--- reply ---", exchange.reply or "(none)"]
            lines += ["--- tokens ---", _token_line(exchange)]
        if self.error is None:
            lines += ["--- parsed ---", repr(self.output)]
        else:
            lines += ["--- failed ---", f"{type(self.error).__name__}: {self.error}"]
        return mask("\n".join(lines))

    __repr__ = __str__


def debug_llm(chain: Runnable, inputs: Any) -> Debugged:
    """Call a chain once and show what went over the wire and what came of it.

    Parameters
    ----------
    chain : Runnable
        Such as ``prompt | llm | parser``; a chat model alone, too.
    inputs : Any
        What `chain.invoke` takes.

    Returns
    -------
    Debugged
        Also if the chain fails: then with the error and all that came before it. What
        it prints holds no API key.

    Examples
    --------
    >>> from langchain_core.language_models import FakeListChatModel
    >>> print(debug_llm(FakeListChatModel(responses=["World"]), "Oslo signs a treaty"))
    --- prompt: human ---
    Oslo signs a treaty
    --- reply ---
    World
    --- tokens ---
    0 prompt + 0 reply
    --- parsed ---
    AIMessage(content='World', ...)
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
        self._began: dict[UUID, float] = {}

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: Sequence[Sequence[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._begin(
            run_id, [(m.type, str(m.text)) for batch in messages for m in batch]
        )

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: Sequence[str],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        self._begin(run_id, [("text", prompt) for prompt in prompts])

    def _begin(self, run_id: UUID, prompt: list[tuple[str, str]]) -> None:
        self.exchanges[run_id] = Exchange(prompt)
        self._began[run_id] = time.perf_counter()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        exchange = self.exchanges[run_id]
        exchange.seconds = time.perf_counter() - self._began[run_id]
        message = message_of(response)
        if message is None:
            exchange.reply = "".join(
                g.text for one in response.generations for g in one
            )
            return
        refusal = message.additional_kwargs.get("refusal")
        exchange.reply = str(message.text) or str(refusal or "")
        exchange.finish_reason = message.response_metadata.get("finish_reason")
        exchange.cached = bool(message.response_metadata.get("cached"))
        exchange.prompt_tokens, exchange.completion_tokens = tokens_of(message)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, **kwargs: Any
    ) -> None:
        exchange = self.exchanges[run_id]
        exchange.seconds = time.perf_counter() - self._began[run_id]


def _token_line(exchange: Exchange) -> str:
    line = f"{exchange.prompt_tokens} prompt + {exchange.completion_tokens} reply"
    if exchange.finish_reason == "length":
        line += ", cut off at max_tokens"
    return f"{line}, from the cache" if exchange.cached else line


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
    temperature : float or None
        0: the likeliest token each time. None leaves it to the service, as some
        reasoning models demand.
    max_tokens : int
        The longest reply.
    cache : bool or BaseCache
        Whether a reply that was paid for once is taken from the disk (`reply_cache`).
        With a temperature above 0 it then stays the same draw.
    retries : int
        Requests after the first, where it fails for a reason that may pass. The wait
        doubles each time; what the server asks for (``Retry-After``, up to two
        minutes) comes first. `max_retries` means the same.
    timeout : float, optional
        Seconds for each request; by default 120, and 600 for the local server.
    requests_per_second : float, optional
        By default the setting of that name. The replies of the cache don't count.
    base_url, api_key : optional
        By default those of the settings.
    **options
        Further fields of `ChatTogether` or `ChatOpenAI`.

    Returns
    -------
    ChatTogether or ChatOpenAI
        Also for the local server, which the same client talks to.

    Raises
    ------
    LLMError
        If a key is missing, a package is, or the local server does not start; and,
        when the model is asked, for whatever does not give a reply.

    Examples
    --------
    >>> llm = chat_model("openai", "a-model", base_url="http://127.0.0.1:9/v1")
    >>> llm.model_name
    'a-model'
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
    at = _address(chosen, model, base_url, api_key, settings)
    if cache is True:
        cache = ReplyCache(_cache_file(settings), at.identity)
    rate = requests_per_second or settings.requests_per_second
    if rate is not None:
        options.setdefault("rate_limiter", _limiter(rate))
    client = _client_class(chosen)
    return client(
        **{
            "model": at.endpoint.model,
            "base_url": at.endpoint.base_url,
            "api_key": at.endpoint.key,
            "endpoint": at.endpoint,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "cache": cache,
            # The SDK's own retries would multiply with these.
            "retries": options.pop("max_retries", retries),
            "max_retries": 0,
            "timeout": TIMEOUTS[chosen] if timeout is None else timeout,
            # Streams would pass by the cache and the retries.
            "disable_streaming": True,
            **({} if chosen == "together" else {"use_responses_api": False}),
            **options,
        }
    )


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


def reply_cache(llm: BaseChatModel | None = None) -> ReplyCache:
    """Give the cache of a model's replies, to count or forget them.

    Parameters
    ----------
    llm : BaseChatModel, optional
        By default that of `chat_model`.

    Raises
    ------
    TypeError
        If the model has another cache, or none.
    """
    cache = (llm or chat_model()).cache
    if not isinstance(cache, ReplyCache):
        raise TypeError(f"this model has no ReplyCache: its cache is {cache!r}")
    return cache


@dataclass(frozen=True)
class _Address:
    endpoint: Endpoint
    identity: str  # of the namespace in the reply cache


def _address(
    provider: Provider,
    model: str | None,
    base_url: str | None,
    api_key: str | SecretStr | None,
    settings: Settings,
) -> _Address:
    if provider == "local":
        server = local_server(model or "embedded")
        here = "The local server", server.base_url, server.model, "no setting"
        return _Address(Endpoint(*here, server.key), server.identity)
    if provider == "together":
        name, variable, url = "Together", "TOGETHER_API_KEY", base_url or TOGETHER_URL
        key = api_key or settings.together_api_key
    else:
        name, variable = "OpenAI", "OPENAI_API_KEY"
        url = base_url or settings.llm_base_url or OPENAI_URL
        key = api_key or settings.openai_api_key
    url = url.rstrip("/")
    usual = url in (TOGETHER_URL, OPENAI_URL)
    if not usual:
        name = "The server"
        key = key or "none"  # vLLM and its like need none, but the client does
    secret = _checked_key(key, variable, name)
    model = model or (DEFAULT_MODELS[provider] if usual else None)
    if model is None:
        model = _only_model(Endpoint(name, url, "", variable, secret))
    return _Address(Endpoint(name, url, model, variable, secret), url)


def _checked_key(key: str | SecretStr | None, variable: str, name: str) -> SecretStr:
    value = _shown(key)
    if not value:
        raise LLMError(
            f"{name} needs an API key: put it into {variable}, in the environment or "
            'in .env; or set CHAPTERLIB_LLM_PROVIDER to "local", which needs none',
            fatal=True,
        )
    if not value.isascii() or not value.isprintable() or " " in value:
        raise LLMError(
            f"{variable} holds what can't be an API key (blanks, or letters beyond "
            "ASCII): copy the key again",
            fatal=True,
        )
    return SecretStr(value)


def _shown(key: str | SecretStr | None) -> str:
    value = key.get_secret_value() if isinstance(key, SecretStr) else key
    return (value or "").strip()


def _only_model(endpoint: Endpoint) -> str:
    _client_class("openai")
    from chapterlib.prompting.clients import ask_models

    names = ask_models(endpoint)
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names[:20]) or "it does not say which ones it has"
    raise LLMError(
        f"the server at {mask(endpoint.base_url, endpoint.key)} needs a model's name: "
        f"set CHAPTERLIB_LLM_MODEL to one that it serves ({listed})",
        fatal=True,
    )


def _client_class(provider: Provider) -> type[OpenAIChat] | type[TogetherChat]:
    try:
        from chapterlib.prompting.clients import OpenAIChat, TogetherChat
    except ImportError as error:
        raise LLMError(
            f"chat models need packages that are missing ({error}): install them with "
            "`python -m pip install langchain-openai langchain-together xllamacpp`",
            fatal=True,
        ) from error
    return TogetherChat if provider == "together" else OpenAIChat


def _cache_file(settings: Settings) -> Path:
    return settings.cache / "replies.sqlite"


def _limiter(rate: float) -> InMemoryRateLimiter:
    return InMemoryRateLimiter(
        requests_per_second=rate, check_every_n_seconds=min(0.1, 0.25 / rate)
    )
