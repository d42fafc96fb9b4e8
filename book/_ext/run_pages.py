"""The list of the notebooks' last runs, made at build time: ``{notebook-list}``.

When a notebook ran and for how long is in the cache that `notebook_runs` keeps. Tier,
data and versions are in that folder's name, so each run in it had the present ones.
"""

from __future__ import annotations

from datetime import timezone
from pathlib import Path
from typing import Any

from docutils import nodes
from notebook_runs import Origin
from record_pages import make_table, spell_versions
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

HEADS = ("Chapter", "Executed (UTC)", "Took", "Tier", "Data")
MARK = "notebook_list"


class Place(nodes.General, nodes.Element):
    """Where the list will stand, once all notebooks are read."""


class NotebookList(SphinxDirective):
    """``{notebook-list}``: each notebook's last run."""

    def run(self) -> list[nodes.Node]:
        """Leave a place for `fill_in`."""
        self.env.metadata[self.env.docname][MARK] = True
        return [Place()]


def last_runs(notebooks: dict[str, Path], cache: Path) -> dict[str, tuple[str, str]]:
    """Look up when notebooks ran, and for how long.

    Parameters
    ----------
    notebooks
        Files by page.
    cache
        As `notebook_runs.cache_folder` returned it.

    Returns
    -------
    dict
        Date with time (UTC), and duration, by page; dashes for a notebook that has
        not run in its present state.
    """
    import nbformat
    from jupyter_cache import get_cache

    from chapterlib.reporting.tables import duration

    found = dict.fromkeys(notebooks, ("not yet", "–"))
    if not (cache / "global.db").is_file():
        return found
    stored = get_cache(str(cache))
    for page, path in notebooks.items():
        try:
            run = stored.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            continue
        # SQLite forgets the time zone: what it holds is UTC.
        when = run.created.replace(tzinfo=timezone.utc)
        seconds = (run.data or {}).get("execution_seconds")
        took = "–" if seconds is None else duration(seconds)
        found[page] = (f"{when:%Y-%m-%d %H:%M}", took)
    return found


def update(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Have the list written anew at each build: any notebook may have run."""
    return [page for page, known in env.metadata.items() if known.get(MARK)]


def fill_in(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the list into its place."""
    places = list(doctree.findall(Place))
    if not places:
        return
    from chapterlib.settings import get_settings, versions

    env, origin = app.env, Origin(*app.config.chapterbook_origin)
    files = {page: Path(env.doc2path(page)) for page in sorted(env.found_docs)}
    notebooks = {page: path for page, path in files.items() if path.suffix == ".ipynb"}
    runs = last_runs(notebooks, Path(app.config.nb_execution_cache_path))
    tier, rows = get_settings().tier, []
    for page, (when, took) in runs.items():
        title = nodes.inline("", env.titles[page].astext())
        link = make_refnode(app.builder, docname, page, None, title)
        rows.append((link, when, took, tier, origin.name))
    shared = [
        nodes.paragraph("", f"{origin.name} here: {origin.sentence}."),
        nodes.paragraph("", f"Versions: {spell_versions(versions())}."),
    ]
    for place in places:
        place.replace_self([make_table(HEADS, rows), *shared])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive with Sphinx."""
    app.add_directive("notebook-list", NotebookList)
    app.connect("env-updated", update)
    app.connect("doctree-resolved", fill_in)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
