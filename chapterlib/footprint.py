"""How many bytes of weights a measured method needs at hand to answer."""

from __future__ import annotations

from chapterlib import costs
from chapterlib.architectures import PRESETS
from chapterlib.runrecord import RunRecord

__all__ = ["answering_bytes"]


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
    model = costs.memory(
        max(known, key=len),
        labels=len(run.data.label_names) if trained else None,
        quantization="nf4" if trained == "qlora" else None,
    ).weights
    return model + run.size_bytes
