"""The rendered book, as a reader's browser sees it: from a disk and from a server."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urljoin

import pytest
import yaml
from bs4 import BeautifulSoup
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
# Taken before any fixture isolates it: the book is built as the reader builds it.
ENVIRONMENT = dict(os.environ)
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"]] + [
    chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]
]
NOTEBOOKS = [page for page in PAGES if page.startswith("notebooks/")]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER),
        reason="no chromium or no chromedriver on this machine "
        "(Debian and Ubuntu: apt install chromium chromium-driver)",
    ),
]


class Build(NamedTuple):
    """One build of the book: where its pages lie, and why there may be none."""

    pages: Path
    failure: str


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build the book from nothing: a second build would keep quiet about old pages."""
    output = tmp_path_factory.mktemp("book")
    program = Path(sys.executable).with_name("jupyter-book")
    command = f"{program} build book/ -n -W --keep-going --path-output {output}"
    done = subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    failure = done.stdout[-2000:] + done.stderr[-8000:] if done.returncode else ""
    return Build(output / "_build" / "html", failure)


@pytest.fixture(scope="session")
def book(build: Build) -> Path:
    if build.failure:
        pytest.skip("the book did not build: see test_the_book_builds")
    return build.pages


def test_the_book_builds(build: Build) -> None:
    assert not build.failure, build.failure


