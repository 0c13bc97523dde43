"""Runs as Ray jobs: submitted over HTTP, found by metadata, controlled by helper jobs.

A machine needs only the address of the cluster's job server (`http://HEAD:8265`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrl import __version__
from distrl.base.errors import ConfigError, ResourceError
from distrl.config.schema import RunConfig
from distrl.runtime.backends.cluster import RUN_KEY, token_missing
from distrl.runtime.commands.files import ANSWER_SECONDS, Command, Json
from distrl.runtime.jobs.entry import MARK
from distrl.runtime.jobs.shipment import CONFIG_FILE, fill

HELPER_KEY = "distrl_helper"
RUNS_DIR_KEY = "distrl_runs_dir"
RUNS_DIR = "~/distrl-runs"
HELPER = "python -m distrl.runtime.jobs.entry"
ACTIVE = ("PENDING", "RUNNING")
ENDING_SECONDS = 120.0  # a stopped run ends at its next update; a resumed submission waits for it
HELPER_SECONDS = 120.0  # to start a process on the head and connect, in addition to the command


@dataclass(frozen=True)
class RunJob:
    """A job of a run on the job server."""

    run: str
    id: str | None  # submission id; None for a run started with `distrl train` on the cluster
    status: str  # PENDING, RUNNING, SUCCEEDED, STOPPED or FAILED
    began: float  # Unix time
    ended: float | None
    message: str
    runs_dir: str
    runtime_env: Json

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


class JobServer:
    """A cluster's job server at `http://HOST:8265`, or at an address that `ray.init` takes."""

    def __init__(self, address: str):
        self.address = address
        self.client = _client(address)

    def submit(self, config: RunConfig, here: Path, runs_dir: str = RUNS_DIR, resume: bool = False) -> RunJob:
        """Submit a run, with the user's files in `here`; `runs_dir` is a path on the cluster."""
        if config.backend != "ray":
            raise ConfigError(f"backend is {config.backend}; a job runs on Ray.", "Set backend=ray.")
        until = time.monotonic() + (ENDING_SECONDS if resume else 0.0)
        while any(job.active for job in self.runs() if job.run == config.name):
            if time.monotonic() < until:
                time.sleep(0.5)
                continue
            raise ConfigError(
                f"a run named {config.name!r} is active on this cluster.",
                f"Take another name, or end it first: distrl stop {config.name} --address {self.address}.",
            )
        with tempfile.TemporaryDirectory(prefix="distrl-job-") as folder:
            shipped = fill(Path(folder), config, here)
            job_id = self.client.submit_job(
                entrypoint=entrypoint(runs_dir, resume),
                submission_id=f"distrl-{config.name}-{int(time.time() * 1000)}",
                runtime_env={"working_dir": folder},
                metadata={RUN_KEY: shipped.name, RUNS_DIR_KEY: runs_dir, "distrl_version": __version__},
            )
        return next(job for job in self.runs() if job.id == job_id)

    def runs(self) -> list[RunJob]:
        """Return the runs known to the cluster, newest first."""
        found = [_run_job(job) for job in self.client.list_jobs() if RUN_KEY in (job.metadata or {})]
        return sorted(found, key=lambda job: job.began, reverse=True)

    def find(self, run: str) -> RunJob:
        runs = self.runs()
        for job in runs:
            if job.run == run:
                return job
        names = ", ".join(sorted({job.run for job in runs})) or "none"
        raise ConfigError(f"no run named {run!r} at {self.address}.", f"There are: {names}.")

    def logs(self, run: str) -> str:
        return self.client.get_job_logs(self._submitted(run))

    def follow(self, run: str) -> Iterator[str]:
        """Yield the output of a run until it ends."""
        return self._tail(self._submitted(run))

    def end(self, run: str) -> None:
        """Kill a run's processes through the job server."""
        self.client.stop_job(self._submitted(run))

    def _submitted(self, run: str) -> str:
        job = self.find(run)
        if job.id is None:
            problem = f"{run} was started with distrl train, not submitted: the job server has no output of it."
            raise ConfigError(problem, "See log.txt in its run folder.")
        return job.id

    def status(self, run: str) -> Json | None:
        """Return the status of an active run; None if there is none yet."""
        return self._ask(run, None, ANSWER_SECONDS).get("status") if self.find(run).active else None

    def send(self, run: str, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        self._require_active(run)
        return str(self._ask(run, command, seconds)["text"])

    def _require_active(self, run: str) -> None:
        """Raise with the last output of a run that has ended."""
        job = self.find(run)
        if job.active:
            return
        printed = self.client.get_job_logs(job.id).strip().splitlines() if job.id else []
        last = ([line for line in printed if line.startswith("error:")] or printed or [""])[-1]
        raise ConfigError(
            f"the run {run} is not active: {job.status}. Last output: {last}",
            f"distrl logs {run} --address {self.address}  shows its whole output.",
        )

    def watch(self, run: str) -> Iterator[Json]:
        """Yield the status every second until the run ends."""
        helper = self._help(run, "watch")
        try:
            waiting = ""
            for text in self._tail(helper):
                *lines, waiting = (waiting + text).split("\n")
                for answer in _answers(lines):
                    if answer.get("status"):
                        yield answer["status"]
        finally:
            with suppress(RuntimeError):
                self.client.stop_job(helper)

    def _ask(self, run: str, command: Command | None, seconds: float) -> Json:
        words = [] if command is None else ["--command", json.dumps(asdict(command))]
        helper = self._help(run, "ask", *words)
        deadline = time.monotonic() + seconds + HELPER_SECONDS
        while time.monotonic() < deadline:
            if self.client.get_job_status(helper).is_terminal():
                break
            time.sleep(0.2)
        logs = self.client.get_job_logs(helper)
        for answer in _answers(logs.splitlines()):
            if "problem" in answer:
                self._require_active(run)
                raise ConfigError(answer["problem"], answer["fix"])
            return answer
        raise ResourceError(f"the cluster did not answer for {run}: {logs[-500:]}", "See ray status on the head.")

    def _help(self, run: str, *words: str) -> str:
        """Start a helper job with the run's code, and delete old ones."""
        for old in self.client.list_jobs():
            if HELPER_KEY in (old.metadata or {}) and time.time() - (old.end_time or 1e15) / 1000 > HELPER_SECONDS:
                with suppress(RuntimeError):  # deleted by another machine
                    self.client.delete_job(old.submission_id)
        env = {name: value for name, value in self.find(run).runtime_env.items() if name == "working_dir"}
        what, *rest = words
        entry = f"{HELPER} {what} {shlex.join([run, *rest])}"
        return str(self.client.submit_job(entrypoint=entry, runtime_env=env, metadata={HELPER_KEY: run}))

    def _tail(self, job_id: str) -> Iterator[str]:
        """Yield the items of the asynchronous iterator of Ray's client."""
        events = asyncio.new_event_loop()
        try:
            texts = self.client.tail_job_logs(job_id)
            while True:
                try:
                    yield events.run_until_complete(anext(texts))
                except StopAsyncIteration:
                    return
        finally:
            events.run_until_complete(events.shutdown_asyncgens())
            events.close()


def entrypoint(runs_dir: str, resume: bool) -> str:
    """Return the job's command line: check the node, then train.

    >>> entrypoint("~/my runs", resume=True)
    "python -m distrl.runtime.jobs.entry check && python -m distrl train run.yaml --runs-dir ~/'my runs' --resume"
    """
    home, slash, rest = runs_dir.partition("/")
    path = f"~/{shlex.quote(rest)}" if home == "~" and slash else shlex.quote(runs_dir)
    train = f"python -m distrl train {CONFIG_FILE} --runs-dir {path}" + " --resume" * resume
    return f"{HELPER} check && {train}"


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise token_missing(f"the job server at {address}") from None
    except (RuntimeError, ConnectionError, ValueError, OSError) as error:
        if "ray[default]" in str(error):
            raise ResourceError("this Ray has no job client.", "pip install 'distrl[cluster]'") from None
        raise ResourceError(
            f"could not reach a job server at {address}: {str(error).splitlines()[0]}",
            "Give --address http://HEAD:8265 (with RAY_AUTH_MODE=token if the cluster requires a token).",
        ) from None


def _answers(lines: list[str]) -> Iterator[Json]:
    for line in lines:
        if line.startswith(MARK):
            yield json.loads(line.removeprefix(MARK))


def _run_job(job: Any) -> RunJob:
    return RunJob(
        run=job.metadata[RUN_KEY],
        id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        began=(job.start_time or 0) / 1000,
        ended=job.end_time / 1000 if job.end_time else None,
        message=job.message or "",
        runs_dir=job.metadata.get(RUNS_DIR_KEY, ""),
        runtime_env=dict(job.runtime_env or {}),
    )
