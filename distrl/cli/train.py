"""`distrl train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrl.cli.output import print_sections, say

if TYPE_CHECKING:
    from distrl.config.schema import RunConfig


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as examples/cartpole_ppo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change: env.num_envs=16.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; auto adds the next free number to the config's name.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where the run folder is made.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest valid checkpoint.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: local (start one), auto, HOST:PORT or ray://HOST:PORT.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print what follows, and stop.")] = False,
) -> None:
    """Train what a config describes."""
    from distrl.base.errors import UserError
    from distrl.config.load import load_config

    words = list(overrides or [])
    if address is not None:
        words.append(f"ray.address={'null' if address == 'local' else json.dumps(address)}")
    checked = load_config(config, words)  # before torch is imported: a misspelt key is answered at once
    if name == "auto":
        if resume:
            raise UserError("--name auto makes a new run, --resume continues one.", "Give the run's own name.")
        name = next_free(runs_dir, checked.name)
    if name is not None:
        words.append(f"name={json.dumps(name)}")
        checked = load_config(config, words)
    if dry_run:
        show_plan(checked)
        return
    run_folder = runs_dir / checked.name
    try:
        from distrl.runtime.train import train as run

        run(config, words, runs_dir=runs_dir, resume=resume)
    except KeyboardInterrupt:
        tell_how_to_resume(run_folder, _command(config, list(overrides or []), name, runs_dir, address))
        raise typer.Exit(130) from None
    say(f"distrl eval {run_folder}  plays the trained policy; distrl tensorboard {runs_dir}  shows the curves.")


def next_free(runs_dir: Path, name: str) -> str:
    """Return NAME-1, or the next number that no folder in `runs_dir` has."""
    number = 1
    while (runs_dir / f"{name}-{number}").exists():
        number += 1
    return f"{name}-{number}"


def tell_how_to_resume(run_folder: Path, command: str) -> None:
    """Print after Ctrl-C the newest checkpoint and the command that continues from it."""
    from distrl.runtime.run.checkpoint import list_checkpoints

    found = list_checkpoints(run_folder / "checkpoints")
    if found:
        say(f"interrupted; the checkpoint is {found[0]}. Continue with: {command} --resume")
    else:
        say("interrupted before the first update; there is no checkpoint, start again.")


def _command(config: Path, overrides: list[str], name: str | None, runs_dir: Path, address: str | None) -> str:
    import shlex

    words = ["distrl", "train", str(config), *overrides]
    words += ["--name", name] if name else []
    words += ["--runs-dir", str(runs_dir)] if runs_dir != Path("runs") else []
    words += ["--address", address] if address else []
    return shlex.join(words)


def show_plan(config: RunConfig) -> None:
    """Print the values derived from a config, without a run folder or Ray."""
    from distrl.config.derived import derive, value_text
    from distrl.control.envs.spaces import describe, nbytes
    from distrl.runtime.plan.base import pick_device
    from distrl.runtime.plan.make import make_plan
    from distrl.runtime.plan.replay import transition_bytes

    plan = make_plan(config)
    model = plan.build_model()
    policy, whole = (sum(p.numel() for p in part.parameters()) for part in (model.policy, model))
    cluster = os.cpu_count() if plan.config.ray.address is None else None
    replayed = transition_bytes(plan)
    derived = derive(plan.config, plan.algorithm_config, nbytes(plan.observation_space), whole, cluster, replayed)
    shown: dict[str, dict[str, object]] = {
        "environment" if plan.config.task is None else "task": {
            "id" if plan.config.task is None else "name": plan.config.env_or_task,
            "observation": describe(plan.observation_space),
            "action": describe(plan.action_space),
            "exact snapshots": "yes" if plan.snapshots else "no: a resumed run begins new episodes",
        },
        "networks": {
            "parameters": whole,
            "of them the policy's": policy,
            "learner's device": pick_device(plan.config.learner.device),
        },
        **derived,
    }
    print_sections(
        {
            title.removesuffix(" (bytes)"): {key: value_text(title, value) for key, value in values.items()}
            for title, values in shown.items()
        }
    )
    if cluster is None:
        say(f"CPUs of the cluster at {plan.config.ray.address} are not known: --dry-run starts no Ray.")
