"""The four labels as prompts spell them, and the spellings that replies use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from chapterlib.rows import LABEL_NAMES

__all__ = ["LABELS", "LABEL_TO_ID", "label_to_id", "normalized"]

# As the prompts spell them: "Sci/Tech" is the data set's jargon.
LABELS = (*LABEL_NAMES[:3], "Science/Technology")
LABEL_TO_ID: Mapping[str, int] = MappingProxyType(
    {name.lower(): i for i, name in enumerate(LABEL_NAMES[:3])}
    | {"sport": 1}
    | {f"{a} {b}": 3 for a in ("sci", "science") for b in ("tech", "technology")}
    | {"scitech": 3}
)
"""Class id of each normalized spelling of a label (see `label_to_id`)."""


def label_to_id(text: str) -> int | None:
    """Return the class id that a label stands for.

    Parameters
    ----------
    text : str
        Case, white space, punctuation around it and the way that "Sci/Tech" is joined
        do not matter.

    Returns
    -------
    int or None
        None if it is none of the four.

    Examples
    --------
    >>> [label_to_id(t) for t in ("sci/tech", "**Science & Technology**", "Weather")]
    [3, 3, None]
    """
    # No label is that long, with whatever stands around it.
    return LABEL_TO_ID.get(normalized(text)) if len(text) <= 60 else None


def normalized(text: str) -> str:
    """Return the lower-case words of a label, joined by spaces, without "and"."""
    words = re.findall(r"[^\W_]+", text.lower().replace("&", " and "))
    return " ".join(word for word in words if word != "and")
