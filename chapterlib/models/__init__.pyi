from .batching import (
    Encoder as Encoder,
)
from .devices import (
    pick_device as pick_device,
    pick_dtype as pick_dtype,
)
from .embedded import (
    EmbeddedModelError as EmbeddedModelError,
)
from .hidden_states import (
    embed as embed,
)
from .loading import (
    LoadedModel as LoadedModel,
    ModelError as ModelError,
    ModelSource as ModelSource,
    load as load,
    quiet as quiet,
    resolve as resolve,
)
from .quantization import (
    QuantizationError as QuantizationError,
    keep_layout as keep_layout,
    quantization_config as quantization_config,
    weight_bytes as weight_bytes,
)
from .sizes import (
    PRESETS as PRESETS,
    bits_per_weight as bits_per_weight,
    lora_parameters as lora_parameters,
    memory as memory,
    parameters as parameters,
    unpacked as unpacked,
)
