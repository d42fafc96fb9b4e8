"""Prices with their sources, tokens and hours turned into money, the break-even."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose

from chapterlib.prompting.budget import Meter
from chapterlib.reporting import costs

tokens = st.integers(0, 10**9)
cents = st.integers(0, 10**5).map(lambda i: i / 100)
# Dollars an article, in tens of millionths of a dollar.
small = st.integers(0, 10**4).map(lambda i: i / 10**7)


# ---- the file ----


def test_every_price_has_a_date_and_a_source():
    table = costs.price_table()
    assert len(table) >= 10
    assert table["name"].is_unique
    assert table["source"].str.startswith("https://").all()
    days = [date.fromisoformat(day) for day in table["date"]]
    assert date(2025, 1, 1) < min(days) <= max(days) < date(2030, 1, 1)
    of_tokens = table["unit"].str.contains("tokens")
    assert (table.loc[of_tokens, "input"] > 0).all()
    assert (table.loc[of_tokens, "output"] >= table.loc[of_tokens, "input"]).all()
    assert (table.loc[~of_tokens, "hour"] > 0).all()
    # A source that is not the provider's own page can only quote a price of some day.
    assert (table.loc[table["quoted"], "dated"] == "stated").all()


def test_a_price_is_found_by_name():
    price = costs.token_price("gpt-4.1-mini")
    assert (price.provider, price.input, price.output) == ("OpenAI", 0.4, 1.6)
    machine = costs.machine_price("T4")
    assert machine.month == pytest.approx(730 * machine.hour)
    with pytest.raises(ValueError, match=r"'gpt-9': choose one of gpt-4\.1, "):
        costs.token_price("gpt-9")
    with pytest.raises(ValueError, match="choose one of 2 CPU cores"):
        costs.machine_cost(1, "gpt-4.1")


# ---- tokens and hours ----


@settings(deadline=None)
@given(tokens, tokens, st.tuples(cents, cents))
def test_tokens_cost_what_the_budget_counts(prompt, completion, price):
    expected = Meter(prices=price).dollars(prompt, completion)
    assert costs.token_cost(prompt, completion, price).usd == pytest.approx(expected)


def test_a_model_is_named_or_handed_over():
    price = costs.token_price("gpt-4o-mini")
    cost = costs.token_cost(2_000_000, 500_000, "gpt-4o-mini", seconds=9.0)
    assert cost == costs.Cost(usd=pytest.approx(0.60), seconds=9.0)
    assert cost == costs.token_cost(2_000_000, 500_000, price, seconds=9.0)


def test_time_on_a_machine_costs_its_rent_and_its_energy():
    rented = costs.machine_cost(1800, costs.machine_price("T4"))
    assert rented == costs.machine_cost(1800, "T4") == costs.machine_cost(1800, 0.5)
    assert rented == costs.Cost(usd=0.25, seconds=1800)
    own = costs.machine_cost(1800, watts=70, usd_per_kwh=0.3)
    assert own.kwh == pytest.approx(0.035)
    assert own.usd == pytest.approx(0.0105)
    assert costs.machine_cost(1800, watts=70).usd == 0


def test_a_cost_is_shared_among_articles():
    shared = costs.Cost(usd=8.0, seconds=2.0).each(4)
    assert shared == costs.Cost(usd=2.0, seconds=0.5, kwh=None)
    assert costs.machine_cost(3600, watts=1000).each(1000).kwh == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: costs.token_cost(-1, 0, (1, 1)), "prompt_tokens=-1"),
        (lambda: costs.token_cost(1, math.nan, (1, 1)), "completion_tokens=nan"),
        (lambda: costs.token_cost(1, 1, (-1, 1)), "input_price=-1"),
        (lambda: costs.token_cost(1, 1, (1, 1), seconds=-1), "seconds=-1"),
        (lambda: costs.machine_cost(math.inf), "seconds=inf"),
        (lambda: costs.machine_cost(1, -1), "machine=-1"),
        (lambda: costs.machine_cost(1, usd_per_kwh=0.3), "needs watts"),
        (lambda: costs.Cost(1.0).each(0), "at least one"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- break-even ----


@settings(deadline=None)
@given(small, small, cents, cents, st.integers(1, 60))
def test_the_break_even_is_the_first_number_that_is_cheaper(
    hosted, article, machine, training, months
):
    found = costs.break_even(
        hosted, article, machine=machine, training=training, months=months
    )
    assert found.fixed == pytest.approx(machine + training / months)
    if found.articles is None:
        assert article >= hosted
        return
    n = found.articles
    around = np.array([n - 1, n, 10 * n])
    saved = found.hosted_costs(around) - found.small_costs(around)
    rounding = 1e-9 * (1 + found.hosted_costs(around))
    assert saved[0] <= rounding[0]
    assert saved[1] > -rounding[1]
    assert saved[2] > 0
    assert isinstance(n, int)


def test_at_equal_costs_the_small_model_is_not_cheaper():
    assert costs.break_even(0.1, machine=0.3).articles == 4
    assert costs.break_even(0.1, 0.1, machine=0.3).articles is None
    assert costs.break_even(0.1).articles == 1
    never = costs.break_even(0.001, 0.002, machine=10)
    assert str(never) == "the small model is never cheaper"


def test_the_lines_are_those_of_the_costs():
    found = costs.break_even(0.002, 0.0005, machine=100, training=120, months=12)
    assert_allclose(found.small_costs([0, 1000]), [110, 110.5])
    assert_allclose(found.hosted_costs([0, 1000]), [0, 2])
    assert found.articles == 73_334
    assert "from 73,334 articles a month" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hosted": -1}, "hosted=-1"),
        ({"hosted": math.nan}, "hosted=nan"),
        ({"hosted": 1, "article": -0.1}, "article=-0.1"),
        ({"hosted": 1, "machine": math.inf}, "machine=inf"),
        ({"hosted": 1, "training": -5}, "training=-5"),
        ({"hosted": 1, "months": 0}, "months=0"),
    ],
)
def test_the_break_even_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        costs.break_even(**arguments)
