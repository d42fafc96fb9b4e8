"""How the book's notebooks run, and what their pages say about the data.

Two programs execute the notebooks: ``pytest --nbmake notebooks/`` and
``jupyter-book build book/``. Both ask this module under which environment they run
and where the finished runs are stored, so that what one has executed the other
reuses. For Jupyter Book it is a Sphinx extension as well, named in ``_config.yml``;
the root ``conftest.py`` imports its functions.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]
SHARED_AG_NEWS = ROOT.parent / "shared" / "ag_news"
SAMPLE = "sample"
NO_SUMMARIES_FROM_DISK = (
    'if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object")'
    " DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"
)
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
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
    from chapterlib import data
    from chapterlib.origins import HUB_ID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = data.describe(data.load_ag_news())
    return SAMPLE if found.is_sample else HUB_ID


def cache_folder(environment: dict[str, str] | None = None) -> Path:
    """Where the executed notebooks of this state of the book are stored.

    A stored run is found again by its cells alone, so whatever else decides what
    they print goes into the folder's name: the package, its data files, the recorded
    results, the tested versions, the settings and the data.

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
    from chapterlib.settings import get_settings

    ours = {k: v for k, v in os.environ.items() if k.startswith("CHAPTERLIB_")}
    # Secrets are dumped as stars; where the cache lies changes no output.
    settings = {**get_settings().model_dump(mode="json"), **ours, **environment}
    for place in ("cache", "ag_news", "CHAPTERLIB_CACHE"):
        settings.pop(place, None)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
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
    from chapterlib import data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = data.describe(data.load_ag_news(environment["CHAPTERLIB_AG_NEWS"]))
    rows = " and ".join(f"{count:,} {split}" for split, count in info.rows.items())
    sentence = f"{rows} rows, fingerprint {info.fingerprint}"
    origin = Origin(name=info.name, is_sample=info.is_sample, sentence=sentence)
    cache.mkdir(parents=True, exist_ok=True)
    written = note.with_suffix(f".{os.getpid()}")
    written.write_text(json.dumps(origin._asdict()), encoding="utf-8")
    written.replace(note)
    return origin


def prepare(app: Sphinx, config: Config) -> None:
    """Set the notebooks' environment and cache, and the links that the theme needs."""
    environment = execution_environment()
    os.environ.update(environment)
    cache = cache_folder(environment)
    config.nb_execution_cache_path = str(cache)
    config.chapterbook_origin = tuple(data_origin(environment, cache))
    # Not in _static: Jupyter Book puts every script that lies there into every page.
    config.html_static_path = [*config.html_static_path, "_vendor"]
    options = config.html_theme_options
    # Summaries are fetched page by page, which a browser refuses for file:// pages.
    app.add_js_file(None, body=NO_SUMMARIES_FROM_DISK, priority=300)
    # The prose lies in book/, the notebooks beside it.
    config.html_context = {
        **config.html_context,
        "edit_page_provider_name": "GitHub",
        "edit_page_url_template": (
            f"{options['repository_url']}/edit/{options['repository_branch']}/"
            "{{ '' if file_name.startswith('notebooks/') else 'book/' }}{{ file_name }}"
        ),
    }


def is_notebook(app: Sphinx, docname: str) -> bool:
    """Tell whether a page is an executed notebook."""
    return str(app.env.doc2path(docname)).endswith(".ipynb")


def finish_page(app: Sphinx, doctree: nodes.document) -> None:
    """State a notebook's data under its title, and drop what only a kernel can show."""
    # A live widget leaves a bundle whose fallback is the text of its constructor.
    for bundle in list(doctree.findall(nodes.container)):
        mimes = {child.get("mime_type") for child in bundle if _is_element(child)}
        if WIDGET_MIME in mimes:
            bundle.parent.remove(bundle)
    if not is_notebook(app, app.env.docname):
        return
    origin = Origin(*app.config.chapterbook_origin)
    box = _sample_box(origin) if origin.is_sample else _data_line(origin)
    title = next(iter(doctree.findall(nodes.title)), None)
    if title is not None:
        title.parent.insert(title.parent.index(title) + 1, box)


def _is_element(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Element)


def _sample_box(origin: Origin) -> nodes.Element:
    text = nodes.paragraph(
        "",
        f"Whatever this page computes comes from the {origin.name} ({origin.sentence})"
        ", a stand-in that is shipped with the package. How to get AG News: ",
    )
    link = addnodes.pending_xref(
        "", nodes.inline("", "Setup"), refdomain="std", reftype="doc"
    )
    text += link
    link.attributes.update(reftarget="/setup", refexplicit=True, refwarn=False)
    box = nodes.admonition("", nodes.title("", "The sample, not AG News"), text)
    box["classes"] += ["warning", "data-origin"]
    return box


def _data_line(origin: Origin) -> nodes.Element:
    text = f"This page was computed on {origin.name}: {origin.sentence}."
    return nodes.paragraph("", text, classes=["data-origin"])


def announce(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Put a banner over each executed page if its data is the sample."""
    origin = Origin(*app.config.chapterbook_origin)
    if doctree is not None and origin.is_sample and is_notebook(app, pagename):
        context["theme_announcement"] = (
            "Numbers on this page come from the small sample shipped with the "
            "package, not from AG News."
        )


def tidy_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Put each script into a page once, and leave out Thebe, which the book lacks.

    Sphinx adds the inline scripts of extensions twice, and a constant that is
    declared twice is an error in the reader's console.
    """
    once: dict[tuple[str, str], Any] = {}
    for script in context["script_files"]:
        name = str(getattr(script, "filename", script) or "")
        body = getattr(script, "attributes", {}).get("body", "")
        if "thebe" not in f"{name} {body}".lower():
            once.setdefault((name, body), script)
    context["script_files"] = list(once.values())


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


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.add_config_value("chapterbook_origin", None, "env", types=[tuple])
    # before myst-nb reads the configuration
    app.connect("config-inited", prepare, priority=100)
    app.connect("doctree-read", finish_page)
    app.connect("html-page-context", announce)
    # after the extensions that add scripts to single pages
    app.connect("html-page-context", tidy_scripts, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
