"""What can go wrong between the reader and a language model, as one type of error."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.outputs import ChatGeneration
from pydantic import SecretStr, ValidationError

from chapterlib.prompting.cache import says_something
from chapterlib.settings import get_settings

# What the services' keys look like, for a key that no setting knows.
KEY_LIKE = re.compile(
    r"\b(?:sk|tgp|tok|hf|gsk|key)[-_][\w*-]{8,}|\b[0-9a-f]{64}\b|(?<=Bearer )[^\s'\"]+"
)
QUOTED = 160


class LLMError(RuntimeError):
    """A language model can't be asked, or did not give a usable reply.

    The message names the cause and what to do. API keys are blotted out of it, and the
    error that it replaces, which may quote one, is not chained. `retryable`: the same
    request may succeed later. `fatal`: no other request will fare better before a
    setting is changed. `status` is that of HTTP, where there was one.
    """

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        fatal: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable, self.fatal, self.status = retryable, fatal, status

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"retryable": self.retryable, "fatal": self.fatal}
        return type(self), (str(self),), {**state, "status": self.status}


@dataclass(frozen=True)
class Endpoint:
    """Where a chat model is served, for messages about it.

    The name as the reader knows it, and the variable that the key is read from.
    """

    name: str
    base_url: str
    model: str
    key_variable: str
    key: SecretStr


def status_of(error: BaseException | None) -> int | None:
    """HTTP status that an error, or one of its causes, was raised for; else None."""
    while error is not None:
        for name in ("status", "status_code"):
            if isinstance(status := getattr(error, name, None), int):
                return status
        error = error.__cause__ or error.__context__
    return None


def mask(text: str, *secrets: SecretStr | str | None) -> str:
    """Put ``***`` for the keys given, those of the settings and what looks like one.

    >>> mask("Incorrect API key: sk-abcdefgh12345678")
    'Incorrect API key: ***'
    """
    try:
        settings = get_settings()
        secrets += (settings.together_api_key, settings.openai_api_key)
        secrets += (settings.hf_token,)
    except ValidationError:
        pass  # some other setting is bad, and said to be so elsewhere
    for secret in secrets:
        value = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if value and value.strip():
            text = text.replace(value, "***").replace(value.strip(), "***")
    return KEY_LIKE.sub("***", text)


def explain(
    error: Exception, endpoint: Endpoint, models: Iterable[str] = (), status: int = 0
) -> LLMError:
    """Turn an error of ``openai`` or LangChain into one that says what to do.

    `models` are what the endpoint serves; `status` is 200 for a reply that arrived and
    holds no completion.
    """
    code = str(getattr(error, "code", None) or "")
    status = status or getattr(error, "status_code", None) or 0
    kind = type(error).__name__
    said = f"HTTP {status}: {_said(error)}" if status else _said(error)
    retryable = fatal = False
    if status == 200:
        what = "sent no completion, although with status 200"
        remedy = (
            "try again later; if it stays so, CHAPTERLIB_LLM_BASE_URL may name another "
            "kind of server"
        )
        retryable = True
    elif status == 401:
        what, fatal = "refused the API key", True
        said = "HTTP 401"  # what the server says often quotes part of a wrong key
        remedy = (
            f"put a valid one into {endpoint.key_variable}, in the environment or in "
            ".env"
        )
    elif status == 404 and not models and "model" not in said + code:
        what, fatal = "has nothing at this address", True
        remedy = (
            "let CHAPTERLIB_LLM_BASE_URL end where the interface begins, mostly in /v1 "
            "and never in /chat/completions; if it does, check CHAPTERLIB_LLM_MODEL"
        )
    elif status in (404, 410) or code in ("model_not_found", "model_not_available"):
        what, fatal = f"has no model {endpoint.model!r}", True
        remedy = (
            "set CHAPTERLIB_LLM_MODEL to one that it serves"
            f"{_listed(endpoint.model, models)}"
        )
    elif status in (402, 403) or code == "insufficient_quota":
        what, fatal = f"refuses to serve {endpoint.model!r}", True
        remedy = (
            f"check the account of the key in {endpoint.key_variable}, its credit and "
            "its rights"
        )
    elif status in (408, 409, 429) or status >= 500:
        what, retryable = "does not answer now", True
        remedy = (
            "try again later, or send less at once (CHAPTERLIB_REQUESTS_PER_SECOND)"
        )
    elif status:
        what = "can't take this request"
        remedy = (
            "if it is too long, shorten the prompt (a smaller batch_size, fewer or "
            "shorter labels) or take a model with a longer context; else change the "
            "option that it names"
        )
    elif "Timeout" in kind:
        what, retryable = "did not answer in time", True
        remedy = "try again later, or give it longer (chat_model's timeout)"
    elif "Connection" in kind:
        what, retryable = "can't be reached", True
        remedy = "check the network and CHAPTERLIB_LLM_BASE_URL"
    else:
        what, remedy = "could not be used", "look up what the error says"
        said = f"{kind}: {said}"
    url = re.sub(r"//[^/@]*@", "//", endpoint.base_url)  # without user and password
    message = f"{endpoint.name} ({url}) {what} ({said}): {remedy}"
    return LLMError(
        mask(message, endpoint.key),
        retryable=retryable,
        fatal=fatal,
        status=status or None,
    )


def lacking(choices: Sequence[ChatGeneration]) -> Exception | None:
    """Say what a completion lacks to be an answer, None if nothing does.

    An `LLMError` where the same request would bring the same again.
    """
    if not choices:
        return ValueError("no choices")
    ended = str((choices[0].generation_info or {}).get("finish_reason"))
    if says_something(choices[0].message) and ended != "error":
        return None
    if ended in ("length", "max_tokens"):
        return LLMError(
            "the reply was cut off at max_tokens before it came to an answer: give "
            "the model more max_tokens, or let it think less"
        )
    if ended == "content_filter":
        return LLMError("the service's content filter held the reply back")
    return ValueError(f"an empty reply with finish_reason {ended!r}")


def _listed(model: str, models: Iterable[str]) -> str:
    names = sorted(set(models))
    near = difflib.get_close_matches(model, names, n=8, cutoff=0.0)
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    return f": {', '.join(near)}{more}" if near else ""


def _told(body: Any) -> str:
    """Find a server's own words in what it sent, of whatever shape."""
    if isinstance(body, dict):
        keys = ("message", "error", "detail", "msg")
        return next(filter(None, (_told(body.get(key)) for key in keys)), "")
    if isinstance(body, list):
        return "; ".join(filter(None, map(_told, body)))
    return body.strip() if isinstance(body, str) else ""


def _said(error: Exception) -> str:
    text = _told(getattr(error, "body", None)) or str(error)
    if isinstance(error, json.JSONDecodeError):
        text = f"no JSON: {error.doc[:80]!r}"
    if error.__cause__ is not None and "Connection" in type(error).__name__:
        text = str(error.__cause__) or text
    line = " ".join(mask(text).split())  # a key that is cut short looks like none
    return line if len(line) <= QUOTED else line[: QUOTED - 1] + "…"
