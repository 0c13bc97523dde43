"""`train`: a run from config to summary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distrl.base.files import to_json, write_atomic
from distrl.base.phases import Phases
from distrl.config.load import dump_config, load_config, resume_allowed
from distrl.config.schema import RunConfig
from distrl.deploy.policy_file import SavedPolicy
from distrl.monitor.monitor import Monitor, ResumePoint
from distrl.runtime.backends.head_watch import HeadWatch
from distrl.runtime.commands.control import Control, FolderMailbox, Mailbox
from distrl.runtime.loop.loop import Loop
from distrl.runtime.loop.watchdog import Watchdog, first_steps
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.make import check_config, make_plan
from distrl.runtime.protocol.backend import Backend
from distrl.runtime.run.callbacks import load_callbacks
from distrl.runtime.run.checkpoint import CheckpointStates, list_checkpoints, newest_valid
from distrl.runtime.run.folder import RunFolder


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    overrides: Sequence[str] = (),
    *,
    runs_dir: str | Path = "runs",
    resume: bool = False,
) -> dict[str, Any]:
    """Train, and return the summary; an interrupt writes a checkpoint and raises.

    Args:
        config: Path of a YAML file, a nested dict, or a `RunConfig`.
        overrides: Such as `algorithm.gamma=0.9`.
        resume: Continue the run of this name from its newest valid checkpoint, or from the start without one.
    """
    checked = check_config(load_config(config, overrides))
    if resume:
        folder = RunFolder.open(runs_dir, checked.name)
        resume_allowed(check_config(folder.config()), checked)
        if list_checkpoints(folder.checkpoints):
            _, states, problems = newest_valid(folder.checkpoints)
            return _run(checked_plan(checked), folder, states, problems)
    plan = checked_plan(checked)
    first = SavedPolicy.read(checked.init_from) if checked.init_from else None
    if not resume:
        folder = RunFolder.create(runs_dir, plan.config)
    return _run(plan, folder, None, [], first)


def checked_plan(config: RunConfig) -> Plan:
    """Make the plan; end the process if the environment hangs meanwhile."""
    with first_steps(config.env_or_task, config.samplers.timeout):
        return make_plan(config)


def _run(
    plan: Plan,
    folder: RunFolder,
    states: CheckpointStates | None,
    problems: list[str],
    first: SavedPolicy | None = None,
) -> dict[str, Any]:
    config, phases = plan.config, Phases()
    plan.folder = str(folder.path.absolute())
    folder.save_config(config)
    callbacks = load_callbacks(config.callbacks)
    resumed_from = str(states["folder"]) if states else None
    attempt = folder.begin_attempt(resumed_from)
    counters = states["progress"]["counters"] if states else None
    monitor = Monitor(
        folder.path,
        dump_config(config),
        config.logging,
        attempt,
        config.stop.steps,
        ResumePoint(counters["env_steps"], counters["version"], counters["wall_seconds"]) if counters else None,
        total_updates=config.stop.updates,
        target_return=config.stop.return_mean,
    )
    backend = loop = control = None
    state = "failed"
    try:
        for problem in problems:
            monitor.warn(f"skipped a checkpoint: {problem}")
        if attempt > 1 and not states:
            monitor.warn("no checkpoint was written before: the run starts from the beginning")
        monitor.event("resume" if states else "start", run=str(folder.path), checkpoint=resumed_from, attempt=attempt)
        with phases("start"):
            backend = make_backend(plan, phases)
        loop = Loop(plan, backend, folder, monitor, callbacks, phases)
        loop.saver.last_path = Path(resumed_from) if resumed_from else None
        control = loop.control = Control(open_mailboxes(plan, folder), attempt)
        with interruptible(loop):
            with phases("start"):
                loop.start(states, first.weights if first else None)
            concurrent = backend.concurrent
            with HeadWatch(backend.head(), monitor) if concurrent else Watchdog(loop, config.samplers.timeout):
                reason = loop.run()
        state = f"ended: {reason}"
        summary = loop.reporter.summary(reason, loop.saver.last_path, loop.saver.problem)
        write_atomic(folder.path / "summary.json", to_json(summary, indent=1))
        monitor.event("stop", reason=reason)
        for callback in callbacks:
            callback.on_end(loop, summary)
        monitor.close(summary)
        return summary
    except BaseException as error:
        state = f"failed: {error}" if isinstance(error, Exception) else "interrupted"
        raise
    finally:
        if loop is not None and control is not None:
            control.close(loop, state)
        monitor.close(None)
        if backend is not None:
            backend.close()


def make_backend(plan: Plan, phases: Phases) -> Backend:
    """Start the configured backend; Ray is imported only if it is used."""
    if plan.config.backend == "serial":
        from distrl.runtime.backends.serial import SerialBackend

        return SerialBackend(plan, phases)
    from distrl.runtime.backends.ray import RayBackend

    return RayBackend(plan)


def open_mailboxes(plan: Plan, folder: RunFolder) -> list[Mailbox]:
    """Open the channels for commands: the run folder, and on a shared cluster an actor."""
    boxes: list[Mailbox] = [FolderMailbox(folder.path)]
    if plan.config.backend == "ray" and plan.config.ray.address not in (None, "local"):
        from distrl.runtime.commands.control_actor import ActorMailbox

        boxes.append(ActorMailbox(plan.config.name))
    return boxes


@contextmanager
def interruptible(loop: Loop) -> Iterator[None]:
    """End the run at the next boundary on Ctrl-C or SIGTERM; at once on the second one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: object) -> None:
        if loop.state.interrupted:
            raise KeyboardInterrupt
        loop.state.interrupted = True
        loop.monitor.event("interrupt", signal=signal.Signals(number).name)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
