"""TBRM: the squared Bellman residual of whole answers."""

from __future__ import annotations

from pydantic import Field

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithmConfig
from distrl.language.algorithms.whole_vocabulary import WholeVocabulary
from distrl.language.chain.tokens import masked


class TBRMConfig(LanguageAlgorithmConfig):
    """TBRM: the squared Bellman residual of a whole answer."""

    group_size: int = Field(1, ge=1)
    """Answers to each prompt. The model's own value of the prompt is the baseline, so one is enough."""
    objective: ComponentConfig = {"name": "tbrm", "beta": 0.002}
    """(V(prompt) + log pi - reward / beta - log pi_ref)^2, summed along the answer. `beta` is what a nat away from the
    reference costs. Usual: 0.001-0.002 for long answers, 0.05-0.5 for short ones."""
    entropy_coef: float = Field(0.0, ge=0, le=0)
    """No bonus: entropy is in the equation, weighted by `beta` of the objective."""
    advantage: ComponentConfig = "reinforce"
    """Not read by the loss: shown in the curves."""


@register.algorithm("tbrm", paper="Trajectory Bellman Residual Minimization, 2025", entries=[65])
class TBRM(WholeVocabulary):
    """Trajectory Bellman residual minimization: one off-policy answer a prompt, no ratio.

    Raw logits are Q / beta and their logsumexp V / beta. Along an answer the values telescope, and only the first one
    stays: a baseline that the model learns in the place of its logits' free constant.
    """

    Config = TBRMConfig

    def forward(self, part: Columns) -> Columns:
        logp, total, _ = self.logit_columns(part)
        first = part.mask & (part.mask.cumsum(1) == 1)
        return part.with_(logp=logp, start_value=masked(total, first).sum(1))
