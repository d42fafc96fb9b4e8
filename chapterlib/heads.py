"""Logits of many rows, and a head that starts from a probe on the frozen states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from chapterlib.collate import longest_first
from chapterlib.features import STRENGTHS, fit_probe


def logits_of(
    network: Any,
    ids: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 2048,
    progress: bool = False,
) -> npt.NDArray[np.float32]:
    """Run a classifier over encoded rows, the longest first, without gradients.

    Parameters
    ----------
    network : PreTrainedModel or PeftModel
        In evaluation mode afterwards.
    ids : sequence of lists of int, length n
    batch_tokens : int
        Tokens in a batch, padding included; a longer row is a batch of its own.
    progress : bool

    Returns
    -------
    ndarray of float32 [n, outputs of the head]
    """
    network.eval()
    pad: Any = network.config.pad_token_id
    found = np.zeros((len(ids), int(network.config.num_labels)), np.float32)
    with tqdm(total=len(ids), desc="Rows", disable=None if progress else True) as bar:
        for batch in longest_first(ids, batch_tokens, pad):
            with torch.inference_mode():
                logits = network(
                    input_ids=batch.input_ids.to(network.device),
                    attention_mask=batch.attention_mask.to(network.device),
                ).logits
            if found.shape[1] != logits.shape[1]:  # the states below a head
                found = np.zeros((len(ids), logits.shape[1]), np.float32)
            found[batch.rows] = logits.float().cpu().numpy()
            bar.update(len(batch.rows))
    return found


def probe_head(
    network: PreTrainedModel,
    ids: Sequence[Sequence[int]],
    labels: Sequence[int],
    *,
    folds: int = 5,
    seed: int = 0,
) -> float:
    """Set the head to a logistic regression on the states that it will read.

    Training starts from a sensible head, and its first steps do not pull the layers
    below about for the sake of a random one. The penalty is the one whose *held-out*
    log-likelihood is best: a regression with as many features as this would fit its
    own rows perfectly and leave nothing to learn from them.

    Parameters
    ----------
    network : PreTrainedModel
        Its ``score`` is changed in place: linear, without an intercept.
    ids : sequence of lists of int, length n
    labels : sequence of int, length n
        0 to (number of labels - 1).
    folds : int
        Of the cross-validation, at most; fewer where a class has fewer rows.
    seed : int
        Of the split into folds.

    Returns
    -------
    float
        The inverse strength of the penalty that was chosen.

    References
    ----------
    Kumar, Raghunathan, Jones, Ma and Liang, "Fine-Tuning can Distort Pretrained
    Features and Underperform Out-of-Distribution", ICLR 2022, arXiv:2202.10054
    (LP-FT: a linear probe, then finetuning).
    """
    head: Any = network.score
    # Without a head, what it would read comes out.
    network.score = nn.Identity()
    try:
        states = logits_of(network, ids).astype(np.float64)
    finally:
        network.score = head
    # No mean is taken off and no intercept added: the head has none to take them up.
    pipeline, chosen = fit_probe(
        states,
        np.asarray(labels),
        strengths=STRENGTHS,
        folds=folds,
        scoring="neg_log_loss",
        seed=seed,
        centered=False,
    )
    solved = pipeline["regress"].coef_ / pipeline["scale"].scale_
    if len(solved) == 1:  # two classes: one row of weights, and its negative
        solved = np.concatenate([-solved / 2, solved / 2])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(solved))
    return chosen
