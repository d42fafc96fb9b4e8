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
    TrainingError as TrainingError,
)
