"""What can go wrong between the reader and a language model, as one type of error."""

from __future__ import annotations

import difflib
import json
import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import SecretStr, ValidationError

from chapterlib.settings import get_settings


def status_of(error: BaseException | None) -> int | None:
    """HTTP status that an error, or one of its causes, was raised for; else None."""
    while error is not None:
        for name in ("status", "status_code"):
            if isinstance(status := getattr(error, name, None), int):
                return status
        error = error.__cause__ or error.__context__
    return None


# What the services' keys look like, for a key that no setting knows.
KEY_LIKE = re.compile(
    r"\b(?:sk|tgp|tok|hf|gsk|key)[-_][\w*-]{8,}|\b[0-9a-f]{64}\b|(?<=Bearer )[^\s'\"]+"
)
# Seconds beyond which a wait that a server asks for is reported instead.
LONGEST_WAIT = 120.0
QUOTED = 160


class LLMError(RuntimeError):
    """A language model can't be asked, or did not give a usable reply.

    The message names the cause and what to do. API keys are blotted out of it, and the
    error that it replaces, which may quote one, is not chained.

    Parameters
    ----------
    message : str
    retryable : bool
        Whether the same request may succeed later: a limit on the rate, a fault of the
        service, a time-out, a reply that is no completion (a web page, an error with
        status 200, none of the choices).
    fatal : bool
        Whether no other request will fare better before a setting is changed: a key, a
        model, a quota, a server that does not start.
    status : int, optional
        The HTTP status, where there was one.
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
        return _rebuild, (str(self), self.retryable, self.fatal, self.status)


def _rebuild(
    message: str, retryable: bool, fatal: bool, status: int | None
) -> LLMError:
    return LLMError(message, retryable=retryable, fatal=fatal, status=status)


@dataclass(frozen=True)
class Endpoint:
    """Where a chat model is served, for messages about it.

    Attributes
    ----------
    name : str
        As the reader knows it.
    base_url : str
    model : str
    key_variable : str
        The variable that the key is read from.
    key : SecretStr
    """

    name: str
    base_url: str
    model: str
    key_variable: str
    key: SecretStr


def mask(text: str, *secrets: SecretStr | str | None) -> str:
    """Blot API keys out of a text.

    Parameters
    ----------
    text : str
    *secrets
        Keys to blot out beside those of the settings.

    Returns
    -------
    str
        The text with ``***`` for every known key and for what looks like one.

    Examples
    --------
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


def explain(error: Exception, endpoint: Endpoint, models: Iterable[str]) -> LLMError:
    """Turn an error of a client into one that says what to do.

    Parameters
    ----------
    error : Exception
        From ``openai`` or ``langchain_core.exceptions``, or raised while they read a
        reply.
    endpoint : Endpoint
    models : iterable of str
        What the endpoint serves; asked only if the model is the trouble.

    Returns
    -------
    LLMError
    """
    status = getattr(error, "status_code", None)
    said = mask(_said(error), endpoint.key)
    at = f"{endpoint.name} ({mask(_public(endpoint.base_url), endpoint.key)})"
    variable = endpoint.key_variable
    code = str(getattr(error, "code", None) or "")
    if status == 401:
        # What the server says of a wrong key often quotes part of it.
        return LLMError(
            f"{at} refused the API key (HTTP 401): put a valid one into {variable}, in "
            "the environment or in .env",
            fatal=True,
            status=status,
        )
    if status in (404, 410) or code in ("model_not_found", "model_not_available"):
        return LLMError(
            f"{at} has no model {endpoint.model!r} (HTTP {status}: {said}): set "
            f"CHAPTERLIB_LLM_MODEL to one that it serves{_listed(endpoint, models)}",
            fatal=True,
            status=status,
        )
    if status in (402, 403) or code == "insufficient_quota":
        return LLMError(
            f"{at} refuses to serve {endpoint.model!r} (HTTP {status}: {said}): check "
            f"the account of the key in {variable}, its credit and its rights",
            fatal=True,
            status=status,
        )
    if status is None:
        return _without_status(error, at, said)
    if status in (408, 409, 429) or status >= 500:
        return LLMError(
            f"{at} does not answer now (HTTP {status}: {said}): try again later, or "
            "send less at once (CHAPTERLIB_REQUESTS_PER_SECOND)",
            retryable=True,
            status=status,
        )
    return LLMError(
        f"{at} can't take this request (HTTP {status}: {said}): shorten the prompt if "
        "it is too long, else change the option that it names",
        status=status,
    )


def wait_asked_for(error: Exception) -> float | None:
    """Seconds that the server asks to wait (``Retry-After``), None without.

    Both forms are read: seconds, and the date of RFC 9110, section 10.2.3.
    """
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def no_completion(error: Exception, endpoint: Endpoint) -> LLMError:
    """Describe a reply with status 200 that holds no completion."""
    said = mask(_said(error), endpoint.key)
    at = f"{endpoint.name} ({mask(_public(endpoint.base_url), endpoint.key)})"
    return LLMError(
        f"{at} sent no completion, although with status 200 ({said}): try again later; "
        "if it stays so, CHAPTERLIB_LLM_BASE_URL may name another kind of server",
        retryable=True,
        status=200,
    )


def _without_status(error: Exception, at: str, said: str) -> LLMError:
    if "Timeout" in type(error).__name__:
        return LLMError(
            f"{at} did not answer in time: try again later, or give it longer "
            "(chat_model's timeout)",
            retryable=True,
        )
    if "Connection" in type(error).__name__:
        return LLMError(
            f"{at} can't be reached ({said}): check the network and "
            "CHAPTERLIB_LLM_BASE_URL",
            retryable=True,
        )
    return LLMError(f"{at} could not be used ({type(error).__name__}: {said})")


def _listed(endpoint: Endpoint, models: Iterable[str]) -> str:
    names = sorted(set(models))
    near = difflib.get_close_matches(endpoint.model, names, n=8, cutoff=0.0)
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    return f": {', '.join(near)}{more}" if near else ""


def _public(url: str) -> str:
    """Leave out a user and a password that a URL may hold."""
    return re.sub(r"//[^/@]*@", "//", url)


def _said(error: Exception) -> str:
    body = getattr(error, "body", None)
    told = body.get("message") if isinstance(body, dict) else None
    text = told if isinstance(told, str) else str(error)
    if isinstance(error, json.JSONDecodeError):
        text = f"no JSON: {error.doc[:80]!r}"
    cause = error.__cause__
    if cause is not None and "Connection" in type(error).__name__:
        text = str(cause) or text
    line = " ".join(text.split())
    return line if len(line) <= QUOTED else line[: QUOTED - 1] + "…"
