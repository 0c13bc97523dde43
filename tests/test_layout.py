"""The layout of the tree: tests mirror the package, packages and files stay small, no import circle between files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE, TESTS = REPOSITORY / "distrl", REPOSITORY / "tests"
#: Folders of tests that belong to no package: whole runs are in tests/runtime, whatever they run.
APART = ("benchmarks", "cluster", "exact", "runtime", "support")
#: `test_every_X.py` is about all X of a package.
PACKAGE_WIDE = "every"
MOST_ENTRIES, MOST_LINES = 16, 400
#: First words of docstrings that are clauses and say not what a thing is or does.
CLAUSES = ("What", "Who", "Whose", "Whether", "How", "Which", "Where")
#: Ceilings of the whole package; they only go down.
MOST_CLAUSES, MOST_ANY_LINES = 60, 500


def sources() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


def entries(package: Path) -> list[str]:
    """Modules and packages in a package."""
    found = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return sorted(path.stem for path in found if path.stem != "__init__")


def packages() -> list[Path]:
    return [path.parent for path in sources() if path.name == "__init__.py"]


def test_tests_mirror_the_package() -> None:
    wrong = []
    for path in sorted(TESTS.rglob("test_*.py")):
        folder = path.parent.relative_to(TESTS)
        if folder.parts and folder.parts[0] not in APART:
            package = PACKAGE / folder
            names = [*entries(package), package.name, PACKAGE_WIDE] if package.is_dir() else []
            name = path.stem.removeprefix("test_")
            if not any(name == known or name.startswith(f"{known}_") for known in names):
                wrong.append(path.relative_to(REPOSITORY).as_posix())
    assert wrong == [], "name a test file after a module or package of distrl/ in the same place, or test_every_X.py"


def test_folders_of_tests_are_packages() -> None:
    folders = {path.parent for path in TESTS.rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_packages_are_small() -> None:
    sizes = {path.relative_to(REPOSITORY).as_posix(): len(entries(path)) for path in packages()}
    assert {name: size for name, size in sizes.items() if size > MOST_ENTRIES} == {}


def test_files_are_short() -> None:
    sizes = {path.relative_to(REPOSITORY).as_posix(): len(path.read_text().splitlines()) for path in sources()}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}


def test_no_import_circles() -> None:
    graph = grimp.build_graph("distrl", exclude_type_checking_imports=True)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert circles(imports) == []


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not: a module is left out once it imports no other."""
    left = {name: set(others) for name, others in imports.items()}
    for _ in range(2):  # from both ends
        while ends := {name for name, others in left.items() if not others & left.keys()}:
            left = {name: others for name, others in left.items() if name not in ends}
        left = {name: {other for other in left if name in left[other]} for name in left}
    return [sorted(left)] if left else []


@pytest.mark.parametrize(
    ("imports", "expected"),
    [({"a": {"b"}, "b": {"c"}, "c": set()}, []), ({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}, [["b", "c"]])],
)
def test_circles_are_found(imports: Mapping[str, set[str]], expected: list[list[str]]) -> None:
    assert circles(imports) == expected


def test_the_package_names_no_tests() -> None:
    named = [path for path in sources() if re.search(r"\btests=|\bfrom tests\b", path.read_text())]
    assert [path.relative_to(REPOSITORY).as_posix() for path in named] == []


def test_docstrings_say_what_things_are() -> None:
    clauses = [line for path in sources() for line in first_lines(path) if line.split(" ")[0] in CLAUSES]
    assert len(clauses) <= MOST_CLAUSES, clauses


def first_lines(path: Path) -> Iterator[str]:
    """First line of every docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield (ast.get_docstring(node) or "").split("\n")[0]


def test_types_are_said() -> None:
    lines = [line for path in sources() for line in path.read_text().splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in lines) <= MOST_ANY_LINES
