"""Compute frozen lower layers once: their hidden states, kept on disk.

Where only upper layers are trained, what the lower ones make of a row never changes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from chapterlib._store import VectorStore

KIND = "states"


class FrozenPrefix(nn.Module):
    """Hidden states below the first trained layer, looked up by a row's tokens.

    It takes the place of the embeddings until `remove`; the lower layers pass on what
    they get. The model stays an ordinary classifier with the same logits. The file must
    belong to these very weights and dtype; `only_last` keeps the last token's state.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        layers: int,
        path: str | Path,
        *,
        only_last: bool = False,
    ) -> None:
        super().__init__()
        base: Any = network.base_model
        parts = ("embed_tokens", "layers", "norm")
        if not all(hasattr(base, part) for part in parts):
            raise ValueError(
                f"{type(base).__name__} has no {', '.join(parts)}: set "
                "cache_prefix=False to train it without the cache"
            )
        if not 1 <= layers <= len(base.layers):
            raise ValueError(
                f"{layers} frozen layers: the model has {len(base.layers)}, and at "
                "least 1 must be frozen"
            )
        self.store, self.only_last = VectorStore(path), only_last
        self.pad = int(network.config.pad_token_id)
        self.width = int(network.config.hidden_size)
        lower = copy.copy(base)
        lower._modules = dict(base._modules)
        lower.layers, lower.norm = base.layers[:layers], nn.Identity()
        lower.config = copy.copy(base.config)
        lower.config.num_hidden_layers = layers
        # In a tuple they are no submodules: neither trained nor saved with the rest.
        self._hidden = (base, lower)
        self.computed = 0
        for number in range(layers):
            base.layers[number] = _PassOn()
        base.embed_tokens = self

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [rows, tokens, width] of ids that are padded on the right."""
        lower = self._hidden[1]
        counts = (input_ids != self.pad).int().cpu()
        lengths = (counts * torch.arange(1, input_ids.shape[1] + 1)).amax(1).tolist()
        rows = input_ids.cpu().tolist()
        keys = [
            " ".join(map(str, row[:n])) for row, n in zip(rows, lengths, strict=True)
        ]
        found = self.store.get(keys, KIND)
        dtype = lower.embed_tokens.weight.dtype
        out = torch.zeros(*input_ids.shape, self.width, dtype=dtype)
        missing = [i for i, key in enumerate(keys) if key not in found]
        if missing:
            fresh = self._compute(input_ids[missing], [lengths[i] for i in missing])
            new = {keys[i]: pack(s) for i, s in zip(missing, fresh, strict=True)}
            self.store.put((key, KIND, states) for key, states in new.items())
            found |= new
            self.computed += len(missing)
        for i, key in enumerate(keys):
            states = unpack(found[key], self.width, dtype)
            out[i, lengths[i] - len(states) : lengths[i]] = states
        return out.to(input_ids.device)

    def _compute(self, ids: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        with torch.no_grad():
            states = self._hidden[1](
                input_ids=ids, attention_mask=mask, use_cache=False
            ).last_hidden_state
        states = states.to(self._hidden[1].embed_tokens.weight.dtype).cpu()
        return [
            states[row, length - 1 if self.only_last else 0 : length].contiguous()
            for row, length in enumerate(lengths)
        ]

    def remove(self) -> None:
        """Put the embeddings and the lower layers back where they were."""
        base, lower = self._hidden
        base.embed_tokens = lower.embed_tokens
        for number, layer in enumerate(lower.layers):
            base.layers[number] = layer


class _PassOn(nn.Module):
    """A layer that does nothing, in the place of one whose work is done."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
        return hidden_states


def pack(states: torch.Tensor) -> np.ndarray:
    """Bits of a tensor as float32 numbers, the one type that the store holds."""
    return states.reshape(-1).view(torch.float32).numpy()


def unpack(values: np.ndarray, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Undo `pack`, to the bit: shape [rows, width]."""
    return torch.tensor(values).view(dtype).reshape(-1, width)
