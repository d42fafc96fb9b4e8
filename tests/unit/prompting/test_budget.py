"""The meter: what requests took, and that none passes the budget."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from chapterlib.prompting.budget import BudgetExceeded, Meter, Usage
from chapterlib.prompting.errors import status_of

PROMPT = [HumanMessage("x" * 100)]
BOUND = 100 + 16 + 64  # bytes, one message, the template


def spend(meter: Meter, prompt: int, completion: int, text: str = "x" * 100) -> None:
    with meter.request([HumanMessage(text)]) as call:
        meter.reserve()
        call.reply = AIMessage(
            "y",
            usage_metadata={
                "input_tokens": prompt,
                "output_tokens": completion,
                "total_tokens": prompt + completion,
            },
        )


def spend_all(meter: Meter) -> None:
    for _ in range(100):
        spend(meter, 25, 100)


def fail(meter: Meter, error: Exception) -> None:
    with meter.request(PROMPT) as call:
        meter.reserve()
        call.error = error


def test_usage_is_what_the_service_counted() -> None:
    meter = Meter(prices=(1.0, 10.0))
    spend(meter, 30, 5)
    spend(meter, 20, 0)
    assert meter.usage == Usage(2, 0, 0, 50, 5, 50e-6 + 50e-6)
    assert meter.usage.tokens == 55
    assert Meter().usage.usd is None


def test_a_request_that_might_pass_the_budget_is_not_begun() -> None:
    meter = Meter(tokens=BOUND + 50, max_tokens=50)
    spend(meter, 25, 50)
    assert meter.usage.tokens == 75
    with (
        pytest.raises(BudgetExceeded, match=r"budget is 230 tokens, 75 .* up to 230"),
        meter.request(PROMPT),
    ):
        meter.reserve()
    assert meter.usage.requests == 1


def test_dollars_are_held_to_a_budget_too() -> None:
    meter = Meter(usd=0.001, prices=(1.0, 2.0), max_tokens=100)
    with pytest.raises(BudgetExceeded, match=r"is \$0.001, .* are spent"):
        spend_all(meter)
    assert 0.0006 < (meter.usage.usd or 0) <= 0.001
    both = Meter(tokens=1000, usd=1e-9, prices=(1.0, 2.0), max_tokens=1)
    with pytest.raises(BudgetExceeded, match=r"1,000 tokens and \$1e-09"):
        spend(both, 1, 1)


def test_what_is_under_way_counts_and_after_a_stop_nothing_is_sent() -> None:
    meter = Meter(tokens=2 * BOUND, max_tokens=0)
    with meter.request(PROMPT) as call:
        meter.reserve()
        assert call.sent
        meter._local.call = None
        with pytest.raises(BudgetExceeded, match="180 are under way"):
            spend(meter, 1, 0, "x" * 200)
    with pytest.raises(BudgetExceeded), meter.request([]):
        meter.reserve()


class RefusedError(Exception):
    status_code = 500


class PageError(Exception):
    status = 200


@pytest.mark.parametrize(
    ("error", "counted"),
    [(RefusedError(), 0), (TimeoutError(), BOUND + 10), (PageError(), BOUND + 10)],
)
def test_only_a_request_that_may_have_been_billed_counts(
    error: Exception, counted: int
) -> None:
    meter = Meter(tokens=1000, max_tokens=10)
    fail(meter, error)
    assert meter.usage == Usage(requests=1, failed=1)
    assert sum(meter._held) == counted


def test_a_reply_without_counts_is_reckoned_at_its_bound() -> None:
    meter = Meter(tokens=1000, max_tokens=10)
    with meter.request(PROMPT) as call:
        meter.reserve()
        meter.reserve()  # a client that sends again
        call.reply = AIMessage("y")
    assert meter.usage.tokens == BOUND + 10
    assert meter._held == (0, 0)


def test_the_status_of_an_error_may_stand_in_its_cause() -> None:
    error = ValueError("told otherwise")
    error.__cause__ = RefusedError()
    assert status_of(error) == 500
    assert status_of(None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": -1, "max_tokens": 1}, "budget_tokens is -1"),
        ({"usd": -1.0, "max_tokens": 1}, "budget_usd is -1"),
        ({"usd": 1.0, "max_tokens": 1}, "needs prices"),
        ({"tokens": 10}, "max_tokens"),
        ({"prices": (-1.0, 1.0)}, "prices are"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Meter(**options)
