"""LangChain's own chat clients, with retries that end and errors that explain.

The only module that needs ``langchain-openai`` and ``langchain-together``.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.exceptions import ModelError
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from langchain_together import ChatTogether
from openai import (
    ContentFilterFinishReasonError,
    LengthFinishReasonError,
    OpenAI,
    OpenAIError,
)
from pydantic import Field, ValidationError

from chapterlib.prompting.errors import (
    LONGEST_WAIT,
    Endpoint,
    LLMError,
    explain,
    no_completion,
    wait_asked_for,
)

# What with_structured_output raises on what a model says is the caller's to see.
CONTENT = (LengthFinishReasonError, ContentFilterFinishReasonError, ValidationError)


class _Careful(BaseChatOpenAI):
    """Retry what may pass, and raise `LLMError` for the rest.

    All retries are made here and none by the SDK below, so that their number is what
    `retries` says, also for replies with status 200 that hold no completion.

    Attributes
    ----------
    endpoint : Endpoint
    retries : int
        Requests after the first, where it fails for a reason that may pass.
    backoff : float
        Seconds before the first retry, doubled before each further one; what the
        server asks for (``Retry-After``) comes first.
    """

    endpoint: Endpoint = Field(exclude=True, repr=False)
    retries: int = Field(default=4, ge=0)
    backoff: float = Field(default=0.5, ge=0)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Keep the key of the reply cache to what shapes the reply.

        A serializable model's key holds every argument: a longer time-out would forget
        all that was paid for.
        """
        return False

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tried = 0
        while True:
            try:
                return super()._generate(messages, stop, run_manager, **kwargs)
            except Exception as error:
                if not _is_of_the_service(error):
                    raise
                trouble, pause = self._judge(error, tried)
            # Outside of the handler: else the error found would be chained, and it may
            # quote the key.
            if pause is None:
                raise trouble
            time.sleep(pause)
            tried += 1
            if self.rate_limiter is not None:
                self.rate_limiter.acquire(blocking=True)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tried = 0
        while True:
            try:
                return await super()._agenerate(messages, stop, run_manager, **kwargs)
            except Exception as error:
                if not _is_of_the_service(error):
                    raise
                trouble, pause = await asyncio.to_thread(self._judge, error, tried)
            if pause is None:
                raise trouble
            await asyncio.sleep(pause)
            tried += 1
            if self.rate_limiter is not None:
                await self.rate_limiter.aacquire(blocking=True)

    def _create_chat_result(self, *args: Any, **kwargs: Any) -> ChatResult:
        try:
            result = super()._create_chat_result(*args, **kwargs)
            if result.generations:
                return result
            trouble = no_completion(ValueError("no choices"), self.endpoint)
        except Exception as error:
            trouble = no_completion(error, self.endpoint)
        raise trouble

    def _judge(self, error: Exception, tried: int) -> tuple[LLMError, float | None]:
        """Explain an error, and say how long to wait before a retry; None: none."""
        if isinstance(error, LLMError):
            trouble = error
        elif isinstance(error, OpenAIError | ModelError):
            missing = getattr(error, "status_code", None) in (400, 404, 410)
            trouble = explain(error, self.endpoint, self.models() if missing else ())
        else:
            trouble = no_completion(error, self.endpoint)
        asked = wait_asked_for(error)
        if not trouble.retryable or tried >= self.retries:
            return trouble, None
        if asked is not None and asked > LONGEST_WAIT:
            return trouble, None
        if asked is not None:
            return trouble, asked
        pause = min(self.backoff * 2**tried, LONGEST_WAIT)
        # Apart, so that requests that failed together do not come back together.
        return trouble, pause * random.uniform(0.5, 1)

    def models(self) -> list[str]:
        """Names of the chat models that the endpoint serves; empty if it won't say."""
        return served_models(self.root_client)


class TogetherChat(_Careful, ChatTogether):
    """`ChatTogether` with finite retries and errors that name the setting."""


class OpenAIChat(_Careful, ChatOpenAI):
    """`ChatOpenAI` with finite retries and errors that name the setting."""


def served_models(client: OpenAI) -> list[str]:
    """Ask an endpoint for the names of its chat models; empty if it won't say."""
    try:
        raw = client.with_options(timeout=10, max_retries=0).models.with_raw_response
        listed = json.loads(raw.list().text)
        if isinstance(listed, dict):
            listed = listed.get("data")
        kinds = ("chat", "model", None)
        return [
            str(entry["id"]) for entry in listed if entry.get("type", None) in kinds
        ]
    except Exception:
        return []


def ask_models(endpoint: Endpoint) -> list[str]:
    """As `served_models`, before there is a client."""
    key = endpoint.key.get_secret_value()
    with OpenAI(base_url=endpoint.base_url, api_key=key) as client:
        return served_models(client)


def _is_of_the_service(error: Exception) -> bool:
    if isinstance(error, CONTENT):
        return False
    known = isinstance(error, OpenAIError | ModelError | LLMError)
    # LangChain hangs the response on what was raised while the reply was read.
    return known or getattr(error, "response", None) is not None
