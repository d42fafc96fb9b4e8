"""Logits of many rows, and a head that starts from a probe on the frozen states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

# Inverse strengths of the penalty to choose from.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


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
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]), reverse=True)
    found = np.zeros((len(ids), int(network.config.num_labels)), np.float32)
    with tqdm(total=len(ids), desc="Rows", disable=None if progress else True) as bar:
        while order:
            longest = len(ids[order[0]])
            size = max(1, batch_tokens // longest)
            batch, order = order[:size], order[size:]
            padded = torch.full((len(batch), longest), pad)
            mask = torch.zeros_like(padded)
            for line, row in enumerate(batch):
                padded[line, : len(ids[row])] = torch.tensor(ids[row])
                mask[line, : len(ids[row])] = 1
            with torch.inference_mode():
                logits = network(
                    input_ids=padded.to(network.device),
                    attention_mask=mask.to(network.device),
                ).logits
            if found.shape[1] != logits.shape[1]:  # the states below a head
                found = np.zeros((len(ids), logits.shape[1]), np.float32)
            found[batch] = logits.float().cpu().numpy()
            bar.update(len(batch))
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
    truth = np.asarray(labels)
    # No mean is taken off and no intercept added: the head has none to take them up.
    pipeline = Pipeline(
        [
            ("scale", StandardScaler(with_mean=False)),
            (
                "regress",
                LogisticRegression(
                    solver="newton-cg", fit_intercept=False, tol=1e-3, max_iter=200
                ),
            ),
        ]
    )
    smallest = int(np.bincount(truth).min())
    chosen = STRENGTHS[0]
    if min(folds, smallest) >= 2:
        split = StratifiedKFold(min(folds, smallest), shuffle=True, random_state=seed)
        search = GridSearchCV(
            pipeline,
            {"regress__C": STRENGTHS},
            scoring="neg_log_loss",
            cv=split,
            refit=False,
        ).fit(states, truth)
        chosen = float(search.best_params_["regress__C"])
    pipeline.set_params(regress__C=chosen).fit(states, truth)
    solved = pipeline["regress"].coef_ / pipeline["scale"].scale_
    if len(solved) == 1:  # two classes: one row of weights, and its negative
        solved = np.concatenate([-solved / 2, solved / 2])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(solved))
    return chosen
