"""From how many articles a month a small model of one's own is the cheaper one."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, HttpUrl, NonNegativeFloat

from chapterlib.models import sizes
from chapterlib.models.sizes import PRESETS
from chapterlib.reporting.records import RunRecord
from chapterlib.settings import data_file

if TYPE_CHECKING:
    from IPython.display import HTML


@dataclass(frozen=True)
class BreakEven:
    """The monthly costs of a small model of one's own and of a large hosted one.

    Attributes
    ----------
    articles : int or None
        From how many articles a month on the small model is cheaper; None: never.
    fixed : float
        Dollars a month for the small model, however many articles there are.
    article : float
        Dollars for each article on top.
    hosted : float
        Dollars for an article at the hosted model.
    """

    articles: int | None
    fixed: float
    article: float
    hosted: float

    def small_costs(self, articles: ArrayLike) -> NDArray[np.float64]:
        """Dollars a month of the small model, at some numbers of articles a month."""
        return self.fixed + self.article * np.asarray(articles, dtype=float)

    def hosted_costs(self, articles: ArrayLike) -> NDArray[np.float64]:
        """Dollars a month of the hosted model, at the same numbers."""
        return self.hosted * np.asarray(articles, dtype=float)

    def __str__(self) -> str:
        """Say from where on the small model is cheaper."""
        if self.articles is None:
            return "the small model is never cheaper"
        return f"the small model is cheaper from {self.articles:,} articles a month"


def break_even(
    hosted: float,
    article: float = 0.0,
    *,
    machine: float = 0.0,
    training: float = 0.0,
    months: float = 12,
) -> BreakEven:
    """Find from how many articles a month a finetuned small model is cheaper.

    Parameters
    ----------
    hosted : float
        Dollars for an article at the large hosted model.
    article : float
        Dollars for an article at the small one, beyond what is paid anyway: energy,
        or time on a machine that is paid by the second.
    machine : float
        Dollars a month for a machine that is always on, as `MachinePrice.month`.
    training : float
        Dollars for labels and training, paid once.
    months : float
        Over which `training` is spread: until the model has to be trained anew.

    Returns
    -------
    BreakEven

    Raises
    ------
    ValueError
        If a cost is negative or not finite, or there is no month.

    Notes
    -----
    n articles cost machine + training / months + n article on the one side, n hosted
    on the other, so the small model is cheaper where n > fixed / (hosted - article),
    and never unless hosted > article. One machine has to keep up with n: at s seconds
    an article, it manages 2,628,000 / s a month.

    Examples
    --------
    >>> print(break_even(hosted=0.001, machine=365, training=120))
    the small model is cheaper from 375,001 articles a month
    """
    check_amounts(hosted=hosted, article=article, machine=machine, training=training)
    if not 0 < months < math.inf:
        raise ValueError(f"months={months}: training is spread over more than none.")
    # In the decimals that were typed: at equal costs the small model is not cheaper.
    n, a, m, t, every = (
        Fraction(str(float(x))) for x in (hosted, article, machine, training, months)
    )
    fixed = m + t / every
    articles = math.floor(fixed / (n - a)) + 1 if n > a else None
    return BreakEven(articles, float(fixed), float(article), float(hosted))


def check_amounts(**numbers: float | None) -> None:
    """Raise ValueError, with its name, for a number that no amount can be."""
    for name, value in numbers.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: give a number of at least 0.")


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


PriceT = TypeVar("PriceT", bound=_Price)


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
    path = data_file("prices.yaml")
    return _Prices.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def _named(prices: Iterable[PriceT], name: str) -> PriceT:
    found = {price.name: price for price in prices}
    if name not in found:
        raise ValueError(
            f"There is no price of {name!r}: choose one of {', '.join(found)}, or "
            "hand over your own numbers."
        )
    return found[name]


class Slider(NamedTuple):
    """A quantity to be chosen in steps of two digits: 10, 11 … 99, 100, 110 and so on.

    Attributes
    ----------
    name, label : str
        For the script, and for readers.
    parts : int
        Units that make one: 1,000 for a price in thousandths of a dollar.
    power, decades : int
        The smallest amount is 10 ** (power + 1) units, and so many decades follow.
    zero : bool
        Whether nothing at all can be chosen, too.
    """

    name: str
    label: str
    parts: int
    power: int
    decades: int
    zero: bool = False

    @property
    def last(self) -> int:
        """The last step."""
        return 90 * self.decades

    def amount(self, step: int) -> Fraction:
        """Say how much a step stands for.

        Raises
        ------
        ValueError
            If the slider has no such step.
        """
        if not (0 if self.zero else 1) <= step <= self.last:
            raise ValueError(
                f"{self.name} has no step {step}: choose one up to {self.last}."
            )
        if not step:
            return Fraction(0)
        decade, digits = divmod(step - 1, 90)
        return Fraction((10 + digits) * 10 ** (self.power + decade), self.parts)

    def step(self, amount: float) -> int:
        """Find the step nearest to an amount; ValueError outside the slider's reach."""
        check_amounts(**{self.name: amount})
        if not amount and self.zero:
            return 0
        least, most = self.amount(1), self.amount(self.last)
        if not least <= amount <= most:
            raise ValueError(
                f"{self.name}={amount}: the slider goes from {float(least):g} to "
                f"{float(most):g}."
            )
        steps = range(1, self.last + 1)
        return min(steps, key=lambda i: abs(self.amount(i) - Fraction(amount)))


