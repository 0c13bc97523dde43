"""Cells of the methods' bench: each language algorithm on one tiny task, equal tokens."""

from __future__ import annotations

from dataclasses import dataclass

from cells import Cell
from common import FOLDER, RESULTS, named
from records import Places

from distrl.base.registry import register
from distrl.language.algorithms.base import LanguageAlgorithm

PLACES = Places(RESULTS / "methods", FOLDER / ".cache" / "methods", RESULTS / "methods.md")
EXAMPLE, TASK = "tiny_pairs_grpo", "Two digits that sum to n"
#: Tokens of answers that every run learns from.
TOKENS = 60_000

#: One answer to each of 256 prompts, in place of 16 answers to each of 16.
ALONE = ("algorithm.group_size=1", "task.prompts=256")
COMPONENTS = ("algorithm.reward={components: {success: {}, form: {}}}",)
FAST = ("algorithm.learning_rate=3e-3",)
#: What a method needs besides its own defaults: its paper compares nothing within a prompt, or learns demonstrations.
OWN: dict[str, tuple[str, ...]] = {
    "reinforce": ALONE,
    "tbrm": ALONE,
    "a_star_po": ALONE,
    "sft": ALONE,
    "one_token_rollout": ALONE,
}
#: Further cells, which entries compare themselves with: name -> algorithm, words.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "grpo-reverse-kl": ("grpo", ("algorithm.divergence=k2", "algorithm.beta=0.01")),
    "grpo-two-rewards": ("grpo", COMPONENTS),
    "grpo-fast": ("grpo", FAST),
    "pipo-fast": ("pipo", FAST),
}


@dataclass(frozen=True)
class MethodCell(Cell):
    """One algorithm, or a variant of it.

    Attributes:
        algorithm: `algorithm.name`.
        entries: Numbers of its paper in the project's list of methods.
    """

    algorithm: str = ""
    entries: tuple[int, ...] = ()


def method_cells() -> list[MethodCell]:
    """All cells, by name; variants behind the others."""
    found = {m.name: m for m in register.methods("algorithm") if issubclass(m.target, LanguageAlgorithm)}
    cells = [_cell(name, name, OWN.get(name, ()), tuple(found[name].entries)) for name in sorted(found)]
    return cells + [_cell(name, algorithm, words, ()) for name, (algorithm, words) in VARIANTS.items()]


def _cell(name: str, algorithm: str, words: tuple[str, ...], entries: tuple[int, ...]) -> MethodCell:
    every_update = "logging.every_seconds=0.001"  # a point of the curves, however fast the machine is
    overrides = ("backend=serial", every_update, f"algorithm.name={algorithm}", *words)
    return MethodCell(
        name, TASK, name, EXAMPLE, None, TOKENS, overrides, minutes=0.7, algorithm=algorithm, entries=entries
    )


def chosen_cells(names: str | None) -> list[MethodCell]:
    """The cells that a comma-separated list names; all without one.

    Raises:
        UserError: Unknown name.
    """
    return named("method", names, {cell.name: cell for cell in method_cells()})
