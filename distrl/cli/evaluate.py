"""`distrl eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrl.cli.output import print_json, print_sections, say

if TYPE_CHECKING:
    from distrl.config.schema import RunConfig
    from distrl.deploy.language.evaluate import ServedModel
    from distrl.deploy.policy_file import SavedPolicy
    from distrl.language.models.model import LanguageModel


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="A run folder, a checkpoint folder or a policy.safetensors; with --server also a config."),
    ],
    episodes: Annotated[int | None, typer.Option(min=1, help="How many; by default as in the run's config.")] = None,
    stochastic: Annotated[bool, typer.Option("--stochastic", help="Draw actions, not the most likely ones.")] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the episodes; by default the run's.")] = None,
    video: Annotated[Path | None, typer.Option(help="Record the first episode to this .mp4 or .gif file.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="A key of the env section to change: kwargs.x=1.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A key of the task section to change: kwargs.x=1.")] = None,
    server: Annotated[
        str | None, typer.Option(help="URL of an OpenAI-compatible server whose model answers instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A result for programs.")] = False,
) -> None:
    """Play episodes with a trained policy, or answer held-out items with a language model."""
    from distrl.base.errors import ConfigError
    from distrl.base.registry import import_user_code
    from distrl.config.load import load_config
    from distrl.deploy.policy_file import SavedPolicy, find_policy
    from distrl.deploy.video import check_video

    if video is not None:
        check_video(video)
    words = [f"env.{word}" for word in env or []] + [f"task.{word}" for word in task or []]
    if server is not None:
        if video is not None:
            raise ConfigError("--video records an environment; a server answers text.", "Leave out one of them.")
        _evaluate_served(server, checkpoint, words, episodes, stochastic, seed, as_json)
        return
    file = find_policy(checkpoint)
    saved = SavedPolicy.read(file)
    saved.config = load_config(saved.config, words)
    import_user_code(saved.config.imports)
    if saved.config.language is None:
        shown, lists = _evaluate_policy(saved, episodes, stochastic, seed)
    else:
        shown, lists = _evaluate_language(saved.config, saved.build(), episodes, stochastic, seed)
    shown = {"policy": str(file), **shown}
    _print(shown, saved.facts, lists, 2 if saved.config.language is None else 3, as_json)
    if video is not None:
        from distrl.deploy.agent import Agent
        from distrl.deploy.video import record

        used = saved.config.seed if seed is None else seed
        total = record(Agent(saved, seed=used), video, seed=used, deterministic=not stochastic)
        say(f"wrote {video}: one episode, return {total:.2f}")


def _print(
    shown: dict[str, object], facts: dict[str, object], lists: dict[str, list], digits: int, as_json: bool
) -> None:
    if as_json:
        print_json({**shown, **facts, **lists})
        return
    print_sections(
        {"evaluation": {name: f"{x:.{digits}f}" if isinstance(x, float) else x for name, x in shown.items()}}
    )
    for prompt, answer, success in lists.get("texts", []):
        say(f"[{success:.2f}] {prompt!s} -> {answer}")


def _evaluate_served(
    url: str, source: Path, words: list[str], episodes: int | None, stochastic: bool, seed: int | None, as_json: bool
) -> None:
    """Evaluate the model of a server on the task of a run or config.

    Raises:
        ConfigError: Not the task of a language model, or another tokenizer.
        ResourceError: The server does not answer.
    """
    from distrl.base.errors import ConfigError
    from distrl.base.registry import import_user_code
    from distrl.config.load import load_config
    from distrl.deploy.language.evaluate import ServedModel
    from distrl.deploy.policy_file import SavedPolicy
    from distrl.language.tasks.base import make_task

    is_config = source.suffix in (".yaml", ".yml")
    config = load_config(source if is_config else SavedPolicy.read(source).config, words)
    if config.language is None:
        raise ConfigError(f"{source} has no task of language models; a server cannot play {config.env_or_task}.")
    import_user_code(config.imports)
    alphabet = make_task(config.text_task.name, config.text_task.kwargs).alphabet
    model = ServedModel.connect(url, config.language, alphabet)
    shown, lists = _evaluate_language(config, model, episodes, stochastic, seed)
    _print({"server": url, **shown}, {}, lists, 3, as_json)


def _evaluate_policy(
    saved: SavedPolicy, episodes: int | None, stochastic: bool, seed: int | None
) -> tuple[dict[str, object], dict[str, list]]:
    """Play episodes; return the figures and the lists behind them."""
    from distrl.deploy.evaluate import Evaluator

    config = saved.config
    count, used = episodes or config.eval.episodes, config.seed if seed is None else seed
    check_spaces(saved)
    result = Evaluator(config.environment, min(count, 16), used).evaluate(saved.build(), count, not stochastic)
    shown = {
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
    return shown, {"returns": result.returns, "lengths": result.lengths}


def _evaluate_language(
    config: RunConfig, model: LanguageModel | ServedModel, episodes: int | None, stochastic: bool, seed: int | None
) -> tuple[dict[str, object], dict[str, list]]:
    """Answer held-out items; return the figures and the lists behind them."""
    from distrl.runtime.plan.language import make_text_plan

    if seed is not None:
        config = config.model_copy(update={"eval": config.eval.model_copy(update={"seed": seed})})
    evaluator = make_text_plan(config).build_evaluator()
    result = evaluator.evaluate(model, episodes or config.eval.episodes, deterministic=not stochastic)
    shown = {
        "task": config.text_task.name,
        "items": len(result.returns),
        "success, greedy": result.success["greedy"],
        "success, sampled": result.success["sampled"],
        **{f"reward {name}": value for name, value in result.components.items()},
        "length_mean": sum(result.lengths) / len(result.lengths),
    }
    return shown, {"returns": result.returns, "lengths": result.lengths, "texts": result.texts}


def check_spaces(saved: SavedPolicy) -> None:
    """Check that the environment, perhaps changed by `--env`, still has the policy's spaces."""
    from distrl.control.envs.make import make_env
    from distrl.control.envs.spaces import require_same

    env = make_env(saved.config.environment)
    try:
        require_same(saved.observation_space, env.observation_space, "observation")
        require_same(saved.action_space, env.action_space, "action")
    finally:
        env.close()
