"""Index of all registered methods as a page: `python -m distrl.config.methods_page [FILE]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from distrl.base.errors import ConfigError
from distrl.base.files import write_atomic
from distrl.base.registry import Method, register

INTRODUCTION = """\
# Methods

Made from the registry by `python -m distrl.config.methods_page`; edit the docstrings, not this page.

Every registered method with its paper and the config words that select it. `distrl methods` lists the same in a
terminal, [config.md](config.md) has every key, [authoring.md](authoring.md) shows how to add a method.
"""

#: Title of a section -> its plug points.
SECTIONS: dict[str, tuple[str, ...]] = {
    "Algorithms for environments": ("algorithm:control",),
    "Algorithms for language models": ("algorithm:language",),
    "Return distributions and risk measures": ("return_distribution", "risk"),
    "Bellman targets": ("next_action",),
    "Advantages and credit of language models": ("advantage", "credit"),
    "Losses of language models": ("token_loss", "row_loss", "group_loss"),
    "Corrections, divergences and aggregation": ("behavior_correction", "divergence", "aggregation"),
    "Rewards of language models": ("reward", "combination", "component_transform", "gate", "length_reward", "shaping"),
    "Tasks, verifiers and curricula": ("task", "verifier", "curriculum"),
    "Engines": ("engine",),
    "Torsos and wrappers": ("torso", "wrapper"),
    "Callbacks": ("callback",),
}

#: Plug point -> the config words that select its method `NAME`.
WORDS: dict[str, str] = {
    "algorithm": "algorithm: {name: NAME}",
    "return_distribution": "algorithm: {name: ppo, critic_head: NAME}",
    "risk": "algorithm: {name: ppo, critic_head: quantile, risk: NAME}",
    "next_action": "algorithm: {name: dqn, next_action: NAME}",
    "advantage": "algorithm: {name: grpo, advantage: NAME}",
    "credit": "algorithm: {name: ppo_tokens, credit: NAME}",
    "token_loss": "algorithm: {name: grpo, objective: NAME}",
    "row_loss": "algorithm: {name: grpo, objective: NAME}",
    "group_loss": "algorithm: {name: grpo, objective: NAME}",
    "behavior_correction": "algorithm: {name: grpo, old_logp: recompute, correction: NAME}",
    "divergence": "algorithm: {name: grpo, divergence: NAME, beta: 0.04}",
    "aggregation": "algorithm: {name: grpo, aggregation: NAME}",
    "reward": "algorithm: {name: ttrv, label_free: NAME}",
    "combination": "algorithm: {name: grpo, reward: {combination: NAME}}",
    "component_transform": "algorithm: {name: grpo, reward: {components: {success: {transform: NAME}}}}",
    "gate": "algorithm: {name: grpo, reward: {gates: [{name: NAME, on: success}]}}",
    "length_reward": "algorithm: {name: grpo, reward: {length: NAME}}",
    "shaping": "algorithm: {name: grpo, reward: {shaping: NAME}}",
    "task": "task: {name: NAME}",
    "verifier": "task: {name: file, kwargs: {path: data.jsonl, prompt: question, answer: answer, verifier: NAME}}",
    "curriculum": "language: {curriculum: {name: NAME, size: 1000}}",
    "engine": "language: {engine: NAME}",
    "torso": "model: {torso: NAME}",
    "wrapper": "env: {wrappers: [NAME]}",
    "callback": "callbacks: [NAME]",
}

#: Methods that need other words: (plug point, name) -> words.
OTHER_WORDS: dict[tuple[str, str], str] = {
    ("advantage", "dcpo_entropy"): "algorithm: {name: dcpo}",
    ("advantage", "pipo"): "algorithm: {name: pipo}",
    ("advantage", "riskpo_mvar"): "algorithm: {name: riskpo}",
    ("return_distribution", "joint"): "algorithm: {name: md3qn, head: NAME}",
}


def words(method: Method) -> str:
    """Return the config words that select a method, as a YAML flow mapping."""
    found = OTHER_WORDS.get((method.plug_point, method.name), WORDS.get(method.plug_point))
    if found is None:
        raise ConfigError(f"plug point {method.plug_point!r} has no config key.", "Add one to methods_page.WORDS.")
    return found.replace("NAME", method.name)


def render() -> str:
    """Render the page."""
    parts = [INTRODUCTION]
    methods = register.methods()
    for title, points in SECTIONS.items():
        chosen = [method for point in points for method in _of(methods, point)]
        if chosen:
            rows = "\n".join(_row(method) for method in chosen)
            parts.append(f"## {title}\n\n| name | method | paper | select with |\n|--|--|--|--|\n{rows}")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _of(methods: list[Method], point: str) -> Iterator[Method]:
    point, _, wing = point.partition(":")
    for method in methods:
        if method.plug_point == point and (not wing or method.target.__module__.startswith(f"distrl.{wing}.")):
            yield method


def _row(method: Method) -> str:
    cells = (f"`{method.name}`", method.line, method.paper, f"`{words(method)}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(path: str = "docs/methods.md") -> None:
    """Write the page."""
    write_atomic(Path(path), render())


if __name__ == "__main__":
    main(*sys.argv[1:2])
