"""Chain of a language-model algorithm, from reward to aggregation.

Every component is a registered pure function. Its positional parameters are *columns of the batch, by name*; its
keyword-only parameters are *options of the config*, or numbers that the run supplies, such as an entropy. So a
component is called on a batch without glue:

    grpo(reward, group, *, ddof=1, eps=1e-6, ...)        # reads reward, group; takes ddof, eps, ...

`docs/internals.md` lists components and columns. A mean over nothing is zero, and what the mask hides is never read.

An algorithm with columns of its own overrides hooks of `LanguageAlgorithm`: `add_columns` once per batch,
`add_loss_weights` once per minibatch, `forward` and `loss` per micro-batch; `tbrm.py` is an example.

**Unit of a statistic.** Where an episode is trained as several rows (turns whose prompts were rewritten), every row
carries the episode's reward, and a mean over rows would count long episodes more often. `unit: episode` computes an
advantage on one row of each episode and gives the result to all its rows; `unit: row` is the default.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.language.chain.aggregation import aggregate, group_loss_mean, row_mean
from distrl.language.chain.component import Component, ComponentConfig, component
from distrl.language.chain.groups import Groups

#: Plug points of the objective and the level of their losses.
LOSS_LEVELS = {"token_loss": "token", "row_loss": "row", "group_loss": "group"}


@dataclass(frozen=True)
class Objective:
    """Objective with correction, divergence and aggregation.

    Attributes:
        objective: A token, row or group loss.
        level: `token`, `row` or `group`.
        aggregation: Weights of token losses; also of the divergence.
        correction: None: none. Only token losses can be corrected token by token.
    """

    objective: Component
    level: str
    aggregation: Component
    divergence: Component | None = None
    beta: float = 0.0
    correction: Component | None = None

    def reads(self) -> set[str]:
        """Return all columns that the components need."""
        parts = [self.objective, self.aggregation, self.divergence, self.correction]
        return {column for part in parts if part is not None for column in part.reads}

    def weights(self, minibatch: Columns) -> Columns:
        """Add `sum_weight` (N, L), and `row_weight` (N,) or a group's share, before the split."""
        minibatch = minibatch.with_(sum_weight=self.aggregation(minibatch))
        if self.correction is not None:
            minibatch = minibatch.with_(correction=self.correction(minibatch))
        if self.level == "row":
            return minibatch.with_(row_weight=row_mean(minibatch.mask))
        if self.level == "group":  # each row knows its group's weight, so a split between groups keeps it
            groups = Groups(minibatch.group)
            return minibatch.with_(row_weight=groups.spread(group_loss_mean(minibatch.group)))
        return minibatch

    def loss(self, batch: Columns) -> Tensor:
        """Compute the loss of a minibatch or micro-batch; micro-batches add up to the whole.

        Args:
            batch: Result of `weights`, or rows of it, with `logp` under the trained weights.
        """
        loss = self.objective(batch)
        if self.level == "token":
            total = aggregate(loss * batch.correction if "correction" in batch else loss, batch.sum_weight)
        elif self.level == "row":
            total = aggregate(loss, batch.row_weight)
        else:
            total = aggregate(loss, batch.row_weight[Groups(batch.group).first_rows()])
        if self.divergence is not None and self.beta:
            total = total + self.beta * aggregate(self.divergence(batch), batch.sum_weight)
        return total


def objective(
    word: ComponentConfig,
    aggregation: ComponentConfig = "token_mean",
    divergence: ComponentConfig | None = None,
    beta: float = 0.0,
    correction: ComponentConfig | None = None,
) -> Objective:
    """Build an objective from the configs of its components."""
    name = word if isinstance(word, str) else str(word.get("name"))
    known = {method.name: point for point in LOSS_LEVELS for method in register.methods(point)}
    if ":" not in name and name not in known:
        raise ConfigError(unknown("objective", name, known))
    plug_point = known.get(name, "token_loss")
    if correction is not None and plug_point != "token_loss":
        raise ConfigError(
            f"objective {name!r} gives one loss for each {LOSS_LEVELS[plug_point]}; a correction is for token losses.",
            "Leave the correction out.",
        )
    return Objective(
        component(plug_point, word),
        LOSS_LEVELS[plug_point],
        component("aggregation", aggregation),
        None if divergence is None else component("divergence", divergence),
        beta,
        None if correction is None else component("behavior_correction", correction),
    )
