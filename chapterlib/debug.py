"""Look at one call of a chain: the prompt, the reply, the parse, the tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable

from chapterlib.llmerrors import mask
from chapterlib.usage import message_of, tokens_of


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
            lines += ["--- tokens ---", _tokens(exchange)]
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


def _tokens(exchange: Exchange) -> str:
    line = f"{exchange.prompt_tokens} prompt + {exchange.completion_tokens} reply"
    if exchange.finish_reason == "length":
        line += ", cut off at max_tokens"
    return f"{line}, from the cache" if exchange.cached else line
