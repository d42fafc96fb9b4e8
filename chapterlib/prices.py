"""What an article costs, hosted or on a machine of one's own, and where they meet.

The prices lie in `data_files/prices.yaml`, each with its date and its source. Every
function takes other ones just as well: yours are the ones that count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, HttpUrl, NonNegativeFloat

from chapterlib.breakeven import BreakEven, break_even, check_amounts

__all__ = [
    "HOURS_A_MONTH",
    "BreakEven",
    "Cost",
    "MachinePrice",
    "TokenPrice",
    "break_even",
    "machine_cost",
    "machine_price",
    "price_table",
    "token_cost",
    "token_price",
]

# A twelfth of the 8,760 hours of a year.
HOURS_A_MONTH = 730


class _Price(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    provider: str
    date: date
    dated: Literal["stated", "read"]
    quoted: bool = False
    source: HttpUrl


class TokenPrice(_Price):
    """Dollars for a million tokens of a hosted model.

    Attributes
    ----------
    name, provider : str
        The model, and who sets the price.
    input, output : float
        For tokens of prompts and of replies; `PromptClassifier` takes them as
        `price_prompt` and `price_completion`.
    date : datetime.date
        When the price held: as the source states, or when a copy of it was read.
    dated : {"stated", "read"}
        Which of the two.
    quoted : bool
        Whether the source is not the provider's own page.
    source : HttpUrl
        Where the price stands.
    """

    input: NonNegativeFloat
    output: NonNegativeFloat


class MachinePrice(_Price):
    """Dollars for an hour of a rented machine; else as `TokenPrice`."""

    hour: NonNegativeFloat

    @property
    def month(self) -> float:
        """Dollars for a month in which it is never turned off."""
        return HOURS_A_MONTH * self.hour


P = TypeVar("P", bound=_Price)


class _Prices(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[TokenPrice, ...]
    machines: tuple[MachinePrice, ...]


@dataclass(frozen=True)
class Cost:
    """What some work takes.

    Attributes
    ----------
    usd : float
        Money.
    seconds : float or None
        Time, where it was measured.
    kwh : float or None
        Energy in kilowatt-hours, where the power is known.
    """

    usd: float
    seconds: float | None = None
    kwh: float | None = None

    def each(self, articles: int) -> Cost:
        """Share the cost among a number of articles.

        Raises
        ------
        ValueError
            If there is no article.
        """
        if articles < 1:
            raise ValueError(f"articles={articles}: a share needs at least one.")
        seconds, kwh = (
            None if part is None else part / articles
            for part in (self.seconds, self.kwh)
        )
        return Cost(self.usd / articles, seconds, kwh)


def token_price(name: str) -> TokenPrice:
    """Look up the price of a hosted model.

    Raises
    ------
    ValueError
        If the file has none; the message lists those it has.
    """
    return _named(_read().tokens, name)


def machine_price(name: str) -> MachinePrice:
    """Look up the price of a machine; ValueError as in `token_price`."""
    return _named(_read().machines, name)


def price_table() -> pd.DataFrame:
    """All prices of the file, one a row, with dates and sources.

    Returns
    -------
    DataFrame
        `name`, `provider`, `unit`, `input`, `output` (dollars; NaN for a machine),
        `hour` (dollars; NaN for a model), `date`, `dated`, `quoted`, `source`.
    """
    prices = _read()
    rows = [
        {"unit": unit} | price.model_dump(mode="json")
        for unit, some in (
            ("USD per million tokens", prices.tokens),
            ("USD per hour", prices.machines),
        )
        for price in some
    ]
    columns = ["name", "provider", "unit", "input", "output", "hour"]
    return pd.DataFrame(rows)[[*columns, "date", "dated", "quoted", "source"]]


def token_cost(
    prompt_tokens: float,
    completion_tokens: float,
    price: str | TokenPrice | tuple[float, float],
    *,
    seconds: float | None = None,
) -> Cost:
    """Turn tokens into money.

    Parameters
    ----------
    prompt_tokens, completion_tokens : float
        As in `Usage`, or means of one article.
    price : str, TokenPrice or (float, float)
        A name for `token_price`, a price, or dollars for a million tokens of prompts
        and of replies.
    seconds : float, optional
        How long it took, to be handed on.

    Returns
    -------
    Cost

    Raises
    ------
    ValueError
        If the name is unknown, or a number is negative or not finite.

    Examples
    --------
    >>> round(token_cost(1_000, 100, (0.40, 1.60)).usd, 6)
    0.00056
    """
    if isinstance(price, str):
        price = token_price(price)
    if isinstance(price, TokenPrice):
        price = price.input, price.output
    check_amounts(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    check_amounts(input_price=price[0], output_price=price[1], seconds=seconds)
    usd = (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6
    return Cost(usd, seconds)


def machine_cost(
    seconds: float,
    machine: str | MachinePrice | float = 0.0,
    *,
    watts: float | None = None,
    usd_per_kwh: float = 0.0,
) -> Cost:
    """Turn time on a machine into money, and into energy where its power is known.

    Parameters
    ----------
    seconds : float
        How long the machine was at work.
    machine : str, MachinePrice or float
        A name for `machine_price`, a price, or dollars an hour; 0 for your own.
    watts : float, optional
        Power that it draws at work.
    usd_per_kwh : float
        What you pay for energy; a rented machine's price includes it.

    Returns
    -------
    Cost

    Raises
    ------
    ValueError
        If the name is unknown, a number is negative or not finite, or energy has a
        price but the power is not known.

    Examples
    --------
    >>> machine_cost(3600, 0.50).usd
    0.5
    >>> machine_cost(7200, watts=100, usd_per_kwh=0.25)
    Cost(usd=0.05, seconds=7200, kwh=0.2)
    """
    if isinstance(machine, str):
        machine = machine_price(machine)
    hour = machine.hour if isinstance(machine, MachinePrice) else machine
    check_amounts(seconds=seconds, machine=hour, watts=watts, usd_per_kwh=usd_per_kwh)
    if watts is None and usd_per_kwh:
        raise ValueError("usd_per_kwh needs watts: say what power the machine draws.")
    kwh = None if watts is None else watts * seconds / 3.6e6
    return Cost(seconds / 3600 * hour + usd_per_kwh * (kwh or 0.0), seconds, kwh)


@lru_cache(maxsize=1)
def _read() -> _Prices:
    path = Path(__file__).parent / "data_files" / "prices.yaml"
    return _Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def _named(prices: Iterable[P], name: str) -> P:
    found = {price.name: price for price in prices}
    if name not in found:
        raise ValueError(
            f"There is no price of {name!r}: choose one of {', '.join(found)}, or "
            "hand over your own numbers."
        )
    return found[name]
