from .budget import (
    BudgetExceeded as BudgetExceeded,
    Usage as Usage,
)
from .cache import (
    ReplyCache as ReplyCache,
)
from .chat_models import (
    chat_model as chat_model,
    choose_provider as choose_provider,
    debug_llm as debug_llm,
)
from .errors import (
    LLMError as LLMError,
)
from .examples import (
    HiddenStateEmbeddings as HiddenStateEmbeddings,
    NearestExamples as NearestExamples,
)
from .prompts import (
    Demonstration as Demonstration,
    Negative as Negative,
    carp as carp,
    few_shot as few_shot,
    number_articles as number_articles,
    zero_shot as zero_shot,
)
