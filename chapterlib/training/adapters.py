"""What training changes in a network: adapters, heads, whole layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from chapterlib._logging import quiet
from chapterlib.models import loading
from chapterlib.models.batching import longest_first
from chapterlib.models.hidden_states import STRENGTHS, fit_probe
from chapterlib.models.sizes import METHODS as METHODS

# Of a batch in prediction, padding included.
BATCH_TOKENS = 2048
# Parameters of a `FinetunedClassifier` by name; the template filled from the task.
Options = Mapping[str, Any]


def load_base(
    options: Options, labels: Sequence[str], device: torch.device, dtype: torch.dtype
) -> loading.LoadedModel:
    """Load tokenizer and sequence classifier, frozen except for its new head.

    Of the options it reads method, model and seed; `labels` are names in the order of
    the ids, `dtype` is what the layers compute in.
    """
    method = options["method"]
    # The steps of an optimizer are too small for half-precision types.
    kept = torch.float32 if method == "full" else dtype
    tokenizer, network = loading.load(
        "classify",
        options["model"],
        labels=tuple(labels),
        device=device,
        dtype=kept,
        seed=options["seed"],
        quantization="nf4" if method == "qlora" else None,
    )
    tokenizer.padding_side = "right"  # positions then start at the text
    network.config.use_cache = False
    network.requires_grad_(False)
    widen_head(network)
    network.score.requires_grad_(True)
    return loading.LoadedModel(tokenizer, network)


class _WideLinear(nn.Linear):
    """A linear layer that computes in the type of its weights, under autocast too."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


def widen_head(network: PreTrainedModel) -> None:
    """Compute the logits in float32, whatever the layers below work in."""
    head: Any = network.score.float()
    sizes = head.in_features, head.out_features, head.bias is not None
    wide = _WideLinear(*sizes, device="meta")  # draws no random numbers
    wide.weight, wide.bias = head.weight, head.bias
    network.score = wide


def make_trainable(
    options: Options, network: PreTrainedModel
) -> PreTrainedModel | PeftModel:
    """Set up what the method trains, in a network of `load_base`.

    Raises ValueError if no layer has a target module of that name, or there are not so
    many layers.
    """
    method = options["method"]
    depth = int(network.config.num_hidden_layers)
    first = layer_number(options["first_layer"], depth)
    if method == "head":
        return network
    if method == "full":
        base: Any = network.base_model
        parts = [*base.layers[first:], base.norm]
        for part in parts if first else [*parts, base.embed_tokens]:
            part.requires_grad_(True)
        return network
    check_targets(network, options["target_modules"])
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=options["r"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=list(options["target_modules"]),
        layers_to_transform=list(range(first, depth)) if first else None,
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(options["seed"])
        # Adapters come out in float32 even where the layers are in bf16.
        return get_peft_model(network, config)


def layer_number(first_layer: float, depth: int) -> int:
    """Return which layer is meant: an int is its number, a float a share of them."""
    share = isinstance(first_layer, float)
    if not 0 <= first_layer < (1 if share else depth):
        raise ValueError(
            f"first_layer is {first_layer!r}, but the model's layers are 0 to "
            f"{depth - 1}: choose one of them, or a share of them, say 0.5"
        )
    return int(first_layer * depth) if share else int(first_layer)


def check_targets(network: nn.Module, names: Sequence[str]) -> None:
    """Raise ValueError unless every name is that of a linear layer of the network."""
    linear = {
        name.rpartition(".")[2]
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name != "score"
    }
    if isinstance(names, str) or not names:
        raise ValueError(
            f"target_modules is {names!r}: give a list of names, of {sorted(linear)}"
        )
    if strange := sorted(set(names) - linear):
        raise ValueError(
            f"target_modules names {', '.join(strange)}, which this model does not "
            f"have: its linear layers are {', '.join(sorted(linear))}"
        )


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that training changes, by name."""
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def gathered(network: nn.Module) -> dict[str, torch.Tensor]:
    """Trained weights by name, whole even where their shards lie in other processes.

    Every process of a sharded training has to call it; names are as before sharding.
    """
    found = {}
    for name, parameter in trainable(network).items():
        # Only where torch.distributed is built in does a parameter have shards.
        whole = getattr(parameter, "full_tensor", lambda p=parameter: p)()
        found[name.replace("_checkpoint_wrapped_module.", "")] = whole.detach()
    return found


def plain(network: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the sequence classifier itself, without the wrapper of its adapters."""
    found: Any = network.base_model.model if isinstance(network, PeftModel) else network
    return found  # type: ignore[no-any-return]


def logits_of(
    network: Any, ids: Sequence[Sequence[int]], *, progress: bool = False
) -> npt.NDArray[np.float32]:
    """Run a classifier over n encoded rows, the longest first, without gradients.

    Returns float32 [n, outputs of the head].
    """
    network.eval()
    pad: Any = network.config.pad_token_id
    found = np.zeros((len(ids), int(network.config.num_labels)), np.float32)
    with tqdm(total=len(ids), desc="Rows", disable=None if progress else True) as bar:
        for batch in longest_first(ids, BATCH_TOKENS, pad):
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
    labels: npt.ArrayLike,
    seed: int = 0,
) -> float:
    """Set the head to a logistic regression on the states that it will read [n, width].

    Training then need not mend a random head first (LP-FT: Kumar et al., ICLR 2022,
    arXiv:2202.10054). Returns the inverse strength of the penalty.
    """
    head: Any = network.score
    # Without a head, what it would read comes out.
    network.score = nn.Identity()
    try:
        states = logits_of(network, ids).astype(np.float64)
    finally:
        network.score = head
    # A regression with as many features as this would fit its own rows perfectly and
    # leave nothing to learn from them: hence a penalty that held-out rows choose. No
    # mean is taken off and no intercept added: the head has none to take them up.
    pipeline, chosen = fit_probe(
        states,
        np.asarray(labels),
        strengths=STRENGTHS,
        folds=5,
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
