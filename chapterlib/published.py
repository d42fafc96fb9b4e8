"""What others published on AG News, to be read beside the book's own records."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

__all__ = ["published"]


def published() -> pd.DataFrame:
    """List published accuracies on the 7,600 test rows of AG News, one a row.

    Returns
    -------
    DataFrame
        `source`, `method`, `labels` (labeled train rows), `accuracy` and `sd` (shares;
        `sd` over draws of these rows, NaN where the source gives none), `url`.

    Notes
    -----
    The test rows, the models and the choice of parameters are others than those of
    the records, so no difference to these can be tested. Sources: the results
    archived with SetFit (L. Tunstall et al. 2022, https://arxiv.org/abs/2209.11055),
    and table 2 of X. Sun et al. (2023), https://arxiv.org/abs/2305.08377.

    Examples
    --------
    >>> found = published()
    >>> float(found.loc[found["labels"] == 0, "accuracy"].max())
    0.926
    """
    path = Path(__file__).parent / "data_files" / "published.yaml"
    rows = [
        {
            "source": source["source"],
            "method": series["method"],
            "labels": point["labels"],
            "accuracy": round(point["accuracy"] / 100, 4),
            "sd": round(point.get("sd", float("nan")) / 100, 4),
            "url": source["url"],
        }
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))
        for series in source["series"]
        for point in series["points"]
    ]
    return pd.DataFrame(rows)
