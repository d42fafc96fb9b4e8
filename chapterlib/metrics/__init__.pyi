from .calibration import (
    Reliability as Reliability,
    abstention_curve as abstention_curve,
    reliability as reliability,
    top_label as top_label,
)
from .evaluation import (
    ACCURACY as ACCURACY,
    NO_ANSWER as NO_ANSWER,
    Evaluation as Evaluation,
    Interval as Interval,
    evaluate as evaluate,
    load_accuracy as load_accuracy,
    wilson as wilson,
)
from .significance import (
    McNemar as McNemar,
    holm as holm,
    mcnemar as mcnemar,
    pairwise_differences as pairwise_differences,
    rows_needed as rows_needed,
    shared_errors as shared_errors,
    verdicts as verdicts,
)