SLIDERS = (
    Slider("articles", "Articles a month", 1, 1, 6),
    Slider("tokens", "Tokens an article", 1, 0, 3),
    Slider("price", "A million tokens", 1000, 0, 4),
    Slider("machine", "A machine, each month", 10, 0, 4, zero=True),
    Slider("training", "Labels and training, once", 10, 0, 5, zero=True),
)


def break_even_calculator(
    *,
    articles: float = 100_000,
    tokens: float = 250,
    price: float | None = None,
    machine: float | None = None,
    training: float = 50,
    months: int = 12,
    seconds: float = 0,
) -> HTML:
    """Show sliders for the costs of both models, and from where on yours is cheaper.

    Parameters
    ----------
    articles : float
        Articles a month at first; each amount is rounded to two digits.
    tokens : float
        Tokens that the hosted model reads and writes for an article.
    price : float, optional
        Dollars for a million of them; by default those of "llama-3.3-70b" in
        `prices`, as nearly all of them are read.
    machine : float, optional
        Dollars a month; by default "2 CPU cores" of `prices`, always on.
    training : float
        Dollars for labels and training.
    months : int
        Over which `training` is spread.
    seconds : float
        That your model takes for an article: from how many on one machine is too
        slow. 0 leaves the hint out.

    Returns
    -------
    IPython.display.HTML
        Works in a page that is not connected to anything. It shows the same numbers
        as `prices.break_even`, exactly, and the first of them without a script.

    Raises
    ------
    ValueError
        If an amount is out of its slider's reach, or months or seconds make no sense.
    """
    from IPython.display import HTML

    if price is None:
        price = token_price("llama-3.3-70b").input
    if machine is None:
        machine = machine_price("2 CPU cores").month
    if months < 1 or months != int(months):
        raise ValueError(f"months={months}: give a whole number of at least 1.")
    check_amounts(seconds=seconds)
    chosen = {
        "articles": articles,
        "tokens": tokens,
        "price": price,
        "machine": machine,
        "training": training,
    }
    steps = {slider.name: slider.step(chosen[slider.name]) for slider in SLIDERS}
    start = {s.name: s.amount(steps[s.name]) for s in SLIDERS}
    result = break_even(
        float(start["tokens"] * start["price"] / 10**6),
        machine=float(start["machine"]),
        training=float(start["training"]),
        months=months,
    )
    parts = {
        "rows": "\n".join(
            _slider_row(slider, steps[slider.name]) for slider in SLIDERS
        ),
        "result": f"<p>From {result.articles:,} articles a month on, your own small "
        "model is the cheaper one.</p>",
        "months": str(months),
        "seconds": repr(float(seconds)),
    }
    path = data_file("calculator.html")
    page = path.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return HTML(page)


def _slider_row(slider: Slider, step: int) -> str:
    amount = slider.amount(step)
    text = f"{math.floor(amount):,}" if slider.parts == 1 else _dollars(float(amount))
    return (
        f'<label><span>{html.escape(slider.label)}</span> <span class="amount" '
        f'aria-hidden="true">{text}</span>'
        f'<input type="range" name="{slider.name}" step="1" '
        f'min="{0 if slider.zero else 1}" max="{slider.last}" value="{step}" '
        f'data-parts="{slider.parts}" data-power="{slider.power}" '
        f'aria-valuetext="{text}"></label>'
    )


def _dollars(amount: float) -> str:
    """Two digits behind the point, or three where the third is not zero."""
    text = f"{amount:,.3f}"
    return f"${text.removesuffix('0')}"


def answering_bytes(run: RunRecord) -> int | None:
    """Bytes of everything that a run's answers are computed from.

    The language model counts with two bytes a weight, or with those of NF4 where the
    run rounded it; beside it lies what was fitted. Weights that were all trained are
    kept in float32. The program around them (Python, torch, the states of a pass) is
    left out, for it depends on neither.

    Parameters
    ----------
    run : RunRecord

    Returns
    -------
    int or None
        None where the size of what was fitted is not on record, or the model is none
        of `architectures.PRESETS`, as one that a host runs.

    Examples
    --------
    >>> from chapterlib import records
    >>> sizes = {run.method: answering_bytes(run) for run in records.read()}
    >>> sizes["tfidf"] < sizes["qlora"] < sizes["lora"]
    True
    """
    trained = run.params.get("method")
    # Trained whole, the model itself is what was fitted.
    if run.size_bytes is None or run.model is None or trained == "full":
        return run.size_bytes
    known = [name for name in PRESETS if name in run.model]
    if not known:
        return None
    model = sizes.memory(
        max(known, key=len),
        labels=len(run.data.label_names) if trained else None,
        quantization="nf4" if trained == "qlora" else None,
    ).weights
    return model + run.size_bytes
