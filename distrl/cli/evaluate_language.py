"""`distrl eval` of a language model: held-out items of its task, greedily and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distrl.cli.output import print_json, print_sections, say


def evaluate_text(
    saved: Any, file: Path, episodes: int | None, stochastic: bool, seed: int | None, as_json: bool
) -> None:
    """Ask held-out items and print what came of them.

    Args:
        saved: A policy file's content.
        file: Where it lies.
        episodes: How many items; None: as in the run's config.
        stochastic: `returns` are those of sampled answers.
        seed: Of the sampled tokens; None: the run's.
        as_json: For programs.
    """
    from distrl.runtime.plan.language import make_text_plan

    if seed is not None:
        saved.config = saved.config.model_copy(update={"eval": saved.config.eval.model_copy(update={"seed": seed})})
    evaluator = make_text_plan(saved.config).build_evaluator()
    count = episodes or saved.config.eval.episodes
    result = evaluator.evaluate(saved.build(), count, deterministic=not stochastic)
    shown: dict[str, Any] = {
        "policy": str(file),
        "task": saved.config.text_task.name,
        "items": len(result.returns),
        "success, greedy": result.success["greedy"],
        "success, sampled": result.success["sampled"],
        **{f"reward {name}": value for name, value in result.parts.items()},
        "length_mean": sum(result.lengths) / len(result.lengths),
    }
    if as_json:
        lists = {"returns": result.returns, "lengths": result.lengths, "texts": result.texts}
        print_json({**shown, **saved.facts, **lists})
        return
    rows = {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in shown.items()}
    print_sections({"evaluation": rows})
    for prompt, answer, success in result.texts:
        say(f"[{success:.2f}] {prompt!s} -> {answer}")
