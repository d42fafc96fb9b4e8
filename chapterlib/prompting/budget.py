"""One request to a chat model, and what a number of them took."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage

from chapterlib.prompting.errors import status_of

if TYPE_CHECKING:
    from chapterlib.prompting.parsers import Answer


@dataclass(frozen=True)
class Usage:
    """What a number of requests took.

    Attributes
    ----------
    requests : int
        Sent, and ended with a reply or an error.
    cached : int
        Answered by the reply cache, at no cost.
    failed : int
        Of the requests, those that brought no reply.
    prompt_tokens, completion_tokens : int
        As the service counted them in its replies.
    usd : float or None
        Their price; None without prices.
    """

    requests: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Call:
    """A request under way; `Meter.request` makes it.

    Attributes
    ----------
    bytes, messages : int
        Size of the prompt.
    cached : bool
        Whether the reply came from the cache.
    key : tuple of str, or None
        Under which the cache looks for its reply.
    reserved : tuple of int, or None
        Prompt and completion tokens set aside for it, once it is to be sent.
    reply : BaseMessage or None
        To be set by the caller when it has arrived.
    error : Exception or None
        To be set by the caller when there will be no reply.
    cache_error : Exception or None
        An error of the reply cache, which is no fault of the service.
    """

    bytes: int
    messages: int
    cached: bool = False
    key: tuple[str, str] | None = None
    reserved: tuple[int, int] | None = None
    reply: Any = None
    error: Exception | None = None
    cache_error: Exception | None = None


# A chat template adds role marks to each message and, often, a system message.
TOKENS_PER_MESSAGE = 16
TOKENS_OF_TEMPLATE = 64
# How far the next prompt's tokens a byte may lie above the highest seen so far.
MARGIN = 1.25


class BudgetExceeded(RuntimeError):  # noqa: N818
    """The next request might pass the budget, so it was not sent.

    Attributes
    ----------
    answers : list of Answer
        One for each text, in order; those not asked about have the verdict "missing".
    usage : Usage
        What was spent.
    """

    def __init__(self, message: str, usage: Usage) -> None:
        super().__init__(message)
        self.answers: list[Answer] = []
        self.usage = usage


class Closed(RuntimeError):  # noqa: N818
    """No request may be sent any more, for a reason told elsewhere."""


class Meter:
    """Counts what requests of many threads take, and stops them before a budget.

    Before a request is sent, the most that it may take is set aside: a bound on the
    prompt's tokens and all of `max_tokens`. When its reply is there, what it really
    took replaces that. A request that does not fit waits while others are under way,
    and raises `BudgetExceeded` when none is.

    Parameters
    ----------
    tokens, usd : optional
        The budget; None: no bound, 0: cached replies alone.
    prices : tuple of float, optional
        US dollars for a million prompt and a million completion tokens.
    max_tokens : int, optional
        The longest reply that the model is asked for; needed for a budget.

    Raises
    ------
    ValueError
        If a budget comes without what is needed to keep it.

    Notes
    -----
    A byte-level vocabulary has no token shorter than a byte, so the first prompts are
    reckoned at a token a byte; later ones at the highest ratio seen, plus a quarter.
    A request whose connection broke or timed out may have been billed: against the
    budget it counts in full.
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
        if self.bounded and max_tokens is None:
            raise ValueError(
                "a budget needs to know how long a reply may become: give the model "
                "max_tokens, as in chat_model(max_tokens=512)"
            )
        self.prices = prices
        self.max_tokens = max_tokens or 0
        self.usage = Usage(usd=None if prices is None else 0.0)
        self._lost = (0, 0)  # tokens that may have been billed without a reply
        self._ratio = 1.0
        self._seen = 0.0
        self._calls: list[Call] = []
        self._reason: str | None = None
        self._changed = threading.Condition()
        self._local = threading.local()

    @property
    def bounded(self) -> bool:
        """Whether there is a budget."""
        return self.limits != (None, None)

    @property
    def call(self) -> Call | None:
        """The request that this thread has under way."""
        return getattr(self._local, "call", None)

    @contextmanager
    def request(self, messages: Sequence[BaseMessage]) -> Iterator[Call]:
        """Account for one request, whether it ends in a reply or in an error."""
        size = sum(len(str(m.content).encode(errors="replace")) for m in messages)
        call = self._local.call = Call(size, len(messages))
        try:
            yield call
        except Exception as error:
            call.error = error
            raise
        finally:
            self._local.call = None
            self._settle(call)

    def reserve(self, call: Call) -> None:
        """Set aside what a request may take, before it is sent.

        Raises
        ------
        BudgetExceeded
            If it does not fit.
        Closed
            After `close`.
        """
        if call.reserved is not None:  # sent again by the client: the same request
            return
        with self._changed:
            while True:
                if self._reason is not None:
                    raise Closed(self._reason)
                need = self._bound(call)
                if self._fits(need):
                    call.reserved = need
                    self._calls.append(call)
                    return
                if not self._calls:
                    raise BudgetExceeded(self._explain(need), self.usage)
                self._changed.wait()

    def close(self, reason: str = "stopped") -> None:
        """Let no further request be sent; those under way come to their end."""
        with self._changed:
            self._reason = reason
            self._changed.notify_all()

    def dollars(self, prompt: int, completion: int) -> float | None:
        """Price of tokens; None without prices."""
        if self.prices is None:
            return None
        return (prompt * self.prices[0] + completion * self.prices[1]) / 1e6

    def _bound(self, call: Call) -> tuple[int, int]:
        prompt = call.bytes * self._ratio + call.messages * TOKENS_PER_MESSAGE
        return int(prompt) + TOKENS_OF_TEMPLATE, self.max_tokens

    def _fits(self, need: tuple[int, int]) -> bool:
        spent = (self.usage.prompt_tokens, self.usage.completion_tokens)
        held = [call.reserved or (0, 0) for call in self._calls]
        prompt, completion = (
            sum(part) for part in zip(need, spent, self._lost, *held, strict=True)
        )
        tokens, usd = self.limits
        price = self.dollars(prompt, completion)
        return (tokens is None or prompt + completion <= tokens) and (
            usd is None or price is None or price <= usd
        )

    def _settle(self, call: Call) -> None:
        with self._changed:
            if call.cached:
                self.usage = replace(self.usage, cached=self.usage.cached + 1)
            elif call.reserved is not None:
                self._calls.remove(call)
                self._count(call)
            self._changed.notify_all()

    def _count(self, call: Call) -> None:
        used = call.reply.usage_metadata if isinstance(call.reply, AIMessage) else None
        prompt, completion = call.reserved or (0, 0)
        if used:
            prompt, completion = used["input_tokens"], used["output_tokens"]
            self._learn(call, prompt)
        elif call.reply is None:
            # A service does not charge for what it refused; other losses may be paid.
            if (status_of(call.error) or 0) < 400:
                self._lost = self._lost[0] + prompt, self._lost[1] + completion
            prompt = completion = 0
        before = self.usage
        prompt, completion = (
            before.prompt_tokens + prompt,
            before.completion_tokens + completion,
        )
        self.usage = Usage(
            before.requests + 1,
            before.cached,
            before.failed + (call.reply is None),
            prompt,
            completion,
            self.dollars(prompt, completion),
        )

    def _learn(self, call: Call, prompt_tokens: int) -> None:
        if call.bytes:
            self._seen = max(self._seen, prompt_tokens / call.bytes)
            self._ratio = min(1.0, MARGIN * self._seen)

    def _explain(self, need: tuple[int, int]) -> str:
        tokens, usd = self.limits
        spent = f"{self.usage.tokens:,} tokens"
        if self.usage.usd is not None:
            spent += f" (${self.usage.usd:.4f})"
        bound = f"{tokens:,} tokens" if tokens is not None else ""
        if usd is not None:
            bound += f"{' and ' if bound else ''}${usd:g}"
        more = f"{sum(need):,} tokens"
        if (price := self.dollars(*need)) is not None:
            more += f" (${price:.4f})"
        return (
            f"the budget is {bound}, {spent} are spent, and the next request may take "
            f"up to {more}: it was not sent"
        )
