"""What answers cost: prices, a break-even with its calculator, bytes of weights."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, HttpUrl, NonNegativeFloat

from chapterlib.models import sizes
from chapterlib.reporting.records import RunRecord
from chapterlib.settings import data_file

HOURS_A_MONTH = 730  # a twelfth of the 8,760 of a year


@dataclass(frozen=True)
class BreakEven:
    """The monthly costs of a small model of one's own and of a large hosted one.

    From `articles` a month on the small model is cheaper (None: never). It costs
    `fixed` dollars a month, and `article` for each on top; the other `hosted` for each.
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
        if self.articles is None:
            return "the small model is never cheaper"
        return f"the small model is cheaper from {self.articles:,} articles per month"


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
    hosted, article, machine : float
        Dollars for an article at the large hosted model, and at the small one beyond
        what is paid anyway; and a month for a machine that is always on.
    training, months : float
        Dollars for labels and training, paid once, and the months over which they are
        spread: until the model has to be trained anew.

    Notes
    -----
    n articles cost machine + training / months + n article on the one side, n hosted
    on the other: the small model is cheaper where n > fixed / (hosted - article). One
    machine has to keep up with n: at s seconds each, it manages 2,628,000 / s a month.

    Examples
    --------
    >>> print(break_even(hosted=0.001, machine=365, training=120))
    the small model is cheaper from 375,001 articles per month
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