@pytest.fixture(scope="session")
def server(book: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.fixture(params=["file", "http"])
def base(request: pytest.FixtureRequest, book: Path) -> str:
    if request.param == "file":
        return book.as_uri()
    address: str = request.getfixturevalue("server")
    return address


class Browser:
    """Headless Chromium that writes down what each page asks for."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability(
            "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
        )
        # The driver's path is given, so that selenium looks for none to download.
        service = Service(executable_path=str(CHROMEDRIVER))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_page_load_timeout(120)
        self.driver.set_script_timeout(120)

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a window of this size and wait until it is at rest."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600}
        )
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(url)
        self.driver.execute_async_script(
            """const done = arguments[0];
            const math = window.MathJax?.startup?.promise ?? Promise.resolve();
            document.querySelectorAll("img").forEach(i => i.loading = "eager");
            Promise.all([math, document.fonts.ready])
              .then(() => setTimeout(done, 200));"""
        )

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def complaints(self, base: str) -> list[str]:
        """List failed requests, requests to other places and errors of the console."""
        found = []
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            name, params = event["method"], event["params"]
            if name == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith((base, "data:", "blob:", "about:")):
                    found.append(f"request outside: {url}")
            elif name == "Network.loadingFailed":
                found.append(f"failed request: {params}")
            elif (
                name == "Network.responseReceived"
                and params["response"]["status"] >= 400
            ):
                found.append(f"refused request: {params['response']['url']}")
        found += [
            f"console: {entry['message']}"
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "ERROR")
        ]
        return found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.driver.quit()


@pytest.mark.parametrize("page", PAGES)
def test_page_loads_and_asks_for_nothing_outside(
    browser: Browser, base: str, page: str
) -> None:
    browser.open(f"{base}/{page}.html")

    assert browser.complaints(base) == []
    assert browser.run("return document.querySelectorAll('article h1').length") == 1


@pytest.mark.parametrize("page", PAGES)
def test_images_and_formulas_render(browser: Browser, book: Path, page: str) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")

    broken = browser.run(
        """return [...document.images].filter(i => !i.complete || !i.naturalWidth)
        .map(i => i.src)"""
    )
    formulas, drawn, wrong = browser.run(
        """const count = s => document.querySelectorAll(s).length;
        return [count("article .math"), count("article .math mjx-container svg"),
                count("mjx-merror, [data-mjx-error]")]"""
    )
    assert broken == []
    assert drawn >= formulas
    assert wrong == 0


@pytest.mark.parametrize("page", PAGES)
def test_every_picture_says_what_it_shows(
    browser: Browser, book: Path, page: str
) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")

    alts = browser.run(
        "return [...document.querySelectorAll('article img')]"
        ".map(i => i.getAttribute('alt') ?? '')"
    )
    # Without a text of its own, a picture gets its file name.
    poor = [alt for alt in alts if len(alt) < 12 or re.search(r"\.(png|svg)$", alt)]
    assert poor == [], 'set the cell\'s metadata {"mystnb": {"image": {"alt": …}}}'


@pytest.mark.parametrize("page", NOTEBOOKS)
def test_no_figure_of_a_notebook_is_lost(
    browser: Browser, book: Path, page: str
) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")
    shown = browser.run("return [...document.querySelectorAll('img')].map(i => i.alt)")

    cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    images = [c["metadata"].get("mystnb", {}).get("image", {}) for c in cells]
    assert [i["alt"] for i in images if "alt" in i and i["alt"] not in shown] == []


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_a_laptop(browser: Browser, book: Path, page: str) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")

    wide = browser.run(
        """return [...document.querySelectorAll("article pre")]
        .filter(p => p.scrollWidth > p.clientWidth + 1)
        .map(p => p.innerText)"""
    )
    assert wide == []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
def test_page_does_not_scroll_sideways(
    browser: Browser, book: Path, page: str, width: int
) -> None:
    browser.open(f"{book.as_uri()}/{page}.html", width=width)

    assert browser.run("return document.documentElement.scrollWidth") <= width


def test_search_finds_a_term(browser: Browser, base: str) -> None:
    browser.open(f"{base}/search.html?q=dotenv")
    browser.driver.execute_async_script(
        """const done = arguments[0]; const start = Date.now();
        const look = () => {
          const found = document.querySelectorAll("#search-results li").length;
          if (found || Date.now() - start > 60000) setTimeout(done, 500);
          else setTimeout(look, 100);
        };
        look();"""
    )
    titles = browser.run(
        "return [...document.querySelectorAll('#search-results li a')]"
        ".map(a => a.innerText)"
    )
    assert "Setup" in titles
    assert browser.complaints(base) == []


def test_there_is_one_search_field(browser: Browser, book: Path) -> None:
    browser.open(f"{book.as_uri()}/intro.html")

    visible = browser.run(
        """const fields = "form.bd-search input, .search-button-field";
        return [...document.querySelectorAll(fields)]
        .filter(e => e.checkVisibility()).length"""
    )
    assert visible == 1


@pytest.mark.parametrize("page", PAGES)
def test_buttons_lead_to_the_repository(
    browser: Browser, book: Path, page: str
) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")
    links = browser.run(
        "return [...document.querySelectorAll('.article-header-buttons a')]"
        ".map(a => a.href)"
    )
    url, branch = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
    slug = url.removeprefix("https://github.com/")
    source = f"{page}.ipynb" if page in NOTEBOOKS else f"book/{page}.md"

    assert (ROOT / source).is_file()
    assert url in links
    assert f"{url}/edit/{branch}/{source}" in links
    assert any(link.startswith(f"{url}/issues/new") for link in links)
    colab = f"https://colab.research.google.com/github/{slug}/blob/{branch}/{source}"
    binder = f"https://mybinder.org/v2/gh/{slug}/{branch}?urlpath=lab/tree/{source}"
    assert (colab in links) == (page in NOTEBOOKS)
    assert (binder in links) == (page in NOTEBOOKS)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_book_lead_somewhere(
    browser: Browser, book: Path, page: str
) -> None:
    browser.open(f"{book.as_uri()}/{page}.html")
    here = browser.driver.current_url
    links = browser.run(
        "return [...document.querySelectorAll('a[href]')]"
        ".map(a => a.getAttribute('href'))"
    )
    targets = {urldefrag(urljoin(here, link))[0] for link in links}
    inside = {link for link in targets if link.startswith(book.as_uri())}
    dead = [
        link
        for link in inside
        if not Path(link.removeprefix("file://")).exists() and "?" not in link
    ]
    assert dead == []


def test_executed_pages_name_their_data(book: Path) -> None:
    for page in NOTEBOOKS:
        html = (book / f"{page}.html").read_text(encoding="utf-8")
        assert re.search(r'class="[^"]*\bdata-origin\b', html), page
        assert html.count("The sample, not") + html.count("SHIPPED SAMPLE") <= 1, page
        assert "widget-view" not in html


TERMS = [
    *("softmax", "cross-entropy", "perplexity", "gradient", "learning rate", "epoch"),
    *("overfitting", "validation set", "early stopping", "attention", "token"),
    *("context window", "logit", "temperature", "adapter", "rank", "quantization"),
]


@pytest.mark.parametrize("term", TERMS)
def test_term_is_explained_and_linked_where_it_first_occurs(
    term: str, book: Path
) -> None:
    anchor = f"term-{term.replace(' ', '-')}"
    html = (book / "glossary.html").read_text("utf-8")
    glossary: Any = BeautifulSoup(html, "html.parser")
    assert glossary.find(id=anchor).find_next("dd").get_text(strip=True)
    pages = 0
    for page in NOTEBOOKS:
        html = (book / f"{page}.html").read_text("utf-8")
        article: Any = BeautifulSoup(html, "html.parser").find("article")
        links = [a for a in article("a") if a.get("href", "").endswith(f"#{anchor}")]
        assert len(links) <= 1, page
        for part in article(["pre", "code", "h1", "h2", "h3", "nav", "table"]):
            part.decompose()
        # What leads elsewhere, such as the name of a chapter, can't lead there as well.
        for link in article("a"):
            if link not in links:
                link.decompose()
        for output in article(class_="cell_output"):
            output.decompose()
        said = [t for t in article(["p", "li"]) if re.search(rf"\b{term}\b", t.text)]
        pages += bool(links)
        if said:
            assert links, f"{page} says {term!r} and does not lead to the glossary"
    assert pages


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(
    theme: str, book: Path, browser: Browser
) -> None:
    rules = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    for page in PAGES:
        browser.open(f"{book.as_uri()}/{page}.html")
        browser.run(f"document.documentElement.dataset.theme = {theme!r}")
        browser.run(rules)
        found = browser.driver.execute_async_script(
            """const done = arguments[0];
            // The theme fades from one color to the other.
            setTimeout(() => axe.run(document, {runOnly: ["color-contrast"]})
              .then(done), 1000);"""
        )
        assert found["passes"], page
        pale = [node["html"] for rule in found["violations"] for node in rule["nodes"]]
        assert pale == [], page


def test_what_is_folded_opens_by_keyboard(book: Path, browser: Browser) -> None:
    browser.open(f"{book.as_uri()}/{NOTEBOOKS[0]}.html")
    kinds = browser.run(
        "return [...document.querySelectorAll('article details > summary')]"
        ".map(summary => summary.innerText.trim())"
    )
    assert {"Hint", "Solution", "Discussion", "Answer"} <= set(kinds)
    for i, kind in enumerate(kinds):
        state = f"document.querySelectorAll('article details > summary')[{i}]"
        assert not browser.run(f"return {state}.parentElement.open"), kind
        browser.run(f"{state}.focus()")
        browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
        assert browser.run(f"return {state}.parentElement.open"), kind
