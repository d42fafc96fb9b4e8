"""Count the tokens of every call, and leave out what came from the cache."""

from __future__ import annotations

import threading
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import LLMResult

from chapterlib.budget import Usage


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
