"""A hash of the code that can influence learning: comments, docstrings and layout do not count.

A learning result stays valid until this hash, or the hash of its config, changes.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distrl.base.files import to_json

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "distrl"

#: Every file of these rooms counts; of the others what the loop and the algorithm at hand import, near or far.
ROOMS = ("base",)
IMPORTED_ROOMS = (
    *("config", "experience", "functional", "models", "envs", "store"),
    *("algorithms", "samplers", "learner", "runtime"),
)
#: Where our own environments are; their ids begin with OWN_ENVS, and they are found by name and not imported.
ENVS, OWN_ENVS = "envs", "distrl/"
#: Files there that only text tasks are made of.
TEXT_ENVS = {
    f"envs/{name}.py"
    for name in (
        *("chat_tasks", "curricula", "drawn_task", "first_items", "prompt_files", "reasoning_gym_task", "sandbox"),
        *("sandbox_launch", "text_task", "tiny_tasks", "unit_test_harness", "unit_tests", "verifiers"),
    )
}
LOOP = "runtime/train.py"
#: The replay's files that the loop imports: they compute nothing for an algorithm that does not import OFF_POLICY.
OFF_POLICY = "algorithms/off_policy.py"
REPLAY = {"learner/replay_learner.py", "runtime/replays.py", "runtime/replay_actors.py", OFF_POLICY}
#: Files that compute nothing for a run whose replay is in one piece.
SHARDS = {"store/sharded.py", "runtime/replay_actors.py"}
#: Files that the loop imports and that compute nothing for a run whose `env.id` does not begin with TEXT_TASKS.
TEXT, TEXT_TASKS = {"runtime/text_plan.py", "envs/text_task.py"}, "text/"

#: Files of those rooms that check, explain, show, watch or keep, and change nothing that is computed.
SILENT = {
    "base/errors.py",
    "config/derive.py",
    "config/messages.py",
    "config/reference.py",
    # fields and their checks: the config hash has their values
    *(f"config/{name}.py" for name in ("derive_text", "language", "schema", "sections")),
    "envs/trial.py",
    *(f"runtime/{name}.py" for name in ("autoscale", "callbacks", "checkpoint", "cluster", "commands", "control")),
    *(f"runtime/{name}.py" for name in ("control_actor", "elastic", "folder", "saving", "shares", "status")),
    "runtime/slow.py",
    "runtime/watchdog.py",
    "samplers/clock.py",
}


def code_hash(
    algorithm: str, extra: Iterable[Path] = (), root: Path = REPOSITORY, env_id: str = "", sharded: bool = True
) -> str:
    """Hash of what a run with this algorithm computes with.

    Args:
        algorithm: `algorithm.name` of its config.
        env_id: `env.id`; with one of our own environments every file of their room counts.
        extra: Python files of the run's own (config key `imports`).
        root: The repository.
        sharded: Whether its replay may have several shards.
    """
    files = learning_files(algorithm, root, env_id, sharded)
    parts = [(path.relative_to(root).as_posix(), file_hash(path)) for path in files]
    parts += [(path.name, file_hash(path)) for path in sorted(extra)]
    return digest(parts)


def learning_files(algorithm: str, root: Path = REPOSITORY, env_id: str = "", sharded: bool = True) -> list[Path]:
    """Source files that can influence learning with this algorithm, sorted."""
    package = root / PACKAGE
    rooms = (*ROOMS, ENVS) if env_id.startswith((OWN_ENVS, TEXT_TASKS)) else ROOMS
    everywhere = {path for room in rooms for path in (package / room).rglob("*.py")}
    closed = set() if sharded else {package / name for name in SHARDS}
    algorithms = reached(algorithm_files(package / "algorithms", algorithm), root, closed)
    if package / OFF_POLICY not in algorithms:
        closed |= {package / name for name in REPLAY}
    if not env_id.startswith(TEXT_TASKS):
        closed |= {package / name for name in TEXT}
        everywhere -= {package / name for name in TEXT_ENVS}
    found = algorithms | reached([*everywhere, package / LOOP], root, closed)
    return sorted(found - {package / name for name in SILENT})


def algorithm_files(folder: Path, algorithm: str) -> list[Path]:
    """The file that registers an algorithm; where none does, the one of that name, or else all."""
    registered = re.compile(rf'@register\.algorithm\(\s*"{re.escape(algorithm)}"')
    files = sorted(folder.glob("*.py"))
    named = [file for file in files if file.stem == algorithm]
    return [file for file in files if registered.search(file.read_text())] or named or files


def reached(files: Iterable[Path], root: Path, closed: Collection[Path] = ()) -> set[Path]:
    """These files and what they import of `IMPORTED_ROOMS`, near or far, not through `closed` ones."""
    found, queue = set[Path](), list(files)
    while queue:
        path = queue.pop()
        found.add(path)
        queue += [file for file in imported_files(path, root) if file not in found and file not in closed]
    return found


@cache
def imported_files(path: Path, root: Path) -> frozenset[Path]:
    """Files of `IMPORTED_ROOMS` that a source file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            file = root.joinpath(*parts).with_suffix(".py")
            if parts[0] == PACKAGE and len(parts) > 2 and parts[1] in IMPORTED_ROOMS and file.is_file():
                found.add(file)
    return frozenset(found)


@cache
def file_hash(path: Path) -> str:
    """Hash of one source file's meaning."""
    return digest(meaning(path.read_text()))


def forget_files() -> None:
    """Read every file again from now on."""
    file_hash.cache_clear()
    imported_files.cache_clear()


def meaning(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [statement for statement in statements if not is_text(statement)])
    return ast.unparse(tree)


def is_text(statement: Any) -> bool:
    """Whether a statement is a bare string: a docstring, or a comment on an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def config_hash(config: Any, parts: Sequence[Any] = ()) -> str:
    """Hash of a checked run config and of whatever else belongs to the question.

    A key that is null counts as one that is not there, so new optional keys leave results valid.
    """
    return digest([without_nulls(config.model_dump(mode="json")), *parts])


def without_nulls(value: Any) -> Any:
    """Dicts without the keys that are None, at every depth."""
    if isinstance(value, dict):
        return {key: without_nulls(inside) for key, inside in value.items() if inside is not None}
    return [without_nulls(inside) for inside in value] if isinstance(value, list) else value


def digest(value: Any) -> str:
    """16 hexadecimal digits of SHA-256 over the value as JSON."""
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()[:16]
