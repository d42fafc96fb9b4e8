"""The floors of the house: who may import whom, read from the source by `ast`."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import chapterlib
from chapterlib.settings import PACKAGE

ROOT = PACKAGE.parent
FLOORS = [
    {"settings", "_store", "_logging", "metrics"},
    {"tasks", "plots"},
    {"models"},
    {"prompting", "training"},
    {"classifiers"},
    {"serving", "reporting"},
    {"__main__"},
]
# Third-party packages that are slow, or that a reader need not have.
LATE = {
    "IPython",
    "bitsandbytes",
    "evaluate",
    "huggingface_hub",
    "langchain_openai",
    "langchain_together",
    "matplotlib_inline",
    "matplotlib",
    "openai",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
    "xllamacpp",
}


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def modules(package: Path) -> dict[str, ast.Module]:
    """Parse each module, by its dotted name under the package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] == "data_files" or parts == ("__init__",):
            continue
        name = ".".join(p for p in parts if p != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(name: str, tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Yield the package's modules that a tree imports, at whatever place."""
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports by dots: write the whole name"
            base = node.module or ""
            targets = [f"{base}.{alias.name}" for alias in node.names]
        for target in targets:
            if target.split(".")[0] != "chapterlib":
                continue
            parts = target.split(".")[1:]
            while parts and ".".join(parts) not in known:
                parts = parts[:-1]
            yield ".".join(parts)


def imports(package: Path) -> dict[str, set[str]]:
    trees = modules(package)
    return {name: set(imported(name, tree, set(trees))) for name, tree in trees.items()}


def broken_floors(package: Path) -> list[str]:
    """List the imports that go up, sideways between rooms, or into reporting."""
    broken = []
    for name, targets in imports(package).items():
        room = name.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if not other or other == room:
                continue
            if floor(other) > floor(room):
                broken.append(f"{name} imports {target}, which is on a higher floor")
            elif {room, other} == {"training", "prompting"}:
                broken.append(f"{name} imports {target}: the two are neighbors")
            elif room == "plots" and other == "reporting":
                broken.append(f"{name} imports {target}: plots take tables")
            elif other == "reporting" and room != "__main__":
                broken.append(f"{name} imports {target}: reporting is the book's own")
    return broken


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Find circles by walking down from each module."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(graph.get(name, ())):
            walk(target, [*path, name])
        done.add(name)

    for name in graph:
        walk(name, [])
    return found


def test_no_module_imports_from_a_higher_floor() -> None:
    assert not broken_floors(PACKAGE)


def test_no_import_goes_in_a_circle() -> None:
    graph = {
        name: {t for t in targets if t and t != name}
        for name, targets in imports(PACKAGE).items()
    }
    assert not circles(graph)


def test_the_guard_sees_a_broken_floor_and_a_circle(tmp_path: Path) -> None:
    for name, text in {
        "metrics/a.py": "from chapterlib.models import b\n",
        "models/b.py": "def f():\n    from chapterlib.reporting.c import g\n",
        "reporting/c.py": "import chapterlib.models.b\n",
        "plots/d.py": "from chapterlib.tasks import e\n",
        "tasks/e.py": "from chapterlib.plots.d import h\n",
        "training/f.py": "from chapterlib.prompting.g import x\n",
        "prompting/g.py": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    assert len(broken_floors(tmp_path)) == 3
    assert ["models.b", "reporting.c", "models.b"] in circles(imports(tmp_path))
    assert any("plots.d" in circle for circle in circles(imports(tmp_path)))


def test_only_optional_or_slow_packages_are_imported_in_functions() -> None:
    for name, tree in modules(PACKAGE).items():
        if name == "__main__":  # its --help must not wait for any of them
            continue
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                late: list[str] = []
                if isinstance(node, ast.Import):
                    late = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    late = [node.module or ""]
                for target in late:
                    assert target.split(".")[0] in LATE, f"{name}: {target}"


def test_the_house_stays_small() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.is_file()]
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in files
    }
    assert len(files) <= 62
    assert max(lengths.values()) <= 400, max(lengths, key=lambda p: lengths[p])


def test_pytest_enters_every_folder_of_tests(pytestconfig) -> None:
    tests = PACKAGE.parent / "tests"
    for path in tests.rglob("test_*.py"):
        for folder in path.relative_to(tests).parts[:-1]:
            for left_out in pytestconfig.getini("norecursedirs"):
                assert not fnmatch(folder, left_out), f"{left_out} hides {path}"


def test_nothing_but_tasks_names_a_label_of_ag_news() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("tasks", "data_files"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"Sci/Tech|\"Sports\"|'Sports'", text), path


def names_taken(notebook: Path) -> set[tuple[str, str]]:
    """What a notebook imports of the package: (module, name)."""
    taken = set()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        source = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.split(".")[0] == "chapterlib":
                    taken |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                taken |= {
                    (alias.name, "")
                    for alias in node.names
                    if alias.name.split(".")[0] == "chapterlib"
                }
    return taken


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem
)
def test_notebooks_take_public_names_alone(notebook: Path) -> None:
    for module, name in names_taken(notebook):
        assert module == "chapterlib", f"{module} is deeper than the public names"
        assert name in chapterlib.__all__


PUBLIC = """
AG_NEWS Task get_settings PromptClassifier LabelScorer NeighborVote ProbeClassifier
FinetunedClassifier tasks prompts parsers models training metrics plots records costs
"""
ROOMS = "classifiers metrics models plots prompting reporting tasks training"


def test_the_public_names() -> None:
    assert sorted(chapterlib.__all__) == sorted(PUBLIC.split())
    for name in chapterlib.__all__:
        assert getattr(chapterlib, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        chapterlib.nothing  # noqa: B018


@pytest.mark.parametrize("room", ROOMS.split())
def test_each_room_has_what_its_face_promises(room: str) -> None:
    face = getattr(chapterlib, room, None) or sys.modules[f"chapterlib.{room}"]
    assert face.__doc__
    for name in face.__all__:
        assert getattr(face, name) is not None
        # Once imported, a module of that name would stand in the face's place.
        assert not (PACKAGE / room / f"{name}.py").exists()


def test_importing_the_package_and_its_help_load_no_torch() -> None:
    code = (
        "import sys, chapterlib; from chapterlib.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas'}\n"
        "print('loaded', heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "loaded set()" in done.stdout
    for command in ("model", "train", "measure", "records", "figure"):
        assert command in done.stdout
