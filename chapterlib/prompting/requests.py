"""Ask a chat model about many texts, several requests at once, and lose none."""

from __future__ import annotations

import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from tqdm.auto import tqdm

from chapterlib.prompting.budget import BudgetExceeded, Call, Meter, layers, metered
from chapterlib.prompting.errors import LLMError, mask, status_of
from chapterlib.prompting.parsers import Answer, read_answers
from chapterlib.prompting.prompts import number_articles, results_schema
from chapterlib.tasks.task import AG_NEWS, Task, plural

# No other request will fare better than one that was refused for its key or model.
HOPELESS = {401, 403, 404}
# Failed requests in a row, without one reply, after which no more are sent.
GIVE_UP_AFTER = 20
# A lone text whose reply could not be read gets another prompt: the same one would
# bring the same reply, out of the cache or not.
REMINDER = (
    "An earlier reply could not be read. Keep to the form that is asked for: complete "
    "JSON, the number of the {item} as given, and one of the {subjects} listed."
)


def ask(
    llm: Runnable,
    prompt: ChatPromptTemplate,
    texts: Sequence[str],
    *,
    task: Task = AG_NEWS,
    meter: Meter | None = None,
    batch_size: int = 10,
    max_concurrency: int = 8,
    retries: int = 1,
    constrained: bool = False,
    progress: bool = True,
) -> list[Answer]:
    """Send texts in batches, then, alone and up to `retries` times, those unanswered.

    `texts` [n] are distinct. Gives the answers [n] in order; `article` counts from 1.
    Raises and warns as `PromptClassifier.predict_answers`.
    """
    meter = meter or Meter()
    model = metered(llm, meter)
    extra = dict(getattr(list(layers(llm))[-1], "extra_body", None) or {})
    unread = Counter[int]()  # replies about a lone text that gave no label
    stopped = threading.Event()
    # Whether each of the last requests was lost: each further one may take minutes.
    lost = deque[bool](maxlen=max(GIVE_UP_AFTER, 2 * max_concurrency))

    def send(rows: list[int]) -> Call:
        numbered = number_articles([texts[row] for row in rows], task)
        messages = prompt.invoke({"articles": numbered}).to_messages()
        if len(rows) == 1 and unread[rows[0]]:
            messages = _with_reminder(messages, unread[rows[0]], task)
        chosen = model or llm
        if constrained:
            form = _response_format(len(rows), task)
            chosen = chosen.bind(extra_body={**extra, "response_format": form})
        with meter.request(messages) as call:
            try:
                if model is None and not stopped.is_set():
                    meter.reserve()
                if not stopped.is_set():
                    call.reply = chosen.invoke(messages)
            except Exception as error:
                call.error = error
        # A request refused for what it is (too long, say) came back.
        refused = (status_of(call.error) or 0) in {*range(400, 429)} - {408}
        refused |= isinstance(call.error, BudgetExceeded)
        lost.append(call.error is not None and not refused)
        if lost.count(True) == lost.maxlen:
            stopped.set()
        return call

    answers: list[Answer | None] = [None] * len(texts)
    failed: dict[int, str] = {}
    stop: Exception | None = None
    rows = range(len(texts))
    pending = [list(rows[i : i + batch_size]) for i in rows[::batch_size]]
    with tqdm(total=len(texts), desc="Texts", disable=not progress or None) as bar:
        for lone in range(retries + 1):
            again: list[int] = []
            for asked, call in _as_completed(send, pending, max_concurrency):
                bar.update(0 if lone else len(asked))
                error = call.error
                if isinstance(error, BudgetExceeded):
                    stop = stop or error  # and go on with what is in the cache
                elif error is not None and (_is_fatal(error) or not call.sent):
                    stop = error
                    stopped.set()
                elif error is not None:
                    failed.update(dict.fromkeys(asked, _reason(error)))
                    again += asked
                elif call.reply is not None:
                    unread.update(asked if len(asked) == 1 else [])
                    read = read_answers(_text_of(call.reply), len(asked), task)
                    for row, answer in zip(asked, read, strict=True):
                        failed.pop(row, None)
                        answers[row] = answer.model_copy(update={"article": row + 1})
                        again += [row] if answer.verdict != "parsed" else []
            pending = [[row] for row in sorted(again)]
            if stopped.is_set() or not pending:
                break
    why = "not asked"
    if stopped.is_set() and stop is None and failed:
        reason = next(reversed(failed.values()))
        why = f"not asked, for the requests before failed ({reason})"
    told = [
        answer or Answer(article=row + 1, said=failed.get(row, why))
        for row, answer in enumerate(answers)
    ]
    if isinstance(stop, BudgetExceeded):
        stop.answers, stop.usage = told, meter.usage
    if stop is not None and status_of(stop) in HOPELESS and type(stop) is not LLMError:
        raise LLMError(_reason(stop), fatal=True)  # not chained: it may quote a key
    if stop is not None:
        raise stop
    if unanswered := answers.count(None):
        warnings.warn(
            f"{unanswered:,} of {len(texts):,} {plural(task.item)} have no answer "
            f"because their requests failed ({next(iter(failed.values()))}). Run this "
            "again: with a reply cache, only what has no reply is asked for.",
            RuntimeWarning,
            stacklevel=3,
        )
    return told


def _as_completed(
    send: Callable[[list[int]], Call], pending: list[list[int]], max_concurrency: int
) -> Iterator[tuple[list[int], Call]]:
    """Send by threads, not asyncio: notebooks already run an event loop.

    After an interrupt what is under way is paid for, so its reply is awaited and kept,
    but nothing more is sent.
    """
    sender = RunnableLambda(send)
    results = sender.batch_as_completed(pending, {"max_concurrency": max_concurrency})
    with closing(cast(Generator[tuple[int, Call]], results)):
        for i, call in results:
            yield pending[i], call


def _is_fatal(error: Exception) -> bool:
    return status_of(error) in HOPELESS or bool(getattr(error, "fatal", False))


def _response_format(n: int, task: Task) -> dict[str, Any]:
    schema = {"name": "results", "strict": True, "schema": results_schema(n, task)}
    return {"type": "json_schema", "json_schema": schema}


def _with_reminder(
    messages: list[BaseMessage], unread: int, task: Task
) -> list[BaseMessage]:
    """Append the reminder to the last message: roles may have to alternate."""
    *before, last = messages
    reminder = REMINDER.format(item=task.item, subjects=plural(task.subject))
    content = f"{last.content}\n\n{reminder}"
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
