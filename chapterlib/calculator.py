"""A break-even calculator for a page: sliders that need neither kernel nor network."""

from __future__ import annotations

import html
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from chapterlib.breakeven import check_amounts
from chapterlib.prices import break_even, machine_price, token_price

if TYPE_CHECKING:
    from IPython.display import HTML

__all__ = ["SLIDERS", "Slider", "break_even_calculator"]


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
        "rows": "\n".join(_row(slider, steps[slider.name]) for slider in SLIDERS),
        "result": f"<p>From {result.articles:,} articles a month on, your own small "
        "model is the cheaper one.</p>",
        "months": str(months),
        "seconds": repr(float(seconds)),
    }
    path = Path(__file__).parent / "data_files" / "calculator.html"
    page = path.read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return HTML(page)


def _row(slider: Slider, step: int) -> str:
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
