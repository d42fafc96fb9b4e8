"""What installing the package would change in Colab, before the first cell has run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLAB = Path(__file__).with_name("data") / "colab-pip-freeze.txt"
# With another version of one of these, Colab asks for a new session in mid-chapter.
HELD = {"ipykernel", "ipywidgets", "numpy", "pandas", "torch", "tornado"}
NO_LIST = ("connect", "dns error", "fetch", "offline", "request", "timed out", "tls")


def pins(text: str) -> dict[str, str]:
    """Read lines ``name==version``; names in the form that all tools compare."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def resolve(requirements: Path, output: Path, *options: str, seconds: int) -> str:
    """Resolve for Colab's Python; versions that `output` names are kept if they fit.

    That is what pip does with the packages that are installed.
    """
    uv = pytest.importorskip("uv", reason="uv is in the extra `test`")
    command = [uv.find_uv_bin(), "pip", "compile", requirements, *options]
    command += ["--python-version", "3.13", "--python-platform", "linux", "--quiet"]
    command += ["--no-header", "--no-annotate", "--output-file", output]
    quick = {"UV_HTTP_TIMEOUT": "5", "UV_HTTP_RETRIES": "0"}
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never", **quick},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index took longer than {seconds} seconds")
    if done.returncode:
        if any(sign in done.stderr.lower() for sign in NO_LIST):
            pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
        pytest.fail(done.stderr)
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip, after seconds, where no package index can be reached."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "one.in").write_text("iniconfig\n", encoding="utf-8")
    resolve(folder / "one.in", folder / "one.txt", seconds=10)


def changes(folder: Path, *extras: str, added: str = "") -> dict[str, tuple[str, str]]:
    """List what an install changes: ``{name: (Colab's version, the new one)}``."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    start = "\ndependencies = [\n"
    assert start in project
    if added:
        project = project.replace(start, f'{start}  "{added}",\n')
    (folder / "pyproject.toml").write_text(project, encoding="utf-8")
    output = folder / "colab.txt"
    before = COLAB.read_text(encoding="utf-8")
    output.write_text(before, encoding="utf-8")
    options = [f"--extra={extra}" for extra in extras]
    after = resolve(folder / "pyproject.toml", output, *options, seconds=120)
    old, new = pins(before), pins(after)
    assert new
    return {
        name: (old[name], version)
        for name, version in new.items()
        if old.get(name, version) != version
    }


@pytest.mark.usefixtures("index")
def test_the_base_install_changes_nothing_that_colab_has(tmp_path: Path) -> None:
    assert changes(tmp_path) == {}


@pytest.mark.usefixtures("index")
def test_chat_models_leave_the_session_of_colab_alone(tmp_path: Path) -> None:
    changed = changes(tmp_path, "api")
    assert not HELD & set(changed), changed


@pytest.mark.parametrize("bound", ["ipykernel>=6.29", "pandas>=2.3", "requests>=2.33"])
@pytest.mark.usefixtures("index")
def test_a_bound_that_colab_does_not_meet_is_seen(bound: str, tmp_path: Path) -> None:
    assert re.split(r"\W", bound)[0] in changes(tmp_path, added=bound)


@cache
def code(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_chapter_installs_what_it_asks_for(notebook: Path) -> None:
    setup, *cells = code(notebook)
    prompts = re.search(r"\b(llms|chat_model|PromptClassifier)\b", "\n".join(cells))
    assert ("chapterlib[api] @" in setup) == bool(prompts)
