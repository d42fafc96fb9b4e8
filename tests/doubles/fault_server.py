"""A chat-completions server on loopback that misbehaves on request, reproducibly.

It speaks the OpenAI wire format over real HTTP. Which requests go wrong follows from
the seed, the body of a request and how often that body came before, and not from the
order of arrival: threads and retries change nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fault_http import HTTP_FAULTS, FaultHTTP
from fault_replies import REPLY_FAULTS, Reply, spoil

Messages = list[dict[str, Any]]
FAULTS = HTTP_FAULTS + REPLY_FAULTS
ARTICLE = re.compile(r'^\W*(?:article\s*)?(\d+)\s*[:.)\]]\s*(".*")\s*$', re.I | re.M)


def read_articles(messages: Messages) -> list[str]:
    """Read the numbered articles (JSON strings, one a line) of the last message."""
    texts: list[str] = []
    for number, quoted in ARTICLE.findall(str(messages[-1]["content"])):
        if int(number) == 1:  # demonstrations may stand before
            texts = []
        if int(number) == len(texts) + 1:
            texts.append(json.loads(quoted))
    return texts


@dataclass
class Request:
    """One request for a completion and what became of it."""

    body: dict[str, Any]
    raw: bytes
    articles: list[str]
    authorization: str
    fault: str | None
    arrived: float
    status: int = 0
    content: str = ""
    delivered: bool = False


class FaultServer:
    """Answer articles over HTTP, some of the time wrongly.

    Parameters
    ----------
    answer : callable
        The right label (a name) of an article's text.
    faults : mapping, optional
        Probability of each of `FAULTS`, at most 1 in all.
    reply : callable, optional
        What to say to the messages, instead of labels for the articles in them.
    reader : callable
        How the articles are read out of the messages.
    latency : float
        Seconds before each reply.
    retry_after : float
        Seconds named in the header of a 429.
    key : str, optional
        Where given, any other API key is refused with 401.
    models : sequence of str, optional
        Where given, any other model is refused with 404, and /models lists them.
    stop_after : int, optional
        Hold every reply after this many were delivered, until it is set to None.

    Attributes
    ----------
    requests : list of Request
    given : mapping
        For each article, the labels that were delivered for it.
    answered : mapping
        For each article that was answered rightly and once in a delivered reply, its
        label.
    """

    def __init__(
        self,
        answer: Callable[[str], str] = lambda text: "World",
        faults: Mapping[str, float] | None = None,
        *,
        reply: Callable[[Messages], str] | None = None,
        reader: Callable[[Messages], list[str]] = read_articles,
        latency: float = 0.0,
        seed: int = 0,
        retry_after: float = 0.05,
        key: str | None = None,
        models: Sequence[str] = (),
        stop_after: int | None = None,
    ) -> None:
        self.answer, self.reply, self.reader = answer, reply, reader
        self.faults = dict(faults or {})
        if unknown := set(self.faults) - set(FAULTS):
            raise ValueError(f"unknown faults {unknown}: there are {FAULTS}")
        if sum(self.faults.values()) > 1 + 1e-9:
            raise ValueError("the probabilities of the faults add up to more than 1")
        self.latency, self.seed, self.retry_after = latency, seed, retry_after
        self.key, self.models, self.stop_after = key, list(models), stop_after
        self.requests: list[Request] = []
        self.given: dict[str, set[str]] = defaultdict(set)
        self.answered: dict[str, str] = {}
        self._seen: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self.closing = threading.Event()

    def __enter__(self) -> FaultServer:
        self._http = FaultHTTP(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def delivered(self) -> list[Request]:
        """The requests whose whole reply was sent with status 200."""
        with self._lock:
            return [r for r in self.requests if r.delivered and r.status == 200]

    def admit(self, raw: bytes, authorization: str) -> tuple[Request, random.Random]:
        """Note a request and draw its fault."""
        body = json.loads(raw)
        articles = [] if self.reply else self.reader(body["messages"])
        with self._lock:
            times = self._seen[raw]
            self._seen[raw] += 1
            digest = hashlib.sha256(raw).hexdigest()
            rng = random.Random(f"{self.seed} {digest} {times}")
            fault = rng.choices(
                [*self.faults, None],
                [*self.faults.values(), max(0.0, 1 - sum(self.faults.values()))],
            )[0]
            request = Request(
                body, raw, articles, authorization, fault, time.monotonic()
            )
            self.requests.append(request)
        return request, rng

    def compose(self, request: Request, rng: random.Random) -> Reply:
        """Make the reply: the right one, or as the fault spoils it."""
        if self.reply:
            right = Reply(self.reply(request.body["messages"]), [])
            return spoil(right, request.fault, rng)
        labels = [self.answer(text) for text in request.articles]
        return spoil(Reply.of(labels), request.fault, rng)

    def confirm(self, request: Request, reply: Reply) -> None:
        """Note that a reply reached the client."""
        with self._lock:
            request.delivered = True
            if request.status != 200:
                return
            told: dict[str, list[str]] = defaultdict(list)
            for number, label in reply.entries:
                if 1 <= number <= len(request.articles):
                    told[request.articles[number - 1]].append(label)
            for text, labels in told.items():
                if set(labels) == {self.answer(text)}:
                    self.answered[text] = self.answer(text)
            seen = reply.entries if reply.visible is None else reply.visible
            for number, label in seen:
                if 1 <= number <= len(request.articles):
                    self.given[request.articles[number - 1]].add(label)

    def broken_promises(
        self, texts: Sequence[str], labels: Sequence[str | None]
    ) -> list[str]:
        """List what must not be: labels (None: no answer) against what was said."""
        found = []
        if len(texts) != len(labels):
            found.append(f"{len(texts)} articles, {len(labels)} answers")
        for row, (text, label) in enumerate(zip(texts, labels, strict=False)):
            if label is not None and label not in self.given[text]:
                found.append(f"row {row}: {label!r} was invented")
            if text in self.answered and label != self.answered[text]:
                found.append(f"row {row}: {self.answered[text]!r}, not {label!r}")
        return found
