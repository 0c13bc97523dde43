"""The working directory of a job: this package, the user's code, and the config.

Ray unpacks it on every node of the job and puts it first on the import path. Nothing is installed there: torch and the
other packages are the node's (`versions.py` compares them).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distrl
from distrl.base.errors import ConfigError, ResourceError
from distrl.base.files import to_json
from distrl.config.load import dump_config
from distrl.config.schema import RunConfig
from distrl.runtime.run.folder import versions

CONFIG_FILE = "run.yaml"
SUBMITTER_FILE = "submitter.json"
WEIGHTS_FILE = "init_from.safetensors"
MAX_BYTES = 100 * 2**20  # Ray's limit
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv", "runs")
_REFERENCE = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")  # module:Class


def fill(folder: Path, config: RunConfig, here: Path) -> RunConfig:
    """Fill a folder with the job's files, the user's from `here`; return the adapted config."""
    ship_package(folder)
    imports = [ship_import(folder, entry, here) for entry in config.imports]
    for module in sorted(set(own_modules(config.model_dump(mode="json"), here))):
        ship_module(folder, here, module)
    changes: dict[str, Any] = {"imports": imports, "ray": config.ray.model_copy(update={"address": "auto"})}
    if config.init_from and (here / config.init_from).exists():  # else the path is one on the cluster
        from distrl.deploy.policy_file import find_policy

        shutil.copy(find_policy(here / config.init_from), folder / WEIGHTS_FILE)
        changes["init_from"] = WEIGHTS_FILE
    shipped = config.model_copy(update=changes)
    (folder / CONFIG_FILE).write_text(dump_config(shipped))
    (folder / SUBMITTER_FILE).write_text(to_json(versions()))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_BYTES:
        raise ResourceError(
            f"the job's files are {size / 2**20:.0f} MiB; Ray takes at most {MAX_BYTES / 2**20:.0f} MiB.",
            "Put large files on a disk that the cluster sees, and name them by their full path there.",
        )
    return shipped


def ship_package(folder: Path) -> None:
    """Copy this package with its metadata, as in a wheel."""
    source = Path(distrl.__file__).parent
    shutil.copytree(source, folder / "distrl", ignore=_IGNORED)
    about = folder / f"distrl-{distrl.__version__}.dist-info"
    about.mkdir()
    found = importlib.metadata.distribution("distrl")
    text = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
    (about / "METADATA").write_text(text)


def ship_import(folder: Path, entry: str, here: Path) -> str:
    """Copy one entry of `imports`; return its name there."""
    if entry.endswith(".py"):
        source = here / entry
        if not source.is_file():
            raise ConfigError(f"imports: no file {entry!r}.", "Give a path relative to where you submit from.")
        inside = source.resolve().is_relative_to(here.resolve())
        name = source.resolve().relative_to(here.resolve()) if inside else Path(source.name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
        return name.as_posix()
    ship_module(folder, here, entry.split(".")[0])
    return entry


def own_modules(value: object, here: Path) -> Iterator[str]:
    """Yield the modules that a value of the config names as `module:Class`."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from own_modules(key, here)
            yield from own_modules(child, here)
    elif isinstance(value, list):
        for child in value:
            yield from own_modules(child, here)
    elif isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
        yield match[1]


def ship_module(folder: Path, here: Path, module: str) -> None:
    """Copy a module or package of the present folder; others must be installed on the nodes."""
    file, package = here / f"{module}.py", here / module
    if (folder / module).exists() or (folder / f"{module}.py").exists():
        return
    if package.is_dir() and any(package.glob("*.py")):
        shutil.copytree(package, folder / module, ignore=_IGNORED)
    elif file.is_file():
        shutil.copy(file, folder / file.name)
    elif importlib.util.find_spec(module) is None:
        raise ConfigError(f"no module {module!r}, neither in {here} nor installed.", "Check the name in the config.")
