"""The run folder: all files of a run, never overwritten. See docs/monitoring.md."""

from __future__ import annotations

import os
import platform
import time
from itertools import count
from pathlib import Path

from distrl import __version__
from distrl.base.errors import UserError
from distrl.base.files import read_json, to_json, write_atomic
from distrl.config.load import dump_config, load_config
from distrl.config.schema import RunConfig


class RunFolder:
    """`runs/NAME/`."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best = path / "best"
        self.live_ledger = path / "ledger.live"

    @classmethod
    def create(cls, runs_dir: str | Path, config: RunConfig) -> RunFolder:
        path = Path(runs_dir) / config.name
        if path.exists() and any(path.iterdir()):
            number = next(number for number in count(2) if not path.with_name(f"{path.name}-{number}").exists())
            fix = f"Continue it with --resume, or take another name: --name {path.name}-{number}."
            raise UserError(f"the run folder {path} exists; a run is never overwritten.", fix)
        folder = cls(path)
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        folder.save_config(config)
        return folder

    @classmethod
    def open(cls, runs_dir: str | Path, name: str) -> RunFolder:
        path = Path(runs_dir) / name
        if not (path / "config.yaml").is_file():
            known = sorted(p.parent.name for p in Path(runs_dir).glob("*/config.yaml"))
            problem = f"no run {name!r} in {Path(runs_dir)} to resume; there are: {', '.join(known) or 'none'}."
            raise UserError(problem, "Start it without --resume.")
        return cls(path)

    def config(self) -> RunConfig:
        return load_config(self.path / "config.yaml")

    def save_config(self, config: RunConfig) -> None:
        write_atomic(self.path / "config.yaml", dump_config(config))

    def attempts(self) -> list[dict[str, object]]:
        file = self.path / "attempts.json"
        return read_json(file) if file.is_file() else []

    def begin_attempt(self, resumed_from: str | None) -> int:
        """Record a new attempt; return its number, from 1."""
        attempts = self.attempts()
        started, host = time.strftime("%Y-%m-%dT%H:%M:%S%z"), platform.node()
        facts = {"resumed_from": resumed_from, "pid": os.getpid(), "host": host, "versions": versions()}
        attempts.append({"attempt": len(attempts) + 1, "started": started, **facts})
        write_atomic(self.path / "attempts.json", to_json(attempts, indent=1))
        return len(attempts)


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    from importlib.metadata import version

    names = ("torch", "numpy", "gymnasium", "ray")
    return {"distrl": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
