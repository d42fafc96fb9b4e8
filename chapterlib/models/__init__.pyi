from .batching import (
    Encoder as Encoder,
    longest_first as longest_first,
)
from .devices import (
    bf16_speedup as bf16_speedup,
    pick_device as pick_device,
    pick_dtype as pick_dtype,
)
from .embedded import (
    EmbeddedModelError as EmbeddedModelError,
)
from .hidden_states import (
    TEMPLATE as TEMPLATE,
    embed as embed,
)
from .likelihood import (
    log_likelihoods as log_likelihoods,
    word_scores as word_scores,
    word_tokens as word_tokens,
)
from .loading import (
    LoadedModel as LoadedModel,
    ModelError as ModelError,
    ModelSource as ModelSource,
    load as load,
    quiet as quiet,
    resolve as resolve,
    set_pad_token as set_pad_token,
)
from .quantization import (
    QuantizationError as QuantizationError,
    quantization_config as quantization_config,
    weight_bytes as weight_bytes,
)
from .sizes import (
    LINEAR_LAYERS as LINEAR_LAYERS,
    PRESETS as PRESETS,
    Architecture as Architecture,
    Memory as Memory,
    architecture as architecture,
    bits_per_weight as bits_per_weight,
    lora_parameters as lora_parameters,
    memory as memory,
    parameters as parameters,
    unpacked as unpacked,
)
