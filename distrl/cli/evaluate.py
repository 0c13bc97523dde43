"""`distrl eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distrl.cli.output import print_json, print_sections, say


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, a checkpoint folder or a policy.safetensors.")],
    episodes: Annotated[int | None, typer.Option(min=1, help="How many; by default as in the run's config.")] = None,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw actions, not the most likely ones.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the episodes; by default the run's.")] = None,
    video: Annotated[Path | None, typer.Option(help="Record the first episode to this .mp4 or .gif file.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="A key of the env section to change: kwargs.x=1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A result for programs.")] = False,
) -> None:
    """Play whole episodes with a trained policy; a language model answers held-out items of its task."""
    from distrl.base.registry import import_user_code
    from distrl.config.load import load_config
    from distrl.deploy.evaluate import Evaluator
    from distrl.deploy.policy_file import SavedPolicy, find_policy
    from distrl.deploy.video import check_video

    if video is not None:
        check_video(video)
    file = find_policy(checkpoint)
    saved = SavedPolicy.read(file)
    saved.config = config = load_config(saved.config, [f"env.{word}" for word in env or []])
    import_user_code(config.imports)
    if config.language is not None:
        from distrl.cli.evaluate_language import evaluate_text

        evaluate_text(saved, file, episodes, stochastic, seed, as_json)
        return
    count = episodes or config.eval.episodes
    used = config.seed if seed is None else seed
    check_spaces(saved)
    evaluator = Evaluator(config.environment, min(count, 16), used)
    result = evaluator.evaluate(saved.build(), count, deterministic=not stochastic)
    shown: dict[str, Any] = {
        "policy": str(file),
        "env": config.environment.id,
        "episodes": count,
        "seed": used,
        "actions": "drawn" if stochastic else "most likely",
        "return_mean": result.mean,
        "return_std": result.std,
        "return_min": min(result.returns),
        "return_max": max(result.returns),
        "length_mean": sum(result.lengths) / count,
    }
    if as_json:
        print_json({**shown, **saved.facts, "returns": result.returns, "lengths": result.lengths})
    else:
        rows = {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in shown.items()}
        print_sections({"evaluation": rows})
    if video is not None:
        from distrl.deploy.agent import Agent
        from distrl.deploy.video import record

        total = record(Agent(saved, seed=used), video, seed=used, deterministic=not stochastic)
        say(f"wrote {video}: one episode, return {total:.2f}")


def check_spaces(saved: Any) -> None:
    """The environment, perhaps changed by `--env`, must still have the policy's spaces.

    Raises:
        CheckpointError: It has others.
    """
    from distrl.control.envs.make import make_env
    from distrl.control.envs.spaces import require_same

    env = make_env(saved.config.environment)
    try:
        require_same(saved.observation_space, env.observation_space, "observation")
        require_same(saved.action_space, env.action_space, "action")
    finally:
        env.close()
