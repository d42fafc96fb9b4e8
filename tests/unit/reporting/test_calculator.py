"""The break-even calculator: its page against the formula of the package."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from chapterlib.reporting import costs
from chapterlib.reporting.costs import SLIDERS, break_even_calculator

BY_NAME = {slider.name: slider for slider in SLIDERS}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking"


# ---- the steps of a slider ----


@pytest.mark.parametrize("slider", SLIDERS, ids=lambda slider: slider.name)
def test_steps_are_amounts_of_two_digits_and_back(slider):
    amounts = [slider.amount(i) for i in range(1, slider.last + 1)]
    assert amounts == sorted(set(amounts))
    for i, amount in enumerate(amounts, 1):
        digits = str(int(amount * slider.parts)).rstrip("0")
        assert len(digits) <= 2
        assert slider.step(float(amount)) == i
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
    with pytest.raises(ValueError, match="has no step 0"):
        BY_NAME["price"].amount(0)
    with pytest.raises(ValueError, match="whole number"):
        break_even_calculator(months=0)
    assert BY_NAME["training"].step(0) == 0


# ---- the page as it is written ----


def test_without_a_script_it_says_what_the_formula_says():
    page = break_even_calculator(price=0.5, machine=100, training=240).data
    result = costs.break_even(250 * 0.5 / 1e6, machine=100, training=240)
    assert f"From {result.articles:,} articles a month on" in page
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
        assert f"From {expected.articles:,} articles a month on" in said
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
