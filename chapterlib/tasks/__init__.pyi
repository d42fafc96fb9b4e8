from .audits import (
    Audit as Audit,
    audit as audit,
)
from .loading import (
    DataError as DataError,
    ag_news_source as ag_news_source,
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
