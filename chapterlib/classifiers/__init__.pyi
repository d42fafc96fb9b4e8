from .finetuned import (
    FinetunedClassifier as FinetunedClassifier,
)
from .neighbors import (
    FewShotScorer as FewShotScorer,
    NeighborVote as NeighborVote,
)
from .probe import (
    ProbeClassifier as ProbeClassifier,
)
from .prompt import (
    FewShotPrompt as FewShotPrompt,
    PromptClassifier as PromptClassifier,
)
from .scoring import (
    LabelScorer as LabelScorer,
)
