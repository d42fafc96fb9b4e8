"""Run a frozen model over texts of any length, and pool its hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.collate import Encoder, longest_first

Floats = npt.NDArray[np.float32]
Row = tuple[str, str, Floats]

# Plain attention was faster on a CPU with rows of some 60 tokens; the fused kernel
# spares the memory of a square as long as the row, which counts with longer ones.
SHORT = 256


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
    """Run the model over texts, the longest first, and pool the states of some layers.

    Parameters
    ----------
    texts : list of str
    tokenizer, network
        As `models.load` gives them for "features". The network is cut off above the
        highest of the layers: hand over one that is not needed whole any more.
    layers : list of int
        In rising order; 0 is the token embeddings.
    template : str
        With ``{text}`` where the text goes.
    max_length : int
        Tokens of a text that are read.
    batch_tokens : int
        Tokens in a batch, padding included; a longer text is a batch of its own.

    Yields
    ------
    list of (text, kind, vector)
        Of one batch: kind is "mean3" or "last3" for layer 3; vectors are float32 [d].
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
    for batch in longest_first(rows_ids, batch_tokens, pad):
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
