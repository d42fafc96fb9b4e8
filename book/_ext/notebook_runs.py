"""Under which environment notebooks run, and where their finished runs are kept.

Two programs execute the notebooks: ``pytest --nbmake notebooks/`` (see the root
``conftest.py``) and ``jupyter-book build book/`` (see ``chapterbook.py``). Both ask
this module, so that what one has executed the other reuses.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SHARED_AG_NEWS = ROOT.parent / "shared" / "ag_news"
SAMPLE = "sample"
# Progress bars move in a terminal or in Colab; on a static page they are noise.
QUIET = {
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
# Files that decide what a notebook prints, besides the notebook itself.
SOURCES = (
    "chapterlib/**/*.py",
    "chapterlib/**/*.pyi",
    "chapterlib/data_files/**/*",
    "results/*.json",
    "constraints.txt",
)


class Origin(NamedTuple):
    """What the notebooks read as AG News.

    Attributes
    ----------
    name
        ``"AG News"``, or the name that the sample gives itself.
    is_sample
        Whether it is only the sample shipped with the package.
    sentence
        Rows a split and fingerprint, for a page.
    """

    name: str
    is_sample: bool
    sentence: str


def execution_environment() -> dict[str, str]:
    """Environment variables under which every notebook runs.

    Returns
    -------
    dict
        Names and values to put into ``os.environ``: quiet progress bars, paths made
        absolute (a notebook's working folder is ``notebooks/``), and
        ``CHAPTERLIB_AG_NEWS``: the reader's setting; else ``../shared/ag_news``
        beside the checkout; else the Hub's data set where it can be reached; else
        ``"sample"``.
    """
    from chapterlib.settings import get_settings

    environment = dict(QUIET)
    for name in ("CHAPTERLIB_CACHE", "CHAPTERLIB_RESULTS"):
        if os.environ.get(name):
            environment[name] = str(Path(os.environ[name]).expanduser().resolve())
    source = get_settings().ag_news
    if source is None and SHARED_AG_NEWS.is_dir():
        source = str(SHARED_AG_NEWS)
    if source is None:
        source = _reachable()
    folder = Path(source).expanduser()
    environment["CHAPTERLIB_AG_NEWS"] = (
        str(folder.resolve()) if folder.is_dir() else source
    )
    return environment


def _reachable() -> str:
    """Name the data set of the Hub where it can be loaded, else the sample."""
    from chapterlib import AG_NEWS, tasks
    from chapterlib.tasks.loading import HUB_ID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = tasks.describe(AG_NEWS.load())
    return SAMPLE if found.is_sample else HUB_ID


def cache_folder(environment: dict[str, str] | None = None) -> Path:
    """Where the executed notebooks of this state of the book are stored.

    A stored run is found again by its cells alone, so whatever else decides what
    they print goes into the folder's name: the package, its data files, the recorded
    results, the tested and the installed versions, the settings and the data.

    Parameters
    ----------
    environment
        As `execution_environment` returns it; asked for where it is not given.

    Returns
    -------
    Path
        A folder below ``.jupyter_cache``, which may not exist yet.
    """
    if environment is None:
        environment = execution_environment()
    from chapterlib.settings import get_settings, versions

    ours = {k: v for k, v in os.environ.items() if k.startswith("CHAPTERLIB_")}
    # Secrets are dumped as stars; where the cache lies changes no output.
    settings = {**get_settings().model_dump(mode="json"), **ours, **environment}
    for place in ("cache", "ag_news", "CHAPTERLIB_CACHE"):
        settings.pop(place, None)
    state = {**settings, "versions": versions()}
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(path.relative_to(ROOT).as_posix().encode())
                digest.update(path.read_bytes())
    digest.update(_listing(environment["CHAPTERLIB_AG_NEWS"]).encode())
    return ROOT / ".jupyter_cache" / digest.hexdigest()[:16]


def _listing(source: str) -> str:
    """Names and sizes of a data folder's files: enough to notice other data."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{p.relative_to(folder)} {p.stat().st_size}" for p in files)


def data_origin(environment: dict[str, str], cache: Path) -> Origin:
    """Describe the data that the notebooks read, from a note in the cache folder.

    Parameters
    ----------
    environment
        As `execution_environment` returns it.
    cache
        As `cache_folder` returns it: the note is valid as long as this folder is.

    Returns
    -------
    Origin
        What the notebooks' pages say about their data.
    """
    note = cache / "data_origin.json"
    if note.is_file():
        return Origin(**json.loads(note.read_text(encoding="utf-8")))
    from chapterlib import AG_NEWS, tasks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = tasks.describe(AG_NEWS.load(environment["CHAPTERLIB_AG_NEWS"]))
    rows = " and ".join(f"{count:,} {split}" for split, count in info.rows.items())
    sentence = f"{rows} rows, fingerprint {info.fingerprint}"
    origin = Origin(name=info.name, is_sample=info.is_sample, sentence=sentence)
    cache.mkdir(parents=True, exist_ok=True)
    written = note.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(origin._asdict()), encoding="utf-8")
    written.replace(note)
    return origin


def store_run(path: Path, executed: Any, seconds: float, cache: Path) -> None:
    """Put an executed notebook where the book's build looks for it.

    Parameters
    ----------
    path
        The notebook's file.
    executed : nbformat.NotebookNode
        The same notebook with outputs, as its runner left it.
    seconds
        How long the run took.
    cache
        As `cache_folder` returned it before the run.
    """
    import nbformat
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    # A runner adds timings to the cells' metadata, which are part of the key: take
    # the notebook as git has it, and only the outputs from the run.
    notebook = nbformat.read(path, as_version=4)
    for cell, done in zip(notebook.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = done.outputs
            cell.execution_count = done.execution_count
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    get_cache(str(cache)).cache_notebook_bundle(
        bundle, check_validity=False, overwrite=True
    )
