"""Mismatch gate: compares log-probabilities of the learner with those of the sampler.

Policy-gradient ratios are wrong by this difference. If it is too large, the gate looks for the cause by undoing one
thing after another (docs/tasks.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ResourceError
from distrl.config.sections.language import GateSettings
from distrl.language.algorithms.base import LanguageAlgorithm
from distrl.language.algorithms.batch import recorded_support
from distrl.language.models.token_logp import Scoring, token_logp

#: Mean difference of log-probabilities that arithmetic alone may make.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}
#: The threshold is at least this many times what was measured at the start.
MARGIN = 3.0
#: Temperatures that a sampler may have used by mistake.
TEMPERATURES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0)
#: A row is far off beyond this many thresholds; up to FEW of the rows may be so where tokens are the cause.
FAR, FEW = 10.0, 0.5
KEPT_WEIGHTS = 4  # versions before the present one that are tried


@dataclass(frozen=True)
class Mismatch:
    """Result of a mismatch check.

    Attributes:
        mean, largest: Of the absolute differences of log-probabilities, over tokens.
        threshold: Above it something is wrong.
        cause: `tokens`, `temperature`, `truncated support`, `stale weights`, `stale cache`, `kernel or dtype`; "" where
            all is well.
        detail: Its description.
    """

    mean: float
    largest: float
    threshold: float
    cause: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return (
            f"sampler and learner disagree by {self.mean:.3g} in log-probability (largest {self.largest:.3g}, allowed"
            f" {self.threshold:.3g}); the cause: {self.cause}: {self.detail}."
        )


class MismatchGate:
    """Compares sampler and learner now and then.

    Args:
        algorithm: Whose model and sampling settings say what is right.
        settings: When to look, at how many rows, and what to do.
    """

    def __init__(self, algorithm: LanguageAlgorithm, settings: GateSettings):
        self.algorithm, self.settings = algorithm, settings
        self.baseline: float | None = None  # mean difference at the first look
        self._cache_reported = False
        self._before: deque[Tensor] = deque(maxlen=KEPT_WEIGHTS)  # weights before the present ones, newest first

    def due(self, update: int) -> bool:
        """True if the batch of this update is checked: the first one, and every N-th."""
        return self.settings.every > 0 and (self.baseline is None or update % self.settings.every == 0)

    def remember(self, update: int) -> None:
        """Called before an update: keep its weights where the next look is near."""
        every = self.settings.every
        if every > 0 and (-(update + 1)) % every <= KEPT_WEIGHTS:
            self._before.appendleft(self.algorithm.flat.data.clone())

    def check(self, batch: Columns, version: int) -> Mismatch | None:
        """Compare; None where no row was made with the present weights.

        Args:
            batch: (N, L) columns as the sampler made them.

        Raises:
            ResourceError: They disagree, and `language.gate.action` is stop.
        """
        newest = torch.where(batch.mask, batch.version, version).min(1).values
        rows = (newest == version).nonzero().squeeze(1)[: self.settings.rows]
        if len(rows) == 0:
            return None
        found = self.compare(batch[rows])
        if found.cause and self.settings.action == "stop":
            raise ResourceError(str(found), "The weights are those before this update. See docs/tasks.md, mismatch.")
        return found

    @torch.no_grad()
    def check_cache(self, batch: Columns, version: int) -> Mismatch | None:
        """Compare tokens of the present weights in answers begun by older ones; None without any.

        Such tokens saw a cache of older weights: reported once, never stops a run."""
        own = batch.mask & (batch.version == version)
        begun = (batch.mask & (batch.version < version)).any(1)
        rows = (own.any(1) & begun).nonzero().squeeze(1)[: self.settings.rows]
        if len(rows) == 0:
            return None
        mixed = batch.with_(mask=own)[rows]
        mean, largest, _ = self._difference(mixed, self._scores(mixed))
        limit = self._limit()
        if mean <= limit or self._cache_reported:
            return Mismatch(mean, largest, limit)
        self._cache_reported = True
        detail = (
            "tokens behind a swap of weights saw keys and values of the weights before; what they were really drawn"
            " with is recorded, so ratios are right (language.in_flight=recompute makes the difference go away)"
        )
        return Mismatch(mean, largest, limit, "stale cache", detail)

    def _limit(self) -> float:
        return max(TOLERANCE[self.algorithm.language.dtype], MARGIN * (self.baseline or 0.0))

    @torch.no_grad()
    def compare(self, batch: Columns) -> Mismatch:
        """The differences of these rows, and their cause."""
        mean, largest, rows = self._difference(batch, self._scores(batch))
        limit = self._limit()
        if mean <= limit:
            if self.baseline is None:
                self.baseline = mean
            return Mismatch(mean, largest, limit)
        self.baseline = self.baseline or 0.0
        return Mismatch(mean, largest, limit, *self._cause(batch, limit, rows))

    def _cause(self, batch: Columns, limit: float, rows: Tensor) -> tuple[str, str]:
        settings = self.algorithm.settings
        for cause, detail, score in self._suspects(batch):
            if self._difference(batch, score())[0] <= limit:
                return cause, detail
        if settings.temperature:
            best = min(TEMPERATURES, key=lambda t: self._difference(batch, self._scores(batch, t))[0])
            if best != settings.temperature and self._difference(batch, self._scores(batch, best))[0] <= limit:
                return "temperature", f"{best:g} fits, the run's is {settings.temperature:g}"
        far = float((rows > FAR * limit).double().mean())
        if 0 < far <= FEW:
            return "tokens", (
                f"{far:.0%} of the answers are far off and the others agree: their tokens are not those that were drawn"
                " (text must never be tokenized again)"
            )
        return "kernel or dtype", f"nothing else explains it; the learner computes in {self.algorithm.language.dtype}"

    def _suspects(self, batch: Columns) -> list[tuple[str, str, Callable[[], Tensor]]]:
        """Causes that are tried by undoing them."""
        temperature = self.algorithm.settings.temperature
        suspects: list[tuple[str, str, Callable[[], Tensor]]] = []
        for age, weights in enumerate(self._before, start=1):
            detail = f"the answers were made with weights that are {age} updates older than their version says"
            suspects.append(("stale weights", detail, lambda old=weights: self._with_weights(batch, old)))  # type: ignore[misc]
        if "support" in batch:
            detail = "log-probabilities are of the whole vocabulary, not of what top-p and top-k left"
            suspects.append(("truncated support", detail, lambda: self._scores(batch, temperature, False)))
            return suspects
        for top_p in (0.8, 0.9, 0.95):
            detail = f"top-p {top_p:g} fits, and the support was not recorded"
            suspects.append(("truncated support", detail, lambda p=top_p: self._truncated(batch, p)))  # type: ignore[misc]
        return suspects

    def _scores(self, batch: Columns, temperature: float | None = None, support: bool = True) -> Tensor:
        settings = self.algorithm.settings
        used = recorded_support(batch.support, batch.mask) if support and "support" in batch else None
        chosen = settings.temperature if temperature is None else temperature
        return self._token_logp(batch, Scoring(chosen, support=used))

    def _truncated(self, batch: Columns, top_p: float) -> Tensor:
        return self._token_logp(batch, Scoring(self.algorithm.settings.temperature, top_p))

    def _token_logp(self, batch: Columns, scoring: Scoring) -> Tensor:
        packing = self.algorithm.packing
        return token_logp(self.algorithm.language, batch.tokens, batch.mask, scoring, packing=packing)[0]

    def _with_weights(self, batch: Columns, weights: Tensor) -> Tensor:
        flat = self.algorithm.flat.data
        present = flat.clone()
        flat.copy_(weights)
        try:
            return self._scores(batch)
        finally:
            flat.copy_(present)

    @staticmethod
    def _difference(batch: Columns, scores: Tensor) -> tuple[float, float, Tensor]:
        """Mean and largest difference over tokens, and the mean of each row."""
        away = ((scores - batch.logp).abs() * batch.mask).double()
        counts = batch.mask.sum(1).clamp(min=1)
        return float(away.sum() / batch.mask.sum().clamp(min=1)), float(away.max()), away.sum(1) / counts


def mismatch_metrics(found: Mismatch) -> dict[str, float]:
    """Curves of a look."""
    return {"text/mismatch_mean": found.mean, "text/mismatch_max": found.largest}


def cache_metrics(found: Mismatch) -> dict[str, float]:
    """The same of answers that new weights went on with."""
    return {"text/mismatch_stale_cache": found.mean}
