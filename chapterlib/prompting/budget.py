"""Count what requests take, and stop before the one that might pass a budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import Runnable

from chapterlib.prompting.errors import status_of
from chapterlib.prompting.parsers import Answer

# A chat template adds role marks to each message and, often, a system message.
TOKENS_PER_MESSAGE = 16
TOKENS_OF_TEMPLATE = 64


@dataclass(frozen=True)
class Usage:
    """What a number of requests took, as the service counted it."""

    requests: int = 0  # sent, and ended with a reply or an error
    cached: int = 0  # answered by the reply cache, at no cost
    failed: int = 0  # of the requests, those that brought no reply
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None  # None without prices

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class BudgetExceeded(RuntimeError):  # noqa: N818
    """The next request might pass the budget, so it was not sent.

    `answers` are one for each text, in order, "missing" for those not asked about;
    `usage` is what was spent.
    """

    def __init__(self, message: str, usage: Usage) -> None:
        super().__init__(message)
        self.answers: list[Answer] = []
        self.usage = usage


@dataclass
class Call:
    """One request under way: its bound in tokens of prompt and reply, and what came.

    Whoever makes the request sets `reply` or `error`. Not `sent` and with a reply, it
    was answered by the cache.
    """

    bound: tuple[int, int]
    sent: bool = False
    reply: Any = None
    error: Exception | None = None


class Meter:
    """Counts what requests of many threads take, and stops them before a budget.

    Before a request is sent, the most that it may take is set aside; what it really
    took replaces that. `tokens` and `usd` are the budget (None: no bound), `prices`
    dollars for a million prompt and completion tokens.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        usd: float | None = None,
        prices: tuple[float, float] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        for name, value in (("budget_tokens", tokens), ("budget_usd", usd)):
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}: give 0 or more, or None")
        if prices is not None and min(prices) < 0:
            raise ValueError(f"prices are {prices}: give dollars a million tokens")
        if usd is not None and prices is None:
            raise ValueError(
                "a budget in dollars needs prices: give price_prompt and "
                "price_completion, in dollars for a million tokens"
            )
        self.limits = tokens, usd
        if self.limits != (None, None) and max_tokens is None:
            raise ValueError(
                "a budget needs to know how long a reply may become: give the model "
                "max_tokens, as in chat_model(max_tokens=512)"
            )
        self.prices = prices
        self.max_tokens = max_tokens or 0
        self.usage = Usage(usd=None if prices is None else 0.0)
        self._held = (0, 0)  # tokens that may be billed beside those of the usage
        self._closed = False
        self._lock = threading.Lock()
        self._local = threading.local()

    @contextmanager
    def request(self, messages: Sequence[BaseMessage]) -> Iterator[Call]:
        """Account for one request of this thread, however it ends."""
        # A token for each byte: no byte-level vocabulary has shorter ones.
        size = sum(len(str(m.content).encode(errors="replace")) for m in messages)
        prompt = size + TOKENS_PER_MESSAGE * len(messages) + TOKENS_OF_TEMPLATE
        call = self._local.call = Call((prompt, self.max_tokens))
        try:
            yield call
        finally:
            self._local.call = None
            with self._lock:
                if call.sent:
                    self._count(call)
                elif call.reply is not None:
                    self.usage = replace(self.usage, cached=self.usage.cached + 1)

    def reserve(self) -> None:
        """Set aside what this thread's request may take; raise if it does not fit.

        After one that did not, nothing more is sent.
        """
        call = getattr(self._local, "call", None)
        if call is None or call.sent:  # sent again by the client: the same request
            return
        with self._lock:
            self._closed = self._closed or not self._fits(call.bound)
            if self._closed:
                raise BudgetExceeded(self._explain(call.bound), self.usage)
            call.sent = True
            self._hold(call.bound)

    def dollars(self, prompt: int, completion: int) -> float | None:
        """Price of tokens; None without prices."""
        if self.prices is None:
            return None
        return (prompt * self.prices[0] + completion * self.prices[1]) / 1e6

    def _hold(self, bound: tuple[int, int], sign: int = 1) -> None:
        prompt, completion = self._held
        self._held = prompt + sign * bound[0], completion + sign * bound[1]

    def _fits(self, bound: tuple[int, int]) -> bool:
        prompt = self.usage.prompt_tokens + self._held[0] + bound[0]
        completion = self.usage.completion_tokens + self._held[1] + bound[1]
        tokens, usd = self.limits
        price = self.dollars(prompt, completion)
        return (tokens is None or prompt + completion <= tokens) and (
            usd is None or price is None or price <= usd
        )

    def _count(self, call: Call) -> None:
        used = call.reply.usage_metadata if isinstance(call.reply, AIMessage) else None
        prompt, completion = call.bound
        if used:
            prompt, completion = used["input_tokens"], used["output_tokens"]
        elif call.reply is None:
            prompt = completion = 0
        # A service does not charge for what it refused; where a connection broke, it
        # may have: then all that was set aside stays so.
        if call.reply is not None or (status_of(call.error) or 0) >= 400:
            self._hold(call.bound, -1)
        before = self.usage
        prompt += before.prompt_tokens
        completion += before.completion_tokens
        self.usage = Usage(
            before.requests + 1,
            before.cached,
            before.failed + (call.reply is None),
            prompt,
            completion,
            self.dollars(prompt, completion),
        )

    def _explain(self, bound: tuple[int, int]) -> str:
        tokens, usd = self.limits
        given = [] if tokens is None else [f"{tokens:,} tokens"]
        given += [] if usd is None else [f"${usd:g}"]
        spent, more = f"{self.usage.tokens:,} tokens", f"{sum(bound):,} tokens"
        if self.prices is not None:
            spent += f" (${self.usage.usd:.4f})"
            more += f" (${self.dollars(*bound):.4f})"
        held = f", up to {sum(self._held):,} are under way" if any(self._held) else ""
        return (
            f"the budget is {' and '.join(given)}, {spent} are spent{held}, and the "
            f"next request may take up to {more}: it was not sent"
        )


