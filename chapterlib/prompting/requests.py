"""Send one request about some articles, and read its reply."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from langchain_core.exceptions import (
    ModelAuthenticationError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
)
from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from tqdm.auto import tqdm

from chapterlib.prompting.budget import BudgetExceeded, Call, Closed, Meter
from chapterlib.prompting.cache import MeteredCache, chat_model_in, metered
from chapterlib.prompting.errors import LLMError, mask, status_of
from chapterlib.prompting.parsers import Answer, read_answers, results_schema
from chapterlib.prompting.prompts import number_articles

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


# Failed requests in a row, without one reply, after which no more are sent.
GIVE_UP_AFTER = 20


@dataclass(frozen=True)
class _Request:
    """About which rows, which lone try it is, and what the lone row was told before."""

    rows: list[int]
    lone: int = 0
    unread: int = 0


class Round:
    """Send articles in batches, several requests at once, then what is left singly.

    Threads, not asyncio, wait for the replies: notebooks already run an event loop.

    Parameters
    ----------
    asker : Asker
    texts : sequence of str, length n
        Distinct: what is asked twice is paid for twice.
    batch_size, max_concurrency : int
        Articles a request, and requests at once.
    lone_tries : int
        How often an article that has no label yet is asked about again, alone.
    progress : bool
        Whether to show a bar where there is a terminal or notebook.
    """

    def __init__(
        self,
        asker: Asker,
        texts: Sequence[str],
        *,
        batch_size: int = 10,
        max_concurrency: int = 8,
        lone_tries: int = 1,
        progress: bool = True,
    ) -> None:
        self.asker, self.texts = asker, texts
        self.batch_size = batch_size
        self.max_concurrency = max_concurrency
        self.lone_tries = lone_tries
        self.progress = progress
        self.answers: list[Answer | None] = [None] * len(texts)
        self.asked: dict[Future[Outcome], _Request] = {}
        self.done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self.in_a_row = 0
        self.failed: dict[int, str] = {}
        self.broken: dict[int, tuple[Call, set[int]]] = {}
        self.stop: BaseException | None = None
        self.given_up: str | None = None

    def run(self) -> list[Answer]:
        """Ask about each text, and account for each.

        Returns
        -------
        list of Answer, length n
            In order; `article` counts from 1.

        Raises
        ------
        BudgetExceeded
            Before the request that might pass the budget; it carries the answers.
        LLMError
            If no request can succeed: a wrong key, an unknown model.

        Warns
        -----
        RuntimeWarning
            If articles have no answer because their requests failed.
        """
        size, n = self.batch_size, len(self.texts)
        hide = None if self.progress else True
        pool = ThreadPoolExecutor(self.max_concurrency, "asking")
        with tqdm(total=n, desc="Articles", disable=hide) as bar:
            try:
                for start in range(0, n, size):
                    rows = list(range(start, min(start + size, n)))
                    self._send(pool, _Request(rows))
                while self.asked:
                    self._take(pool, self.done.get(), bar)
            finally:
                # After an interrupt too: what is under way is paid for, so its reply
                # is awaited and kept, but nothing more is sent.
                self.asker.meter.close()
                pool.shutdown(wait=True, cancel_futures=True)
        return self._finish()

    def _send(self, pool: ThreadPoolExecutor, request: _Request) -> None:
        texts = [self.texts[row] for row in request.rows]
        future = pool.submit(self.asker.request, texts, request.unread)
        self.asked[future] = request
        future.add_done_callback(self.done.put)

    def _take(
        self, pool: ThreadPoolExecutor, future: Future[Outcome], bar: tqdm
    ) -> None:
        request = self.asked.pop(future)
        rows = request.rows
        if future.cancelled():
            return
        if error := future.exception():
            if self.stop is None and not isinstance(error, Closed):
                self.stop = error
                self._cancel()
            return
        outcome = future.result()
        self._watch(outcome)
        if outcome.failure is not None and len(rows) > 1:
            batch = outcome.call, set(rows)
            self.broken.update(dict.fromkeys(rows, batch))
        elif outcome.failure is None and request.lone:
            self._mend(rows[0])
        unread = request.unread + (len(rows) == 1 and outcome.failure is None)
        may = request.lone < self.lone_tries
        for i, row in enumerate(rows):
            if outcome.failure is None:
                self.failed.pop(row, None)
                answer = outcome.answers[i].model_copy(update={"article": row + 1})
                self.answers[row] = answer
                again = may and answer.verdict != "parsed"
            else:
                self.failed[row] = outcome.failure
                again = may
            if again and self.stop is None and self.given_up is None:
                self._send(pool, _Request([row], request.lone + 1, unread))
            else:
                bar.update()

    def _mend(self, row: int) -> None:
        """Strike a lone article's reply off what its failed batch still lacks."""
        call, lacking = self.broken.pop(row, (None, set()))
        lacking.discard(row)
        if call is not None and not lacking:
            self.asker.settle(call)

    def _watch(self, outcome: Outcome) -> None:
        """Give up when nothing comes back any more: each try may take minutes."""
        status = status_of(outcome.call.error)
        # A request that was refused for what it is (too long, say) came back.
        refused = status in range(400, 429) and status != 408
        alive = outcome.failure is None or refused
        self.in_a_row = 0 if alive else self.in_a_row + 1
        limit = max(GIVE_UP_AFTER, 2 * self.max_concurrency)
        if self.in_a_row >= limit and self.given_up is None:
            self.given_up = outcome.failure
            self._cancel()

    def _cancel(self) -> None:
        self.asker.meter.close()
        for future in list(self.asked):
            future.cancel()

    def _finish(self) -> list[Answer]:
        why = "not asked"
        if self.given_up is not None:
            why = f"not asked, for the requests before failed ({self.given_up})"
        answers = [
            answer or _missing(row, self.failed.get(row, why))
            for row, answer in enumerate(self.answers)
        ]
        if isinstance(self.stop, BudgetExceeded):
            self.stop.answers = answers
        if self.stop is not None:
            raise self.stop
        unanswered = sum(answer is None for answer in self.answers)
        if unanswered:
            reason = self.given_up or next(iter(self.failed.values()))
            warnings.warn(
                f"{unanswered:,} of {len(answers):,} articles have no answer because "
                f"their requests failed ({reason}). Run this again: with a reply "
                "cache, only what has no reply is asked for.",
                RuntimeWarning,
                stacklevel=4,
            )
        return answers


def _missing(row: int, why: str) -> Answer:
    return Answer(article=row + 1, label=None, verdict="missing", said=why)
