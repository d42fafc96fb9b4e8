"""Send one request about some articles, and read its reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.exceptions import (
    ModelAuthenticationError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
)
from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from chapterlib.budget import BudgetExceeded, Call, Closed, Meter
from chapterlib.llms import LLMError, mask
from chapterlib.metered import MeteredCache, chat_model_in, metered
from chapterlib.parsers import Answer, read_answers, results_schema
from chapterlib.prompts import number_articles

# No other request will fare better than one that met these.
HOPELESS = (
    ModelAuthenticationError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
)
# A lone article whose reply could not be read gets another prompt: the same one would
# bring the same reply, out of the cache or not.
REMINDER = (
    "An earlier reply could not be read. Keep to the form that is asked for: complete "
    "JSON, the number of the article as given, and one of the topics listed."
)


@dataclass(frozen=True)
class Outcome:
    """What one request brought: an answer for each article, or why there is none."""

    call: Call
    answers: list[Answer]
    failure: str | None = None


class Asker:
    """Asks a chat model about articles and accounts for the cost.

    Parameters
    ----------
    llm : Runnable
        A chat model, or one with arguments bound to it.
    prompt : ChatPromptTemplate
        With the one variable `articles`.
    meter : Meter
        Counts the requests and holds them to a budget.
    constrained : bool
        Whether the server shall hold the reply to the JSON schema of the answers.
    """

    def __init__(
        self,
        llm: Runnable,
        prompt: ChatPromptTemplate,
        meter: Meter,
        *,
        constrained: bool = False,
    ) -> None:
        self.meter = meter
        self.prompt = prompt
        self.constrained = constrained
        inside = metered(llm, meter)
        self.llm = llm if inside is None else inside
        model = chat_model_in(self.llm)
        self.cache = model.cache if model is not None else None
        self._extra = dict(getattr(model, "extra_body", None) or {})

    def request(self, texts: Sequence[str], unread: int = 0) -> Outcome:
        """Send one request and read its reply; a fault of the service is an outcome.

        Parameters
        ----------
        texts : sequence of str, length n
        unread : int
            How many earlier replies could not be read: if any, the prompt says so.

        Returns
        -------
        Outcome
            With n answers, or the failure.

        Raises
        ------
        BudgetExceeded
            If the request might pass the budget.
        Closed
            If the meter was closed: some other request stopped all.
        LLMError
            If no request can succeed.
        """
        sent = self.prompt.invoke({"articles": number_articles(texts)}).to_messages()
        if unread:
            sent = _with_reminder(sent, unread)
        llm = self._constrain(len(texts)) if self.constrained else self.llm
        with self.meter.request(sent) as call:
            try:
                if self.cache is None:
                    self.meter.reserve(call)
                call.reply = llm.invoke(sent)
            except (BudgetExceeded, Closed):
                raise
            except Exception as error:
                if error is call.cache_error or getattr(error, "fatal", False):
                    raise
                call.error = error
        # Outside of the handler: the error may quote a key, and is not to be chained.
        if isinstance(call.error, HOPELESS):
            raise LLMError(_reason(call.error), fatal=True)
        if call.error is not None:
            return Outcome(call, [], _reason(call.error))
        return Outcome(call, read_answers(_text_of(call.reply), len(texts)))

    def settle(self, call: Call) -> None:
        """Note that the articles of a failed request were all answered since."""
        if isinstance(self.cache, MeteredCache):
            self.cache.skip(call)

    def _constrain(self, n: int) -> Runnable:
        schema = {"name": "results", "strict": True, "schema": results_schema(n)}
        form = {"type": "json_schema", "json_schema": schema}
        return self.llm.bind(extra_body={**self._extra, "response_format": form})


def _with_reminder(messages: list[BaseMessage], unread: int) -> list[BaseMessage]:
    """Append the reminder to the last message: roles may have to alternate."""
    *before, last = messages
    content = f"{last.content}\n\n{REMINDER}"
    if unread > 1:  # other words each time
        content += f" This is try {unread + 1}."
    return [*before, last.model_copy(update={"content": content})]


def _text_of(reply: Any) -> str:
    """Text of a reply, or the refusal that stands in its place."""
    if not isinstance(reply, BaseMessage):
        return str(reply)
    return str(reply.text) or str(reply.additional_kwargs.get("refusal") or "")


def _reason(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    kind = "" if isinstance(error, LLMError) else f"{type(error).__name__}: "
    return mask(f"{kind}{first}")