class _Gate(BaseRateLimiter):
    """Asks the meter, then the model's own limiter.

    LangChain asks a limiter right before it sends what was not in the cache.
    """

    def __init__(self, meter: Meter, inner: BaseRateLimiter | None) -> None:
        self.meter, self.inner = meter, inner

    def acquire(self, *, blocking: bool = True) -> bool:
        self.meter.reserve()
        return self.inner is None or self.inner.acquire(blocking=blocking)

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.meter.reserve()
        return self.inner is None or await self.inner.aacquire(blocking=blocking)


def metered(llm: Runnable, meter: Meter) -> Runnable | None:
    """Copy a chat model, also one inside of bindings, with its requests on a meter.

    None if there is no chat model inside; the original is not changed.
    """
    if isinstance(llm, BaseChatModel):
        gate = _Gate(meter, llm.rate_limiter)
        return llm.model_copy(update={"rate_limiter": gate})
    bound = getattr(llm, "bound", None)
    copy = metered(bound, meter) if isinstance(bound, Runnable) else None
    return None if copy is None else llm.model_copy(update={"bound": copy})  # type: ignore[attr-defined]


def layers(llm: Any) -> Iterator[Any]:
    """Yield a runnable and what it is wrapped around, the innermost last."""
    while llm is not None:
        yield llm
        llm = None if isinstance(llm, BaseChatModel) else getattr(llm, "bound", None)


def longest_reply(llm: Runnable) -> int | None:
    """Tokens that a reply may have, by bound arguments or the model's own field."""
    for layer in layers(llm):
        bound = getattr(layer, "kwargs", None) or {}
        limit = bound.get("max_tokens") or getattr(layer, "max_tokens", None)
        if limit is not None:
            return int(limit)
    return None
