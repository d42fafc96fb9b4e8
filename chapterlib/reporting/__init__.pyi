from .machine import (
    hardware as hardware,
    measure as measure,
)
from .methods import (
    METHODS as METHODS,
    Method as Method,
    tfidf_classifier as tfidf_classifier,
)
from .records import (
    DataUsed as DataUsed,
    RecordError as RecordError,
    RunRecord as RunRecord,
    decode_predictions as decode_predictions,
    encode_predictions as encode_predictions,
    read as read,
    results_folder as results_folder,
    true_labels as true_labels,
    write as write,
)
from .tables import (
    decision_table as decision_table,
    duration as duration,
    published as published,
    shown as shown,
    table as table,
)
