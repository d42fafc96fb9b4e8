from .audits import (
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
)
from .task import (
    AG_NEWS as AG_NEWS,
    Label as Label,
    Task as Task,
)
