"""The book's Sphinx extension: notebook runs, and what pages say about their data.

Named in ``_config.yml``. How and where notebooks run is `notebook_runs`' concern,
measured numbers are `record_roles`', the lists `record_pages`' and `run_pages`'.
"""

from __future__ import annotations

import os
import re
from typing import Any

from docutils import nodes
from notebook_runs import Origin, cache_folder, data_origin, execution_environment
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config

NO_SUMMARIES_FROM_DISK = (
    'if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object")'
    " DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"
)
SAMPLE_NOTICE = "<b>THIS IS THE SHIPPED SAMPLE"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


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
    # The page says it once, under its title; the cell says it to whoever runs it.
    for raw in list(doctree.findall(nodes.raw)):
        if raw.astext().startswith("<div") and SAMPLE_NOTICE in raw.astext():
            raw.parent.remove(raw)
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


def tidy_scripts(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Put each script into a page once, and leave out those that it does not need.

    The book lacks Thebe, and a page without a formula needs no MathJax. Sphinx adds
    the inline scripts of extensions twice, and a constant that is declared twice is an
    error in the reader's console.
    """
    formulas = doctree and any(
        isinstance(node, (nodes.math, nodes.math_block)) for node in doctree.findall()
    )
    unwanted = ("thebe",) if formulas else ("thebe", "mathjax")
    once: dict[tuple[str, str], Any] = {}
    for script in context["script_files"]:
        name = str(getattr(script, "filename", script) or "")
        body = getattr(script, "attributes", {}).get("body", "")
        if not any(word in f"{name} {body}".lower() for word in unwanted):
            once.setdefault((name, body), script)
    context["script_files"] = list(once.values())


def skip_member(
    app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what scikit-learn adds to every estimator, for metadata routing."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    for part in ("record_roles", "record_pages", "run_pages", "glossary_links"):
        app.setup_extension(part)
    app.add_config_value("chapterbook_origin", None, "env", types=[tuple])
    # before myst-nb reads the configuration
    app.connect("config-inited", prepare, priority=100)
    app.connect("doctree-read", finish_page)
    app.connect("autodoc-skip-member", skip_member)
    # after the extensions that add scripts to single pages
    app.connect("html-page-context", tidy_scripts, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
