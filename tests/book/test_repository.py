"""What must agree across the repository's files, and nothing else would notice."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from chapterlib.settings import TIERS, Settings

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib  # type: ignore[no-redef, unused-ignore]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MATHJAX = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"
PACKAGES = [
    "jupyter-book",
    "nbmake",
    "pytest",
    "datasets",
    "evaluate",
    "langchain-core",
    "langchain-together",
    "pydantic",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "torch",
]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load_yaml(name: str) -> Any:
    return yaml.safe_load(read(name))


CONFIG = load_yaml("_config.yml")
PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
URL: str = CONFIG["repository"]["url"]
BRANCH: str = CONFIG["repository"]["branch"]
OWNER, NAME = URL.removeprefix("https://github.com/").split("/")
SITE = f"https://{OWNER}.github.io/{NAME}"


def tracked() -> list[Path]:
    """List the text files of the repository, from git where there is one."""
    done = subprocess.run(
        [
            "git",
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "-co",
            "--exclude-standard",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [
        path
        for path in paths
        if path.is_file() and not path.is_symlink() and "_vendor" not in path.parts
    ]


def cells(notebook: Path, kind: str) -> list[str]:
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_no_file_names_another_owner_of_the_repository() -> None:
    # The look behind spares a search that begins anew at each letter of a long word.
    mention = re.compile(rf"(?<![\w.-])([\w.-]+)(?:\.github\.io)?/{re.escape(NAME)}\b")
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        owners = set(mention.findall(text))
        assert owners <= {OWNER, f"{OWNER}.github.io"}, path


@pytest.mark.parametrize(
    ("file", "mention"),
    [
        ("README.md", f"git clone {URL}"),
        ("CITATION.cff", f"repository-code: {URL}\n"),
        ("CITATION.cff", f"url: {SITE}\n"),
        ("CONTRIBUTING.md", f"git clone {URL}\n"),
        ("book/intro.md", f"git clone {URL}\n"),
        ("book/setup.md", f"git clone {URL}\n"),
        ("book/setup.md", f"git+{URL}\n"),
    ],
)
def test_file_names_the_repository(file: str, mention: str) -> None:
    assert mention in read(file), f"{file} lacks {mention!r}: _config.yml is the home"


def test_project_urls_are_the_repository() -> None:
    urls = PROJECT["urls"]
    assert urls["Repository"] == URL
    assert urls["Book"].rstrip("/") == SITE
    assert CONFIG["html"]["baseurl"].rstrip("/") == SITE


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_first_code_cell_installs_from_the_repository(self, notebook: Path) -> None:
        assert f"git+{URL}" in cells(notebook, "code")[0]

    def test_begins_with_one_title(self, notebook: Path) -> None:
        prose = cells(notebook, "markdown")
        titles = [t for cell in prose for t in re.findall(r"^# .+", cell, re.M)]
        assert len(titles) == 1
        assert prose[0].startswith("# ")

    def test_has_no_outputs(self, notebook: Path) -> None:
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs")
            assert not cell.get("execution_count")

    def test_code_is_short_and_narrow(self, notebook: Path) -> None:
        for source in cells(notebook, "code"):
            lines = source.splitlines()
            # A list of imports is looked up, not read.
            imports = re.findall(r"^(?:from .* )?import (?:\([^)]*\)|.*)", source, re.M)
            listed = sum(len(found.splitlines()) for found in imports)
            assert len(lines) - listed <= 20, source
            assert max(map(len, lines), default=0) <= 79, source

    def test_prose_is_plain_markdown(self, notebook: Path) -> None:
        for source in cells(notebook, "markdown"):
            assert not re.search(r"\{[a-z:]+\}`|^:::|^```\{", source, re.M), source

    def test_is_in_the_table_of_contents(self, notebook: Path) -> None:
        assert f"file: notebooks/{notebook.stem}\n" in read("_toc.yml")

    def test_file_is_no_larger_than_its_text(self, notebook: Path) -> None:
        assert notebook.stat().st_size < 100_000


def test_setup_page_names_every_setting_and_tier() -> None:
    text = read("book/setup.md")
    for name in Settings.model_fields:
        assert f"CHAPTERLIB_{name.upper()}`" in text or f"{name.upper()}=" in text, name
    for name, tier in TIERS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        model = "SmolLM2-135M-Instruct" if tier.model == "embedded" else tier.model
        assert model.split("/")[-1].removeprefix("Meta-") in row
        assert f"{tier.train_per_class:,} / {tier.test_per_class:,}" in row


def test_pages_of_the_table_of_contents_exist() -> None:
    for part in load_yaml("_toc.yml")["parts"]:
        for chapter in part["chapters"]:
            stem = ROOT / "book" / chapter["file"]
            assert any(
                stem.with_name(stem.name + s).is_file() for s in (".md", ".ipynb")
            )


def test_jupyter_book_finds_its_files_through_symlinks() -> None:
    for name in ("_config.yml", "_toc.yml", "notebooks"):
        link = ROOT / "book" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_every_bibliography_entry_is_cited() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", read("book/references.bib"), re.M))
    pages = "".join(path.read_text("utf-8") for path in (ROOT / "book").glob("*.md"))
    cited = {
        key
        for keys_of_role in re.findall(r"\{cite:[a-z]+\}`([^`]+)`", pages)
        for key in keys_of_role.split(",")
    }
    assert keys == cited


def test_environments_cover_the_packages_of_the_book() -> None:
    extras = PROJECT["optional-dependencies"]
    conda = load_yaml("environment.yml")
    pip = next(entry for entry in conda["dependencies"] if isinstance(entry, dict))
    installed = re.search(r"--editable \.\[([\w,]+)\]", "\n".join(pip["pip"]))
    assert installed
    named = list(PROJECT["dependencies"])
    for extra in installed.group(1).split(","):
        named += extras[extra]
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in named}
    locked = set(re.findall(r"^([\w.-]+)==", read("constraints.txt"), re.M))

    assert conda["name"] == "chapterlib"
    assert "--constraint constraints.txt" in pip["pip"]
    assert set(PACKAGES) <= names
    assert set(PACKAGES) <= locked


def test_mathjax_is_the_published_file() -> None:
    folder = ROOT / "book" / "_vendor" / "mathjax"
    digest = hashlib.sha256((folder / "tex-svg-full.js").read_bytes()).hexdigest()
    assert digest == MATHJAX
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_workflows_and_hooks_are_valid() -> None:
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert load_yaml(str(path))["jobs"]
    hooks = load_yaml(".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    done = subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False)
    assert done.returncode == 0


def test_modules_fit_in_the_head() -> None:
    for path in (ROOT / "chapterlib").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        assert ast.get_docstring(ast.parse(text)), path
