"""Run a frozen model over texts of any length, and pool its hidden states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.models import batching, loading
from chapterlib.models.batching import Encoder, Floats, Row, computed_once
from chapterlib.models.devices import device_and_dtype
from chapterlib.tasks.task import AG_NEWS, check_template, check_texts

Pooling = Literal["mean", "last", "both"]

# Plain attention was faster on a CPU with rows of some 60 tokens; the fused kernel
# spares the memory of a square as long as the row, which counts with longer ones.
SHORT = 256
# On a CPU larger batches are slower: their states leave the caches between layers.
BATCH_TOKENS = {"cpu": 512}
# Inverse strengths of a probe's penalty to choose from.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


def pooled_states(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    network: PreTrainedModel,
    *,
    layers: list[int],
    template: str,
    max_length: int,
    batch_tokens: int,
) -> Iterator[list[Row]]:
    """Run the model over texts, and pool the states of some layers, in rising order.

    Yields batches of (text, kind, float32 [d]); the kind is "mean3" or "last3" for
    layer 3. The network is cut off above the highest layer: it is not whole afterwards.
    """
    depth = network.config.num_hidden_layers
    only_last = layers == [depth]
    stack = getattr(network, "layers", None)
    if layers[-1] < depth and isinstance(stack, torch.nn.ModuleList):
        network.layers = stack[: max(1, layers[-1])]  # what lies above is not needed
        network.norm = torch.nn.Identity()  # it belongs to the last layer alone
    encoder = Encoder(tokenizer, template, max_length)
    rows_ids = encoder(texts)
    start, end = len(encoder.before), len(encoder.after)
    pad = int(network.config.pad_token_id or 0)
    on_cpu = network.device.type == "cpu"
    for batch in batching.longest_first(rows_ids, batch_tokens, pad):
        if on_cpu and hasattr(network, "set_attn_implementation"):
            eager = batch.input_ids.shape[1] <= SHORT
            network.set_attn_implementation("eager" if eager else "sdpa")
        with torch.inference_mode():
            output = network(
                input_ids=batch.input_ids.to(network.device),
                attention_mask=batch.attention_mask.to(network.device),
                output_hidden_states=not only_last,
                use_cache=False,
            )
        last = batch.attention_mask.sum(1) - 1
        inside = batch.attention_mask.float()[..., None]
        inside[:, :start] = 0
        for line, stop in enumerate(last.tolist()):
            inside[line, stop + 1 - end :] = 0
        rows = []
        for number in layers:
            found = output[0] if only_last else output.hidden_states[number]
            state = found.float().cpu()
            means = (state * inside).sum(1) / inside.sum(1)
            ends = state[torch.arange(len(last)), last]
            for kind, vectors in (("mean", means), ("last", ends)):
                rows += [
                    (texts[row], f"{kind}{number}", vector)
                    for row, vector in zip(batch.rows, vectors.numpy(), strict=True)
                ]
        yield rows


def embed(
    texts: Iterable[str],
    *,
    model: str | Path | None = None,
    layer: int | Sequence[int] = -1,
    pooling: Pooling = "mean",
    template: str = AG_NEWS.template,
    max_length: int = 128,
    batch_tokens: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache: bool = True,
    progress: bool = True,
) -> Floats:
    """Turn each text into a vector: a pooled hidden state of a frozen model.

    Texts of like length share a batch, so that it needs next to no padding; layers
    above the highest one asked for are not run.

    Parameters
    ----------
    texts, model
        The model as for `models.load`.
    layer : int or sequence of int
        0 is the token embeddings, 1 the first layer's output, and the model's number
        of layers (or -1) its last one, after the final norm.
    pooling : {"mean", "last", "both"}
        The mean over the tokens of the text; or the state at the last token of the
        template, in a causal model the only one that has seen everything; or one after
        the other, a vector twice as long.
    template : str
        What the model reads, with ``{text}`` where the text goes. Words after it make
        the model sum it up in its last state; pooling "mean" skips them.
    max_length : int
        Tokens of a text that are read; the rest is cut off. The template is not.
    batch_tokens : int, optional
        Tokens in a batch, padding included.
    device, dtype : optional
        By default those of `pick_device` and `pick_dtype`.
    cache, progress : bool
        Keep the vectors under the setting ``CHAPTERLIB_CACHE``; show a progress bar.

    Returns
    -------
    ndarray of float32, shape [n, d] for one layer, [n, k, d] for k of them
        Half-precision types round: the same text in a batch of another shape may
        differ in the third digit. In float32 it agrees to 1e-4.
    """
    texts = check_texts(texts)
    check_template(template, max_length)
    if pooling not in ("mean", "last", "both"):
        raise ValueError(f"pooling is {pooling!r}: choose 'mean', 'last' or 'both'")
    source = loading.resolve(model)
    on_device, in_dtype = device_and_dtype(device, dtype)
    config = AutoConfig.from_pretrained(source.location, revision=source.revision)
    one = isinstance(layer, int)
    wanted = [layer] if isinstance(layer, int) else list(layer)
    layers = [_layer_number(number, config.num_hidden_layers) for number in wanted]
    poolings = ("mean", "last") if pooling == "both" else (pooling,)
    kinds = [[f"{name}{number}" for name in poolings] for number in layers]

    def compute(missing: list[str]) -> Iterator[list[Row]]:
        # No name holds the model, so that its weights are freed with the generator.
        return pooled_states(
            missing,
            *loading.load("features", model, device=on_device, dtype=in_dtype),
            layers=sorted(set(layers)),
            template=template,
            max_length=max_length,
            batch_tokens=batch_tokens or BATCH_TOKENS.get(on_device.type, 16_384),
        )

    key = (source.sha256, str(in_dtype), on_device.type, template, max_length)
    found = computed_once(
        texts,
        [kind for pair in kinds for kind in pair],
        compute,
        folder="embeddings",
        key=key if cache else None,
        title="Embedding",
        progress=progress,
    )
    vectors = [
        [np.concatenate([found[kind][text] for kind in pair]) for pair in kinds]
        for text in texts
    ]
    width = config.hidden_size * len(poolings)
    stacked = np.array(vectors, np.float32).reshape(len(texts), len(layers), width)
    return stacked[:, 0] if one else stacked


def _layer_number(layer: int, depth: int) -> int:
    number = int(layer) + depth + 1 if layer < 0 else int(layer)
    if not 0 <= number <= depth:
        raise ValueError(
            f"layer is {layer}, but the model has {depth}: choose 0 (token embeddings) "
            f"to {depth}, or -1 (the last) to {-depth - 1}"
        )
    return number


def fit_probe(
    vectors: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    *,
    strengths: Sequence[float],
    folds: int,
    scoring: str,
    seed: int,
    centered: bool = True,
) -> tuple[Pipeline, float]:
    """Fit a logistic regression on scaled vectors [n, d] to labels [n].

    Cross-validation takes the best inverse strength of its penalty; of equally good
    ones the smallest. Returns pipeline ("scale", "regress") and strength.
    """
    # Of scikit-learn's solvers the one that was fastest at these shapes.
    regression = LogisticRegression(
        solver="newton-cg", fit_intercept=centered, tol=1e-3, max_iter=200
    )
    scale = StandardScaler(with_mean=centered)
    pipeline = Pipeline([("scale", scale), ("regress", regression)])
    ordered = sorted(strengths)
    chosen = float(ordered[0])
    folds = min(folds, int(np.unique(labels, return_counts=True)[1].min()))
    if folds >= 2 and len(ordered) > 1:
        search = GridSearchCV(
            pipeline,
            {"regress__C": ordered},
            scoring=scoring,
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
            refit=False,
        ).fit(vectors, labels)
        chosen = float(search.best_params_["regress__C"])
    return pipeline.set_params(regress__C=chosen).fit(vectors, labels), chosen
