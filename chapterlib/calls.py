"""One request to a chat model, and what a number of them took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


def status_of(error: BaseException | None) -> int | None:
    """HTTP status that an error, or one of its causes, was raised for; else None."""
    while error is not None:
        for name in ("status", "status_code"):
            if isinstance(status := getattr(error, name, None), int):
                return status
        error = error.__cause__ or error.__context__
    return None
