"""A reply cache that tells which requests will be sent, and keeps every reply."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableSerializable

from chapterlib.budget import Call, Meter

# Replies that were cut off are kept under a key of their own.
CUT_OFF = "\ncut off"
# What marks them there: caches look at the reason alone.
CUT = {"finish_reason": "stop", "cut_off": True}


class MeteredCache(BaseCache):
    """Stands between a chat model and its cache, and meters what is not cached.

    LangChain looks a request up right before it sends it: on a miss the budget is
    asked first. A reply that was cut off by the token limit is paid for like any other;
    a shared cache refuses it, for it is no full answer. It is stored here under a key
    that other callers never look up, so that an interrupted run does not ask again.

    Parameters
    ----------
    inner : BaseCache or None
        Where replies are kept; None: nowhere.
    meter : Meter
        Its `call` is the request of the thread that looks up or updates.
    """

    def __init__(self, inner: BaseCache | None, meter: Meter) -> None:
        self.inner = inner
        self.meter = meter

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Find a reply; without one, set aside what the request may take."""
        call = self.meter.call
        found = None
        if call is not None:
            call.key = prompt, llm_string
        if self.inner is not None:
            try:
                found = self.inner.lookup(prompt, llm_string)
                if found is None:
                    found = self.inner.lookup(prompt, llm_string + CUT_OFF)
            except Exception as error:
                if call is not None:
                    call.cache_error = error
                raise
        if call is not None:
            call.cached = found is not None
            if found is None:
                self.meter.reserve(call)
        return found

    def update(
        self, prompt: str, llm_string: str, return_val: Sequence[Generation]
    ) -> None:
        """Keep a reply; a cache that can't must not lose what was paid for."""
        if self.inner is None:
            return
        kept, key = list(return_val), llm_string
        if _finish_reason(kept) in ("length", "max_tokens"):
            kept, key = [_as_whole(generation) for generation in kept], key + CUT_OFF
        try:
            self.inner.update(prompt, key, kept)
        except Exception as error:
            warnings.warn(
                f"a reply could not be stored ({error}): if this run is interrupted, "
                "it will be asked for and paid for again",
                RuntimeWarning,
                stacklevel=2,
            )

    def skip(self, call: Call) -> None:
        """Note that a request need not be sent again, though no reply came to it.

        Its articles were answered one by one since: in a later run it has a reply
        without entries, from which the same single requests follow, replies and all.
        """
        if call.key is not None:
            prompt, llm_string = call.key
            said = AIMessage('{"results": []}', response_metadata=CUT)
            self.update(prompt, llm_string + CUT_OFF, [ChatGeneration(message=said)])

    def clear(self, **kwargs: Any) -> None:
        """Clear the cache behind this one."""
        if self.inner is not None:
            self.inner.clear(**kwargs)


def metered(llm: Runnable, meter: Meter) -> Runnable | None:
    """Copy a chat model, with its requests on a meter.

    Parameters
    ----------
    llm : Runnable
        A chat model, or one with bound arguments, retries or the like around it.
    meter : Meter

    Returns
    -------
    Runnable or None
        None if there is no chat model inside. The original is not changed.
    """
    if isinstance(llm, BaseChatModel):
        inner = llm.cache if isinstance(llm.cache, BaseCache) else None
        if llm.cache in (None, True):
            inner = get_llm_cache()
        return llm.model_copy(update={"cache": MeteredCache(inner, meter)})
    bound = _bound(llm)
    copy = metered(bound, meter) if isinstance(bound, Runnable) else None
    return None if copy is None else llm.model_copy(update={"bound": copy})  # type: ignore[attr-defined]


def chat_model_in(llm: Runnable) -> BaseChatModel | None:
    """Find the chat model under bound arguments, retries and the like."""
    *_, last = _layers(llm)
    return last if isinstance(last, BaseChatModel) else None


def longest_reply(llm: Runnable) -> int | None:
    """Tokens that a reply may have, by bound arguments or the model's own field."""
    for layer in _layers(llm):
        bound = getattr(layer, "kwargs", None) or {}
        limit = bound.get("max_tokens") or getattr(layer, "max_tokens", None)
        if limit is not None:
            return int(limit)
    return None


def _layers(llm: Runnable) -> Iterator[Runnable]:
    """Yield a runnable and what it is wrapped around, the innermost last."""
    layer: Any = llm
    while isinstance(layer, Runnable):
        yield layer
        layer = None if isinstance(layer, BaseChatModel) else _bound(layer)


def _bound(llm: Runnable) -> Any:
    return (
        getattr(llm, "bound", None) if isinstance(llm, RunnableSerializable) else None
    )


def _finish_reason(generations: Sequence[Generation]) -> str | None:
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            said = generation.message.response_metadata.get("finish_reason")
            return str(said) if said else None
    return None


def _as_whole(generation: Generation) -> Generation:
    """Mark a reply as cut off elsewhere than in the field that caches look at."""
    if not isinstance(generation, ChatGeneration):
        return generation
    message = generation.message
    return ChatGeneration(
        message=AIMessage(
            content=message.content,
            additional_kwargs=message.additional_kwargs,
            response_metadata={**message.response_metadata, **CUT},
            usage_metadata=getattr(message, "usage_metadata", None),
        ),
        generation_info={**(generation.generation_info or {}), **CUT},
    )
