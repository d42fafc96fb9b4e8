"""Prices with their sources, the break-even and its calculator, bytes of weights."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from datetime import date
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose

from chapterlib.models import sizes
from chapterlib.prompting.budget import Meter
from chapterlib.reporting import costs, records
from chapterlib.reporting.costs import SLIDERS, answering_bytes, break_even_calculator
from chapterlib.reporting.records import RunRecord

BY_NAME = {slider.name: slider for slider in SLIDERS}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking"
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"

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
    assert table.loc[of_tokens, "hour"].isna().all()
    assert table.loc[~of_tokens, ["input", "output"]].isna().to_numpy().all()
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
    assert costs.token_cost(prompt, completion, price) == pytest.approx(expected)


def test_a_model_is_named_or_handed_over():
    price = costs.token_price("gpt-4o-mini")
    cost = costs.token_cost(2_000_000, 500_000, "gpt-4o-mini")
    assert cost == pytest.approx(0.60)
    assert cost == costs.token_cost(2_000_000, 500_000, price)


def test_time_on_a_machine_costs_its_rent():
    rented = costs.machine_cost(1800, costs.machine_price("T4"))
    assert rented == costs.machine_cost(1800, "T4") == costs.machine_cost(1800, 0.5)
    assert rented == 0.25
    assert costs.machine_cost(1800, 0) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: costs.token_cost(-1, 0, (1, 1)), "prompt_tokens=-1"),
        (lambda: costs.token_cost(1, math.nan, (1, 1)), "completion_tokens=nan"),
        (lambda: costs.token_cost(1, 1, (-1, 1)), "input_price=-1"),
        (lambda: costs.machine_cost(math.inf, 1), "seconds=inf"),
        (lambda: costs.machine_cost(1, -1), "machine=-1"),
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
    assert "from 73,334 articles per month" in str(found)


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


# ---- the steps of a slider ----


@pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
def test_steps_are_amounts_of_two_digits_and_back(slider):
    amounts = [slider.amount(i) for i in range(1, slider.last + 1)]
    assert amounts == sorted(set(amounts))
    for amount in amounts:
        assert len(str(int(amount * slider.parts)).rstrip("0")) <= 2
    for i in (1, 2, 89, 90, 91, *range(97, slider.last, 97), slider.last):
        assert slider.step(float(amounts[i - 1])) == i
    largest = max(b / a for a, b in pairwise(amounts))
    assert largest == Fraction(11, 10)


@given(st.floats(1, 9_900))
def test_the_nearest_step_is_taken(amount):
    slider = BY_NAME["machine"]
    found = float(slider.amount(slider.step(amount)))
    assert abs(found - amount) <= 0.05 * amount


def test_what_no_slider_reaches_is_refused():
    with pytest.raises(ValueError, match=r"goes from 0\.01 to 99"):
        BY_NAME["price"].step(0.001)
    with pytest.raises(ValueError, match=r"machine=-1"):
        BY_NAME["machine"].step(-1)
    with pytest.raises(ValueError, match="whole number"):
        break_even_calculator(months=0)
    assert BY_NAME["training"].step(0) == 0


# ---- the page as it is written ----


def test_without_a_script_it_says_what_the_formula_says():
    page = break_even_calculator(price=0.5, machine=100, training=240).data
    result = costs.break_even(250 * 0.5 / 1e6, machine=100, training=240)
    assert f"From {result.articles:,} articles per month on" in page
    assert "{{" not in page
    # Nothing is fetched from anywhere.
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_its_prices_are_those_of_the_package_by_default():
    page = break_even_calculator().data
    steps = dict(re.findall(r'name="(\w+)".*?value="(\d+)"', page))
    chosen = {name: BY_NAME[name].amount(int(i)) for name, i in steps.items()}
    assert float(chosen["price"]) == costs.token_price("llama-3.3-70b").input
    month = costs.machine_price("2 CPU cores").month
    assert float(chosen["machine"]) == pytest.approx(month, rel=0.05)


# ---- the page as a browser runs it ----


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("no chromium or no chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield opened
    opened.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Any:
    def show(**options: Any) -> Any:
        shown = break_even_calculator(**options).data
        head = "<!doctype html><meta name=viewport content='width=device-width'>"
        file = tmp_path / "page.html"
        file.write_text(f"{head}<meta charset=utf-8>{shown}", encoding="utf-8")
        driver.get(file.as_uri())
        return driver

    return show


def move(driver: Any, steps: dict[str, int]) -> tuple[int, str]:
    """Set the sliders; give the break-even that the page found, and what it says."""
    found, said = driver.execute_script(
        """const form = document.querySelector("form");
        for (const [name, step] of Object.entries(arguments[0]))
          form.elements[name].value = step;
        form.querySelector("input").dispatchEvent(new Event("input", {bubbles: true}));
        return [form.dataset.articles, form.querySelector("output").innerText];""",
        steps,
    )
    return int(found), said


def test_the_page_finds_what_the_package_finds(page):
    months = 12
    driver = page(months=months)
    rng = np.random.default_rng(0)
    cases = [
        {s.name: int(rng.integers(0 if s.zero else 1, s.last + 1)) for s in SLIDERS}
        for _ in range(200)
    ]
    ends = {s.name: s.last for s in SLIDERS}
    nothing = {"machine": 0, "training": 0}
    # Where the costs are equal, the small model is not cheaper yet.
    equal = {"tokens": 91, "price": 91, "machine": 91, "training": 0}
    cases += [ends, ends | nothing, ends | equal, ends | {"tokens": 1, "price": 1}]
    for steps in cases:
        amount = {name: BY_NAME[name].amount(step) for name, step in steps.items()}
        expected = costs.break_even(
            float(amount["tokens"] * amount["price"] / 10**6),
            machine=float(amount["machine"]),
            training=float(amount["training"]),
            months=months,
        )
        found, said = move(driver, steps)
        assert found == expected.articles, steps
        assert f"From {expected.articles:,} articles per month on" in said
        n = int(amount["articles"])
        own, hosted = (
            float(f(n)) for f in (expected.small_costs, expected.hosted_costs)
        )
        told = [
            float(x.replace(",", "")) for x in re.findall(r"\$([\d,]+\.\d\d)", said)
        ]
        assert told[:2] == pytest.approx([own, hosted], abs=0.0051)
        if own != hosted:
            cheaper = "your own" if own < hosted else "the hosted"
            assert f"{cheaper} model saves" in said


def test_it_warns_where_one_machine_is_too_slow(page):
    driver = page(seconds=0.5)
    most = 2_628_000 / 0.5
    slider = BY_NAME["articles"]
    assert "One machine" not in move(driver, {"articles": slider.step(5e6)})[1]
    assert f"{most:,.0f}" in move(driver, {"articles": slider.step(5.3e6)})[1]


def test_it_is_worked_by_keys_and_read_aloud(page):
    from selenium.webdriver.common.keys import Keys

    driver = page()
    inputs = driver.find_elements("css selector", "input")
    assert len(inputs) == len(SLIDERS)
    output = driver.find_element("css selector", "output")
    assert output.get_attribute("aria-live") == "polite"
    for element, slider in zip(inputs, SLIDERS, strict=True):
        assert element.accessible_name == slider.label
        before = output.text, element.get_attribute("aria-valuetext")
        element.send_keys(Keys.ARROW_RIGHT)
        after = output.text, element.get_attribute("aria-valuetext")
        assert before[0] != after[0]
        assert before[1] != after[1]
        assert after[1] in element.find_element("xpath", "..").text


def test_it_fits_a_phone_and_its_console_is_silent(page):
    driver = page()
    move(driver, {s.name: s.last for s in SLIDERS})
    width = "return document.documentElement.scrollWidth"
    assert driver.execute_script(width) <= 390
    assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []


# ---- bytes of weights ----


@pytest.fixture(scope="module")
def runs() -> dict[str, RunRecord]:
    return {run.method: run for run in records.read() if run.data.n_train in (0, 1000)}


def like(run: RunRecord, **changes: object) -> RunRecord:
    return run.model_copy(update=changes)


def test_a_method_without_a_model_is_its_own_size(runs: dict[str, RunRecord]) -> None:
    assert answering_bytes(runs["tfidf"]) == runs["tfidf"].size_bytes


def test_the_model_counts_as_it_is_loaded(runs: dict[str, RunRecord]) -> None:
    plain = sizes.memory("SmolLM2-135M").weights
    assert answering_bytes(runs["probe"]) == plain + runs["probe"].size_bytes
    assert answering_bytes(runs["lora"]) == pytest.approx(
        plain + runs["lora"].size_bytes, rel=1e-4
    )
    assert answering_bytes(runs["qlora"]) < 0.5 * answering_bytes(runs["lora"])


def test_a_classifier_of_llama_has_no_output_layer(runs: dict[str, RunRecord]) -> None:
    llama = like(runs["lora"], model=LLAMA, size_bytes=0)
    assert answering_bytes(llama) == sizes.memory("Llama-3-8B", labels=4).weights
    scored = like(runs["zero-shot"], model=LLAMA, size_bytes=0)
    assert answering_bytes(scored) == sizes.memory("Llama-3-8B").weights
    assert answering_bytes(llama) < answering_bytes(scored)


def test_a_model_that_was_trained_whole_counts_once(
    runs: dict[str, RunRecord],
) -> None:
    whole = like(runs["lora"], params={"method": "full"}, size_bytes=4 * 134_515_584)
    assert answering_bytes(whole) == 4 * 134_515_584


def test_what_is_not_known_is_not_guessed(runs: dict[str, RunRecord]) -> None:
    assert answering_bytes(like(runs["probe"], size_bytes=None)) is None
    assert answering_bytes(like(runs["probe"], model="someone/else-2B")) is None
