"""Hash of the code that can influence learning, without comments, imports and paths.

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

#: What every run imports.
LOOP = "runtime/train.py"
#: Domain -> packages and modules that compute nothing for a run of the other domain.
DOMAINS = {
    "control": ("control", "runtime/plan/control.py", "runtime/plan/replay.py", "store/replay"),
    "language": ("language", "runtime/plan/language.py", "runtime/plan/sharded_language.py"),
}
#: Modules that no import names: our own environments, where one is used, and text tasks.
OWN_ENVS, ENVIRONMENTS, TASKS = "distrl/", "control/envs/library", "language/tasks"
#: What an algorithm without a replay does not use; it is recognized by the module that it does not import.
OFF_POLICY = "control/algorithms/off_policy.py"
REPLAY = (
    *("control/learner/replay_learner.py", "store/replay", OFF_POLICY),
    *("runtime/plan/replay.py", "runtime/backends/replay_actors.py"),
)
#: What a replay in one piece does not use.
SHARDS = ("store/replay/sharded.py", "runtime/backends/replay_actors.py")

#: Where a source file registers a method: its name.
REGISTRATION = re.compile(r'^(?:@register\.\w+|(?:\w+ = )?preset)\(\s*"([^"]+)"', re.MULTILINE)

#: Packages and modules that check, explain, show, save or watch, and change nothing that is computed.
SILENT = (
    *("cli", "monitor", "deploy", "control/envs/checker", "language/sandbox"),
    *("base", "config"),  # checks of keys: the config hash has their values
    *("learning/presets.py", "learning/support_watch.py", "language/learner/answer_files.py"),
    *("language/learner/warnings.py", "language/models/memory_estimate.py", "language/models/export.py"),
    *("control/samplers/clock.py", "language/samplers/clock.py"),
    *("runtime/commands", "runtime/jobs"),
    *(f"runtime/backends/{name}.py" for name in ("cluster", "head_watch", "stacks")),
    *(f"runtime/loop/{name}.py" for name in ("autoscale", "elastic", "reporting", "saving", "status")),
    *(
        "runtime/loop/slow_streams.py",
        "runtime/loop/time_shares.py",
        "runtime/loop/waits.py",
        "runtime/loop/watchdog.py",
    ),
    *(f"runtime/run/{name}.py" for name in ("callbacks", "checkpoint", "folder")),
)
#: Modules of those packages that compute.
COUNTED = ("base/columns.py", "base/pack.py", "base/seeds.py", "config/schedule.py")


def code_hash(
    algorithm: str,
    extra: Iterable[Path] = (),
    root: Path = REPOSITORY,
    env_id: str = "",
    sharded: bool = True,
    names: Collection[str] = (),
) -> str:
    """Hash the contents of an algorithm's modules, without their order and paths.

    Args:
        algorithm: `algorithm.name` of its config.
        extra: Python files of the run's own (config key `imports`).
        env_id: `env.id`; with one of our own environments all of them count.
        sharded: Whether its replay may have several shards.
        names: Strings of its config: the modules that register a method of such a name count.
    """
    files = [*learning_files(algorithm, root, env_id, sharded, names), *extra]
    return digest(sorted(file_hash(path, algorithm) for path in files))


def learning_files(
    algorithm: str, root: Path = REPOSITORY, env_id: str = "", sharded: bool = True, names: Collection[str] = ()
) -> list[Path]:
    """List the source files that can influence learning with this algorithm, sorted."""
    package = root / PACKAGE
    own = algorithm_files(package, algorithm)
    closed = [path for name, paths in DOMAINS.items() if name not in _domains(own, package) for path in paths]
    closed += SILENT if sharded else (*SILENT, *SHARDS)
    algorithms = reached(own, root, closed)
    if package / OFF_POLICY not in algorithms:
        closed += REPLAY
    by_name = [ENVIRONMENTS] if env_id.startswith(OWN_ENVS) else []
    by_name += [TASKS] if TASKS.split("/")[0] in _domains(own, package) else []
    named = [path for name in by_name for path in (package / name).rglob("*.py")]
    named += [path for name in names for path in registering(package).get(name, ())]
    return sorted(algorithms | reached([*named, package / LOOP], root, closed))


def _domains(files: Iterable[Path], package: Path) -> set[str]:
    return {path.relative_to(package).parts[0] for path in files}


def algorithm_files(package: Path, algorithm: str) -> list[Path]:
    """Find the file that registers an algorithm, else the one of that name, else all."""
    files = [file for domain in DOMAINS for file in sorted((package / domain / "algorithms").rglob("*.py"))]
    found = registering(package).get(algorithm, ())
    return [file for file in files if file in found] or [file for file in files if file.stem == algorithm] or files


@cache
def registering(package: Path) -> dict[str, set[Path]]:
    """Index the files that register methods: name -> files."""
    found: dict[str, set[Path]] = {}
    for file in sorted(package.rglob("*.py")):
        for name in REGISTRATION.findall(file.read_text()):
            found.setdefault(name, set()).add(file)
    return found


def reached(files: Iterable[Path], root: Path, closed: Collection[str] = ()) -> set[Path]:
    """Collect files and their imports, direct and indirect, outside of `closed` ones."""
    package = root / PACKAGE
    found, queue = set[Path](), [path for path in files if not _within(path, package, closed)]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue += [file for file in imported_files(path, root) if not _within(file, package, closed)]
    return found


def _within(path: Path, package: Path, names: Collection[str]) -> bool:
    places = _places(path, package)
    return not places.isdisjoint(names) and places.isdisjoint(COUNTED)


@cache
def _places(path: Path, package: Path) -> frozenset[str]:
    """A module and the packages that it is in, as posix paths."""
    relative = path.relative_to(package)
    return frozenset(place.as_posix() for place in (relative, *relative.parents))


@cache
def imported_files(path: Path, root: Path) -> frozenset[Path]:
    """Files of the package that a source file imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            place = root.joinpath(*module.split("."))
            if module.startswith(f"{PACKAGE}."):
                found |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return frozenset(found)