class Price(BaseModel):
    """A list price in dollars, NaN for what is not sold.

    For a million tokens of prompts (`input`) and replies (`output`), or an `hour` of a
    machine. `date` is when it held: ``dated`` as the source states, or when a copy was
    read. `quoted`: the source is not the provider's own page.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    provider: str
    input: NonNegativeFloat = math.nan
    output: NonNegativeFloat = math.nan
    hour: NonNegativeFloat = math.nan
    date: date
    dated: Literal["stated", "read"]
    quoted: bool = False
    source: HttpUrl

    @property
    def month(self) -> float:
        """Dollars for a machine that is never turned off."""
        return HOURS_A_MONTH * self.hour


def token_price(name: str) -> Price:
    """Look up the price of a hosted model; ValueError lists the names there are."""
    return _named("tokens", name)


def machine_price(name: str) -> Price:
    """Look up the price of a machine; ValueError as in `token_price`."""
    return _named("machines", name)


def price_table() -> pd.DataFrame:
    """All prices, one a row, with unit, date and source; NaN where one has no such."""
    units = {"tokens": "USD per million tokens", "machines": "USD per hour"}
    rows = [
        {**price.model_dump(mode="json"), "unit": units[kind]}
        for kind, prices in _read().items()
        for price in prices.values()
    ]
    columns = ["name", "provider", "unit", "input", "output", "hour"]
    return pd.DataFrame(rows)[[*columns, "date", "dated", "quoted", "source"]]


@lru_cache(maxsize=1)
def _read() -> dict[str, dict[str, Price]]:
    """Read the prices by kind ("tokens" or "machines") and name."""
    found = yaml.safe_load(data_file("prices.yaml").read_text(encoding="utf-8"))
    return {kind: {p["name"]: Price(**p) for p in some} for kind, some in found.items()}


def _named(kind: str, name: str) -> Price:
    known = _read()[kind]
    if name not in known:
        raise ValueError(
            f"There is no price of {name!r}: choose one of {', '.join(known)}, or "
            "hand over your own numbers."
        )
    return known[name]


def token_cost(
    prompt_tokens: float,
    completion_tokens: float,
    price: str | Price | tuple[float, float],
) -> float:
    """Turn tokens, as in `Usage`, into dollars.

    `price` is a name for `token_price`, a price, or dollars for a million tokens of
    prompts and of replies. ValueError for an unknown name, or a number below 0.

    Examples
    --------
    >>> round(token_cost(1_000, 100, (0.40, 1.60)), 6)
    0.00056
    """
    if isinstance(price, str):
        price = token_price(price)
    if isinstance(price, Price):
        price = price.input, price.output
    check_amounts(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    check_amounts(input_price=price[0], output_price=price[1])
    return (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6


def machine_cost(seconds: float, machine: str | Price | float) -> float:
    """Turn seconds on a machine into dollars.

    `machine` is a name for `machine_price`, a price, or dollars an hour. ValueError as
    in `token_cost`.

    Examples
    --------
    >>> machine_cost(1800, 0.50)
    0.25
    """
    if isinstance(machine, str):
        machine = machine_price(machine)
    hour = machine.hour if isinstance(machine, Price) else machine
    check_amounts(seconds=seconds, machine=hour)
    return seconds / 3600 * hour


class Slider(NamedTuple):
    """A quantity to be chosen in steps of two digits: 10, 11 … 99, 100, 110 and so on.

    The smallest amount is 10 ** (power + 1) of its `parts` (1,000 for a price in
    thousandths of a dollar), and so many `decades` follow, or none at all with `zero`.
    """

    name: str
    label: str
    parts: int
    power: int
    decades: int
    zero: bool = False

    @property
    def last(self) -> int:
        """The last step, of 90 in each decade."""
        return 90 * self.decades

    def amount(self, step: int) -> Fraction:
        """Say how much a step, of 0 or 1 to `last`, stands for."""
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
    Slider("articles", "Articles per month", 1, 1, 6),
    Slider("tokens", "Tokens per article", 1, 0, 3),
    Slider("price", "Price of a million tokens", 1000, 0, 4),
    Slider("machine", "Price of a machine per month", 10, 0, 4, zero=True),
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
) -> Any:
    """Show sliders for the costs of both models, and from where on yours is cheaper.

    Parameters
    ----------
    articles, tokens : float
        Articles a month at first, and tokens that the hosted model reads and writes
        for one. ValueError names an amount that is out of its slider's reach.
    price, machine : float, optional
        Dollars for a million tokens, by default of "llama-3.3-70b" for prompts; and a
        month, by default of "2 CPU cores", always on.
    training, months : float
        Dollars for labels and training, and months over which they are spread.
    seconds : float
        That your model takes for an article: from how many on one machine is too
        slow. 0 leaves the hint out.

    Returns
    -------
    IPython.display.HTML
        Works offline, with the very numbers of `break_even`.
    """
    from IPython.display import HTML

    price = token_price("llama-3.3-70b").input if price is None else price
    machine = machine_price("2 CPU cores").month if machine is None else machine
    if months < 1 or months != int(months):
        raise ValueError(f"months={months}: give a whole number of at least 1.")
    check_amounts(seconds=seconds)
    chosen = (articles, tokens, price, machine, training)  # as in SLIDERS
    steps = [s.step(amount) for s, amount in zip(SLIDERS, chosen, strict=True)]
    _, t, p, m, once = (s.amount(i) for s, i in zip(SLIDERS, steps, strict=True))
    result = break_even(
        float(t * p / 10**6), machine=float(m), training=float(once), months=months
    )
    page = data_file("calculator.html").read_text(encoding="utf-8")
    for name, text in {
        "rows": "\n".join(map(_slider_row, SLIDERS, steps)),
        "result": f"<p>From {result.articles:,} articles per month on, your own small "
        "model is the cheaper one.</p>",
        "months": str(months),
        "seconds": repr(float(seconds)),
    }.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return HTML(page)


def _slider_row(slider: Slider, step: int) -> str:
    amount = float(slider.amount(step))
    text = f"{amount:,.0f}"
    if slider.parts > 1:  # dollars: a third digit behind the point if it is not zero
        text = "$" + f"{amount:,.3f}".removesuffix("0")
    return (
        f'<label><span>{html.escape(slider.label)}</span> <span class="amount" '
        f'aria-hidden="true">{text}</span>'
        f'<input type="range" name="{slider.name}" step="1" '
        f'min="{0 if slider.zero else 1}" max="{slider.last}" value="{step}" '
        f'data-parts="{slider.parts}" data-power="{slider.power}" '
        f'aria-valuetext="{text}"></label>'
    )


def answering_bytes(run: RunRecord) -> int | None:
    """Bytes of all weights that a run's answers are computed from, None if unknown.

    The language model's count two bytes each, or those of NF4 where the run rounded it,
    beside what was fitted; weights that were all trained are kept in float32.
    """
    trained = run.params.get("method")
    # Trained whole, the model itself is what was fitted.
    if run.size_bytes is None or run.model is None or trained == "full":
        return run.size_bytes
    known = [name for name in sizes.PRESETS if name in run.model]
    if not known:
        return None
    model = sizes.memory(
        max(known, key=len),
        labels=len(run.data.label_names) if trained else None,
        quantization="nf4" if trained == "qlora" else None,
    ).weights
    return model + run.size_bytes
