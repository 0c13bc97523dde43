"""`train`: one run, from config to summary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distrl.base.phases import Phases
from distrl.config.load import dump_config, load_config, resume_allowed
from distrl.config.schema import RunConfig
from distrl.deploy.policy_file import SavedPolicy
from distrl.monitor.monitor import Monitor
from distrl.monitor.options import ResumePoint
from distrl.runtime.backends.head_watch import HeadWatch
from distrl.runtime.commands.control import Box, Control, FolderBox
from distrl.runtime.loop.loop import Loop
from distrl.runtime.loop.saving import Saver
from distrl.runtime.loop.watchdog import Watchdog, first_steps
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.make import check_config, make_plan
from distrl.runtime.protocol.backend import Backend
from distrl.runtime.run.callbacks import load_callbacks
from distrl.runtime.run.checkpoint import list_checkpoints, newest_valid
from distrl.runtime.run.folder import RunFolder


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Sequence[str] = (),
    *,
    runs_dir: str | Path = "runs",
    resume: bool = False,
) -> dict[str, Any]:
    """Train, and return the summary.

    Args:
        config: Path of a YAML file, a nested dict, or a `RunConfig`.
        overrides: Words like `algorithm.gamma=0.9`.
        runs_dir: Where the run folder is made.
        resume: Continue the run of this name from its newest valid checkpoint; from the start, if it had not come to
            one yet.

    Raises:
        UserError: Something you can mend; the message says what.
        KeyboardInterrupt: Interrupted, after a checkpoint.
    """
    checked = check_config(load_config(config, overrides))
    if resume:
        folder = RunFolder.open(runs_dir, checked.name)
        resume_allowed(check_config(folder.config()), checked)
        if list_checkpoints(folder.checkpoints):
            path, states, problems = newest_valid(folder.checkpoints)
            return _run(tried_plan(checked), folder, states, str(path), problems)
    plan = tried_plan(checked)
    first = SavedPolicy.read(checked.init_from) if checked.init_from else None
    if not resume:
        folder = RunFolder.create(runs_dir, plan.config)
    return _run(plan, folder, None, None, [], first)


def tried_plan(config: RunConfig) -> Plan:
    """`make_plan`, with an eye on an environment that hangs at its first steps."""
    with first_steps(config.env.id, config.samplers.timeout):
        return make_plan(config)


def _run(
    plan: Plan,
    folder: RunFolder,
    states: dict[str, Any] | None,
    resumed_from: str | None,
    problems: list[str],
    first: SavedPolicy | None = None,
) -> dict[str, Any]:
    """One attempt."""
    config, phases = plan.config, Phases()
    plan.folder = str(folder.path.absolute())
    folder.save_config(config)
    callbacks = load_callbacks(config.callbacks)
    attempt = folder.begin_attempt(resumed_from)
    counters = states["progress"]["counters"] if states else None
    monitor = Monitor(
        folder.path,
        dump_config(config),
        config.logging,
        attempt,
        config.stop.env_steps,
        ResumePoint(counters["env_steps"], counters["version"], counters["wall_seconds"]) if counters else None,
        total_updates=config.stop.updates,
        target_return=config.stop.return_mean,
    )
    backend = loop = None
    state = "failed"
    try:
        for problem in problems:
            monitor.warn(f"skipped a checkpoint: {problem}")
        if attempt > 1 and not states:
            monitor.warn("no checkpoint had been written yet: the run begins anew")
        monitor.event("resume" if states else "start", run=str(folder.path), checkpoint=resumed_from, attempt=attempt)
        with phases("start"):
            backend = make_backend(plan, phases)
        saver = Saver(plan, folder, monitor, callbacks, phases)
        saver.last_path = Path(resumed_from) if resumed_from else None
        loop = Loop(plan, backend, saver, monitor, callbacks, phases)
        loop.control = Control(open_boxes(plan, folder), attempt)
        with interruptible(loop):
            with phases("start"):
                loop.start(states, first.weights if first else None)
            guard: Any = Watchdog(loop, config.samplers.timeout)
            if backend.concurrent:
                guard = HeadWatch(backend.head(), monitor)
            with guard as loop.watchdog:
                reason = loop.run()
        state = f"ended: {reason}"
        summary = loop.summary(reason)
        folder.write_summary(summary)
        monitor.event("stop", reason=reason)
        callbacks.on_end(loop, summary)
        monitor.close(summary)
        return summary
    except BaseException as error:
        state = f"failed: {error}" if isinstance(error, Exception) else "interrupted"
        raise
    finally:
        if loop is not None and loop.control is not None:
            loop.control.close(loop, state)
        monitor.close(None)
        if backend is not None:
            backend.close()


def make_backend(plan: Plan, phases: Phases) -> Backend:
    """The back end that the config names. Ray is imported only where it is used."""
    if plan.config.backend == "serial":
        from distrl.runtime.backends.serial import SerialBackend

        return SerialBackend(plan, phases)
    from distrl.runtime.backends.ray import RayBackend

    return RayBackend(plan)


def open_boxes(plan: Plan, folder: RunFolder) -> list[Box]:
    """Where the run takes commands: its folder, and on a shared cluster an actor of its name.

    Raises:
        ConfigError: A run of this name is at work on the cluster.
    """
    boxes: list[Box] = [FolderBox(folder.path)]
    if plan.config.backend == "ray" and plan.config.ray.address not in (None, "local"):
        from distrl.runtime.commands.control_actor import ActorBox

        boxes.append(ActorBox(plan.config.name))
    return boxes


@contextmanager
def interruptible(loop: Loop) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) ends the run at the next boundary, with a checkpoint; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: Any) -> None:
        if loop.interrupted:
            raise KeyboardInterrupt
        loop.interrupted = True
        loop.monitor.event("interrupt", signal=signal.Signals(number).name)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
