"""`Monitor`: curves, events and the display of a run."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeGuard

import yaml

from distrl.config.sections.run import LoggingConfig
from distrl.monitor.console import PLAIN_SECONDS, make_console
from distrl.monitor.lines import LineFile
from distrl.monitor.system import System
from distrl.monitor.view import Goal, Speed, View, facts_text, flatten
from distrl.monitor.window import Window

if TYPE_CHECKING:
    from distrl.monitor.tensorboard import TensorBoard

# A window between two flushes lives in memory, so it is flushed at least once a minute.
LONGEST_WINDOW = 60.0
# Kinds of events that are shown in the terminal; the others are in log.txt and events.jsonl.
IMPORTANT = frozenset({"start", "scaled", "left", "resume", "stop", "target", "best", "interrupt", "warning", "error"})
RECENT_EVENTS = 12
_ALARMS = (
    "lost", "fail", "dead", "died", "hang", "restart", "non_finite", "refused", "quarantined", "waiting", "problem",
)  # fmt: skip


@dataclass(frozen=True)
class ResumePoint:
    """Counters of the checkpoint that an attempt resumes from."""

    env_steps: int
    update: int
    wall_s: float = 0.0


class Monitor:
    """Curves, events and the terminal of one attempt of one run.

    Args:
        run_dir: The run folder; must exist.
        config_text: The resolved config as YAML.
        attempt: Number of this attempt, from 1.
        resume_at: Counters to resume from; later points of earlier attempts are removed.
        total_steps, total_updates, target_return: Goal of the progress bar, the first that is given.
    """

    def __init__(
        self,
        run_dir: Path,
        config_text: str,
        options: LoggingConfig,
        attempt: int,
        total_steps: int | None = None,
        resume_at: ResumePoint | None = None,
        *,
        total_updates: int | None = None,
        target_return: float | None = None,
    ):
        # A second attempt without a checkpoint starts from zero.
        resume_at = resume_at or (ResumePoint(0, 0) if attempt > 1 else None)
        begin = resume_at or ResumePoint(0, 0)
        self._name, self._attempt, self._config_text = run_dir.name, attempt, config_text
        self._env_steps, self._update = begin.env_steps, begin.update
        self._goal = Goal(total_steps, total_updates, target_return)
        self._latest: dict[str, float] = {}
        self._facts: dict[str, object] = {}
        self._last_event = ""
        self._recent: deque[str] = deque(maxlen=RECENT_EVENTS)
        self._window, self._system = Window(), System()
        self._lock = threading.RLock()  # events may come from another thread than updates
        self._closed = False
        now = monotonic()
        self._zero = now - begin.wall_s
        self._speed = Speed(now, self._env_steps, self._update)
        self._flushed = (now, self._env_steps, self._update)
        self._measured_at = begin.update or -1
        self._every = min(options.every_seconds, LONGEST_WINDOW)
        self._next_flush, self._next_log = now + self._every, now

        self._console = make_console(options.console, self.view)
        # The first line comes after a second: a stalled run is seen at once.
        self._next_tick = now + min(self._console.seconds, 1.0)
        self._next = min(self._next_flush, self._next_tick)
        atexit.register(self._console.close)  # a crash must not leave the terminal without a cursor
        self._log = LineFile(run_dir / "log.txt", self._complain)
        self._events = LineFile(run_dir / "events.jsonl", self._complain)
        self._metrics = LineFile(
            run_dir / "metrics.jsonl", self._complain, keep=lambda line: line.get("update", 0) <= begin.update
        )
        self._board = self._make_board(run_dir, options, resume_at)
        self._texts = run_dir / "texts" / "newest.md"  # which the learner of a language model writes
        self._texts_at = self._texts_changed()

    def update(self, record: Mapping[str, float], env_steps: int, update: int) -> None:
        """Take the numbers of one update, of ended episodes or of an evaluation, by full tag."""
        now = monotonic()
        self._window.add(record, env_steps, update, now - self._zero)
        self._latest.update(record)
        if update >= self._update:
            self._env_steps, self._update = env_steps, update
        if now >= self._next:
            self._tick(now)

    def event(self, kind: str, **facts: object) -> None:
        """Record an event: events.jsonl, log.txt, TensorBoard; important ones in the terminal."""
        with self._lock:
            text = f"{kind} {facts_text(facts)}".strip()
            self._last_event = f"{datetime.now():%H:%M:%S} {text.splitlines()[0]}"
            self._recent.append(self._last_event)
            place = {"attempt": self._attempt, "update": self._update, "env_steps": self._env_steps}
            self._events.write_json({"time": time.time(), **place, "kind": kind, "facts": facts})
            self._write_log(text)
            if self._board:
                self._board.text("events", f"`{text}`", self._env_steps)
            if kind in IMPORTANT or any(alarm in kind for alarm in _ALARMS):
                self._console.line(text)

    def recent_events(self) -> list[str]:
        """Return the newest events, one line each, the newest last."""
        with self._lock:
            return list(self._recent)

    def status(self, **facts: object) -> None:
        """Set facts of the live display: values, and mappings of shares in [0, 1] (phases)."""
        self._facts = {**self._facts, **facts}

    def warn(self, text: str) -> None:
        """Record a warning."""
        self.event("warning", text=text)

    def flush(self) -> None:
        """Write what has been gathered; a checkpoint calls this, so that its curve is on disk too."""
        with self._lock:
            self._flush(monotonic())

    def view(self) -> View:
        """Return the present view of the run; safe to call from another thread."""
        now = monotonic()
        speed = self._speed.read(now)
        return View(
            self._env_steps, self._update, now - self._zero, *speed,
            latest=self._latest, facts=self._facts, last_event=self._last_event, goal=self._goal,
        )  # fmt: skip

    def close(self, summary: Mapping[str, object] | None = None) -> None:
        """Flush, show the summary, and close every file; a second call does nothing.

        `summary` is the content of `summary.json`; None when the attempt was cut short.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._flush(monotonic())
            self._write_log(self.view().one_line())
            self._console.close()
            atexit.unregister(self._console.close)
            if summary is not None:
                self._write_summary(summary)
            for sink in (self._board, self._metrics, self._events, self._log):
                if sink:
                    sink.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_board(self, run_dir: Path, options: LoggingConfig, resume_at: ResumePoint | None) -> TensorBoard | None:
        if not options.tensorboard:
            return None
        from distrl.monitor.tensorboard import TensorBoard  # a fifth of a second, only where it is wanted

        resume_env_steps = resume_at.env_steps if resume_at else None
        board = TensorBoard(run_dir / "tb", self._attempt, self._complain, resume_env_steps)
        board.text("config", f"```yaml\n{self._config_text.strip()}\n```", self._env_steps)
        board.flush()
        return board

    def _tick(self, now: float) -> None:
        with self._lock:
            self._speed.mark(now, self._env_steps, self._update)
            if now >= self._next_tick:
                self._next_tick = now + self._console.seconds
                self._console.tick()
            if now >= self._next_flush:
                self._flush(now)
            # The live display reads the speed mark, so it is renewed a few times a second.
            self._next = min(self._next_flush, self._next_tick, now + 0.25)

    def _flush(self, now: float) -> None:
        self._next_flush = now + self._every
        points = self._window.take()
        if not points:
            return
        newest = max(points, key=lambda point: point.update)
        # An evaluation comes late, at the steps of its weights: the clock's curves must not go back with it.
        if newest.update > self._measured_at:
            self._measured_at = newest.update
            own = {**self._rates(now), "time/wall_s": now - self._zero, **self._system.read()}
            # What the loop measured itself is nearer to the truth.
            newest.values.update({tag: value for tag, value in own.items() if tag not in newest.values})
        for point in points:
            place = {"env_steps": point.env_steps, "update": point.update, "wall_s": round(point.wall_s, 3)}
            self._metrics.write_json({**place, **point.values})
            if self._board:
                self._board.scalars(point.values, point.env_steps)
        if self._board:
            self._show_texts()
            self._board.flush()
        if now >= self._next_log:
            self._next_log = now + PLAIN_SECONDS
            self._write_log(self.view().one_line())

    def _show_texts(self) -> None:
        """Show the answers of a language model, when there are new ones."""
        changed = self._texts_changed()
        if self._board and changed not in (0, self._texts_at):
            self._texts_at = changed
            self._board.text("answers", self._texts.read_text(), self._env_steps)

    def _texts_changed(self) -> int:
        """Return the time of the last write in nanoseconds; 0 without a file."""
        try:
            return self._texts.stat().st_mtime_ns
        except OSError:
            return 0

    def _rates(self, now: float) -> dict[str, float]:
        begin, env_steps, update = self._flushed
        self._flushed = (now, self._env_steps, self._update)
        seconds = now - begin
        if seconds < 1e-3 or self._update == update:
            return {}
        return {
            "throughput/env_steps_per_s": (self._env_steps - env_steps) / seconds,
            "throughput/updates_per_s": (self._update - update) / seconds,
        }

    def _write_summary(self, summary: Mapping[str, object]) -> None:
        flat = flatten(summary)
        rows = [(name, f"{value:,.6g}" if isinstance(value, float) else f"{value}") for name, value in flat.items()]
        self._console.table(f"{self._name}: done", rows)
        for name, value in rows:
            self._write_log(f"summary {name} {value}")
        if self._board:
            numbers = {f"summary/{name}": float(value) for name, value in flat.items() if _is_number(value)}
            self._board.scalars(numbers, self._env_steps)
            self._board.hparams(flatten(yaml.safe_load(self._config_text) or {}), numbers, self._name)

    def _write_log(self, text: str) -> None:
        self._log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}")

    def _complain(self, text: str) -> None:
        # A sink can fail while this object is still being made, or while it writes a warning about another sink.
        self._console.line(f"warning: {text}")
        log = getattr(self, "_log", None)
        if log is not None:
            self._write_log(f"warning {text}")
        logging.getLogger("distrl").debug("sink closed: %s", text)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
