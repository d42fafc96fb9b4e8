from .audit import (
    Audit as Audit,
    audit as audit,
)
from .loading import (
    DataError as DataError,
)
from .sampling import (
    DataInfo as DataInfo,
    balanced_sample as balanced_sample,
    book_rows as book_rows,
    describe as describe,
    fingerprint as fingerprint,
    load_ag_news as load_ag_news,
)
from .task import (
    AG_NEWS as AG_NEWS,
    LABEL_NAMES as LABEL_NAMES,
    LABELS as LABELS,
    Label as Label,
    Task as Task,
    label_to_id as label_to_id,
)
