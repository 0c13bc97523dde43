"""`distrl submit`, `ps`, `logs`, `scale`, `stop`: runs on a cluster or on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import print_json, print_table, say
from distrl.cli.status import Address, RunsDir

RunName = Annotated[str, typer.Argument(help="Name of the run.")]


def submit(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as examples/cartpole_ppo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change: samplers.count=16.")
    ] = None,
    address: Annotated[
        str, typer.Option(envvar="DISTRL_ADDRESS", help="The cluster's job server: http://HEAD:8265.")
    ] = "http://127.0.0.1:8265",
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    runs_dir: Annotated[str, typer.Option(help="On the cluster, where the run folder is made.")] = "~/distrl-runs",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest valid checkpoint.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show what the run prints until it ends.")] = False,
) -> None:
    """Submit a run to a Ray cluster with this project's code, your modules and the config."""
    from distrl.config.load import load_config
    from distrl.runtime.jobs.server import JobServer
    from distrl.runtime.plan.make import check_config

    words = list(overrides or []) + ([f"name={json.dumps(name)}"] if name else [])
    checked = check_config(load_config(config, words))
    job = JobServer(address).submit(checked, Path.cwd(), runs_dir, resume)
    say(f"submitted {job.run} as {job.id}.")
    say(f"distrl status {job.run} --address {address}  shows it; logs, scale and stop take the same words.")
    if follow:
        _print_until_end(job.run, address)


def ps(
    address: Address = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, for programs.")] = False,
) -> None:
    """List runs."""
    from distrl.runtime.jobs.runs import is_local

    rows = _folders(runs_dir) if is_local(address) else _jobs(str(address))
    if as_json:
        print_json(rows)
    else:
        print_table(("run", "state", "began", "where"), [tuple(row.values()) for row in rows])


def _folders(runs_dir: Path) -> list[dict[str, str]]:
    from distrl.runtime.commands.files import FolderRun
    from distrl.runtime.jobs.runs import run_folders

    rows = []
    for folder in run_folders(runs_dir):
        record = FolderRun(folder).status()
        began = (folder / "config.yaml").stat().st_mtime
        state = record["state"] if record else "no status"
        rows.append({"run": folder.name, "state": state, "began": _date(began), "where": str(folder)})
    return rows


def _jobs(address: str) -> list[dict[str, str]]:
    from distrl.runtime.jobs.server import JobServer

    rows = []
    for job in JobServer(address).runs():
        where = job.id or "started with distrl train"
        rows.append({"run": job.run, "state": job.status.lower(), "began": _date(job.began), "where": where})
    return rows


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def logs(
    run: RunName,
    address: Address = None,
    runs_dir: RunsDir = Path("runs"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """Show what a run has printed (on a cluster) or written to its log (on this machine)."""
    from distrl.runtime.jobs.runs import is_local, run_folder

    if is_local(address):
        _print_log(run_folder(run, runs_dir), follow)
    elif follow:
        _print_until_end(run, str(address))
    else:
        from distrl.runtime.jobs.server import JobServer

        print(JobServer(str(address)).logs(run), end="")


def _print_log(folder: Path, follow: bool) -> None:
    from distrl.runtime.commands.files import FolderRun

    file, run = folder / "log.txt", FolderRun(folder)
    with open(file, encoding="utf-8", errors="replace") as text:
        while True:
            record = run.status()  # before the text is read: what is written last is not missed
            print(text.read(), end="", flush=True)
            if not follow or record is None or record["state"] != "running":
                return
            time.sleep(0.5)


def _print_until_end(run: str, address: str) -> None:
    """Show a job's output; exit with 1 where the run failed."""
    from distrl.runtime.jobs.server import JobServer

    server = JobServer(address)
    try:
        for text in server.follow(run):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        say(f"the run continues; distrl logs {run} --address {address} --follow  shows it again.")
        return
    if server.find(run).status == "FAILED":
        raise typer.Exit(1)


def scale(
    run: RunName,
    samplers: Annotated[int, typer.Option(min=1, help="How many; at most as many as the run has streams.")],
    address: Address = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Change the number of samplers of a running run; batches and seeds stay the same."""
    from distrl.runtime.commands.files import Command
    from distrl.runtime.jobs.runs import open_run

    say(f"{run}: {open_run(run, address, runs_dir).send(Command('scale', samplers))}")


def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="At once, without a further checkpoint.")] = False,
    address: Address = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """Stop a run with a checkpoint, from which --resume continues."""
    from distrl.base.errors import ResourceError
    from distrl.runtime.commands.files import Command
    from distrl.runtime.jobs.runs import is_job_server, open_run

    found = open_run(run, address, runs_dir)
    try:
        say(f"{run}: {found.send(Command('stop_now' if now else 'stop'))}")
    except ResourceError as error:
        if not (now and is_job_server(address)):
            raise
        from distrl.runtime.jobs.server import JobServer

        JobServer(str(address)).end(run)
        say(f"{run} did not answer ({error.problem}); the job server ends its processes.")
