"""Run the notebooks under pytest as the book does, and keep their runs for it.

``pytest --nbmake notebooks/`` executes every notebook; what passed is stored where
``jupyter-book build book/`` looks for it, so that no notebook runs twice. Unit tests
are not touched.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

# book/notebooks is a symlink: without this every notebook would be found twice
collect_ignore = ["book"]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share whole suites between two processes; notebooks and single files run in one.

    More would wait for each other: the models compute in one thread each.
    """
    notebooks = config.getoption("nbmake", default=False)
    files = all(Path(arg.split("::")[0]).is_file() for arg in config.args)
    return 0 if notebooks or files or (os.cpu_count() or 1) < 2 else 2


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("nbmake", default=False):
        _share_runs(config)


def _share_runs(config: pytest.Config) -> None:
    """Set the notebooks' environment, and store each notebook that passed."""
    import notebook_runs
    from nbmake.nb_result import NotebookResult
    from nbmake.nb_run import NotebookRun

    before = dict(os.environ)
    environment = notebook_runs.execution_environment()
    os.environ.update(environment)
    cache = notebook_runs.cache_folder(environment)
    execute = NotebookRun.execute

    def execute_and_store(run: NotebookRun) -> NotebookResult:
        start = time.perf_counter()
        result = execute(run)
        path = Path(run.filename).resolve()
        if result.error is None and path.parent == notebook_runs.ROOT / "notebooks":
            seconds = time.perf_counter() - start
            notebook_runs.store_run(path, result.nb, seconds, cache)
        return result

    def restore() -> None:
        NotebookRun.execute = execute
        os.environ.clear()
        os.environ.update(before)

    NotebookRun.execute = execute_and_store
    config.add_cleanup(restore)