def file_hash(path: Path, algorithm: str = "") -> str:
    """Hash one source file's meaning, presets of other algorithms left out."""
    return _file_hash(path, algorithm if "preset(" in path.read_text() else "")


@cache
def _file_hash(path: Path, algorithm: str) -> str:
    return digest(meaning(path.read_text(), algorithm))


def forget_files() -> None:
    """Empty the caches of files."""
    _file_hash.cache_clear()
    imported_files.cache_clear()
    registering.cache_clear()


def meaning(source: str, algorithm: str = "") -> str:
    """Reduce Python source to its computation.

    Comments, docstrings, layout, imports, annotations of functions, facts of the registry, and presets other than
    those that `algorithm` is made of are left out.
    """
    tree = ast.parse(source)
    if algorithm:
        _drop_other_presets(tree, algorithm)
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [statement for statement in statements if not _is_silent(statement)])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.Call) and _registers(node):
            node.keywords = [word for word in node.keywords if word.arg not in ("paper", "entries", "line")]
    return ast.unparse(tree)


def _drop_other_presets(tree: ast.Module, algorithm: str) -> None:
    """Keep the preset of an algorithm and its base presets; all if none has its name."""
    presets = {statement: call for statement in tree.body if (call := _preset(statement)) is not None}
    names = {_variable(statement): statement for statement in presets}
    wanted = next((statement for statement, call in presets.items() if _first(call) == algorithm), None)
    if wanted is None:
        return
    kept: set[ast.stmt] = set()
    while wanted is not None and wanted not in kept:
        kept.add(wanted)
        base = next((word.value for word in presets[wanted].keywords if word.arg == "of"), None)
        wanted = names.get(base.id) if isinstance(base, ast.Name) else None
    tree.body = [statement for statement in tree.body if statement not in presets or statement in kept]


def _preset(statement: ast.stmt) -> ast.Call | None:
    """The call of `preset` that a statement consists of, if any."""
    call = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    return call if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "preset" else None


def _variable(statement: ast.stmt) -> str:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return targets[0].id if targets and isinstance(targets[0], ast.Name) else ""


def _first(call: ast.Call) -> object:
    return call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None


def _registers(call: ast.Call) -> bool:
    function = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    return isinstance(function, ast.Name) and function.id in ("register", "preset")


def _is_silent(statement: ast.AST) -> bool:
    """Recognize docstrings, comments on attributes, and imports."""
    if isinstance(statement, ast.If):
        return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def config_hash(config: Any, parts: Sequence[object] = ()) -> str:
    """Hash a checked run config and further values that belong to the question.

    A key that is null counts as absent, so new optional keys leave results valid.
    """
    return digest([without_nulls(config.model_dump(mode="json")), *parts])


def without_nulls(value: object) -> object:
    """Drop keys that are None, at every depth."""
    if isinstance(value, dict):
        return {key: without_nulls(inside) for key, inside in value.items() if inside is not None}
    return [without_nulls(inside) for inside in value] if isinstance(value, list) else value


def digest(value: object) -> str:
    """16 hexadecimal digits of SHA-256 over the value as JSON."""
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()[:16]


def strings(value: object) -> set[str]:
    """Collect the strings in nested lists and dicts."""
    if isinstance(value, dict | list):
        return set().union(*map(strings, value.values() if isinstance(value, dict) else value))
    return {value} if isinstance(value, str) else set()
