from .adapters import (
    load_base as load_base,
    make_trainable as make_trainable,
)
from .prefix import (
    FrozenPrefix as FrozenPrefix,
)
from .presets import (
    CONFIGS as CONFIGS,
    PRESETS as PRESETS,
    preset as preset,
)
from .saving import (
    SavedModelError as SavedModelError,
)
from .trainer import (
    EpochOrder as EpochOrder,
    Rows as Rows,
    TrainingError as TrainingError,
)
