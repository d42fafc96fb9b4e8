"""How a method, a class or a number looks in every figure: color, marker, name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex, to_rgb

__all__ = [
    "CLASS_STYLES",
    "METHOD_STYLES",
    "OKABE_ITO",
    "Look",
    "class_style",
    "ink",
    "method_style",
]

# Apart for every common kind of color vision: M. Okabe, K. Ito (2008), "Color
# Universal Design", https://jfly.uni-koeln.de/color/. The gray is darker than theirs,
# and the yellow is left out: on white it can't be read.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "gray": "#767676",
}


class Look(NamedTuple):
    """Color, marker, and name for readers; each tells two lines apart alone."""

    color: str
    marker: str
    label: str = ""


def _look(color: str, marker: str, label: str = "") -> Look:
    return Look(OKABE_ITO[color], marker, label)


# A method keeps its look in every figure of the book. A longer slug, such as
# "probe-llama", has that of the longest name here which it begins with.
METHOD_STYLES = {
    "majority": _look("gray", "X", "Majority class"),
    "tfidf": _look("black", "s", "TF-IDF"),
    "zero-shot": _look("sky", "v", "Zero-shot"),
    "zero-shot-words": _look("sky", "<", "Zero-shot, two words"),
    "few-shot": _look("sky", "^", "Few-shot"),
    "few-shot-calibrated": _look("sky", "s", "Few-shot, calibrated"),
    "few-shot-nearest": _look("sky", "D", "Few-shot, nearest"),
    "few-shot-vote": _look("sky", "h", "Neighbors and scores"),
    "neighbors": _look("gray", "d", "Neighbors"),
    "prompt": _look("purple", "<", "Prompt"),
    "hosted": _look("purple", ">", "Hosted model"),
    "probe": _look("blue", "o", "Probe"),
    "lora": _look("green", "D", "LoRA"),
    "qlora": _look("orange", "P", "QLoRA"),
    "full": _look("vermilion", "*", "Full finetuning"),
    "lp-ft": _look("vermilion", "p", "LP-FT"),
}

CLASS_STYLES = (
    _look("blue", "o"),
    _look("vermilion", "s"),
    _look("green", "^"),
    _look("purple", "D"),
    _look("black", "v"),
    _look("orange", "P"),
    _look("sky", "X"),
    _look("gray", "*"),
)


def method_style(method: str) -> Look:
    """Look of a method; one that is not known is gray, under its own name.

    Parameters
    ----------
    method : str
        Slug, as in `RunRecord.method`.
    """
    known = [
        name
        for name in METHOD_STYLES
        if method == name or method.startswith(f"{name}-")
    ]
    if known:
        return METHOD_STYLES[max(known, key=len)]
    return Look(OKABE_ITO["gray"], "d", method)


def class_style(i: int) -> Look:
    """Look of the class (or other series) number `i`; they repeat after eight."""
    return CLASS_STYLES[i % len(CLASS_STYLES)]


def ink(color: str) -> str:
    """Darken a color until text in it can be read on white.

    Notes
    -----
    Until their contrast is 4.5 to 1, the least that WCAG 2.2 (criterion 1.4.3) asks
    for; its formula of relative luminance is used.
    """
    rgb = np.array(to_rgb(color))
    while True:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        if 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5:
            return to_hex(tuple(rgb))
        rgb = 0.95 * rgb
