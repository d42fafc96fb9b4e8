"""Run a frozen model over texts of any length, and pool its hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.collate import Encoder

Floats = npt.NDArray[np.float32]
Row = tuple[str, str, Floats]

# Up to this many tokens plain attention is faster on a CPU than the fused kernel, which
# pays where the square of the length counts.
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
    order = sorted(range(len(texts)), key=lambda row: len(rows_ids[row]), reverse=True)
    on_cpu = network.device.type == "cpu"
    while order:
        # The longest first: if memory is short, it shows at once.
        longest = len(rows_ids[order[0]])
        if on_cpu and hasattr(network, "set_attn_implementation"):
            eager = longest <= SHORT
            network.set_attn_implementation("eager" if eager else "sdpa")
        size = max(1, batch_tokens // max(1, longest))
        batch, order = order[:size], order[size:]
        ids = torch.full((len(batch), longest), int(network.config.pad_token_id or 0))
        attended = torch.zeros((len(batch), longest), dtype=torch.long)
        inside = torch.zeros((len(batch), longest, 1))
        for line, row in enumerate(batch):
            whole = rows_ids[row]
            ids[line, : len(whole)] = torch.tensor(whole)
            attended[line, : len(whole)] = 1
            inside[line, start : len(whole) - end] = 1
        last = attended.sum(1) - 1
        with torch.inference_mode():
            output = network(
                input_ids=ids.to(network.device),
                attention_mask=attended.to(network.device),
                output_hidden_states=not only_last,
                use_cache=False,
            )
        rows = []
        for number in layers:
            found = output[0] if only_last else output.hidden_states[number]
            state = found.float().cpu()
            means = (state * inside).sum(1) / inside.sum(1)
            ends = state[torch.arange(len(batch)), last]
            for kind, vectors in (("mean", means), ("last", ends)):
                rows += [
                    (texts[row], f"{kind}{number}", vector)
                    for row, vector in zip(batch, vectors.numpy(), strict=True)
                ]
        yield rows
