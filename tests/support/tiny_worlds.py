"""Learner and sampler of a tiny language-model run in one process, for tests of algorithms."""

from __future__ import annotations

from typing import Any

import torch

from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from tests.helpers import merged
from tests.runtime.test_text_runs import text_config


class TinyWorld:
    """Two digits to sort, 8 prompts in 2 streams.

    Args:
        algorithm: Its keys.
        language: Keys of the section.
        warm: Supervised steps that the model begins with.
        run: Other sections.
    """

    def __init__(self, algorithm: dict[str, Any], language: dict[str, Any] | None = None, warm: int = 0, **run: Any):
        start = {"warm_start": {"steps": warm, "batch_size": 32, "learning_rate": 3e-3}} if warm else {}
        config = text_config(
            task={"kwargs": {"count": 2}, "prompts": 8}, language={"max_new_tokens": 3, **start, **(language or {})}
        )
        config["algorithm"] = {"learning_rate": 1e-3, **algorithm}
        self.plan = make_plan(load_config(merged(config, run)))
        self.learner, self.sampler = self.plan.build_learner(), self.plan.build_sampler(0, reuse_buffers=False)
        self.algorithm: Any = self.learner.algorithm
        self.algorithm.resolve(0, None)
        self.weights = self.learner.weights(0)
        self.updates = 0

    def fragments(self, seq: int = 0) -> list[Any]:
        requests = [CollectRequest(Unit(seq, stream), self.weights.version) for stream in range(2)]
        return [data for _, data in self.sampler.collect(requests, self.weights)]

    def batch(self, seq: int = 0) -> Any:
        """A batch as the algorithm gets it."""
        return self.learner._batch(self.fragments(seq), ())

    def prepared(self, seq: int = 0) -> Any:
        return self.algorithm.prepare(self.batch(seq))

    def gradient(self, batch: Any) -> torch.Tensor:
        """Of the loss of a prepared batch, over the flat parameters."""
        self.algorithm.text_gradient(self.algorithm.add_loss_weights(batch))
        return self.algorithm.flat.grad.clone()

    def slow_gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """Of any loss made of the model, over the flat parameters."""
        self.algorithm.flat.zero_grad()
        loss.backward()
        return self.algorithm.flat.grad.clone()

    def step(self) -> dict[str, float]:
        """One update on a fresh batch."""
        report, self.weights = self.learner.update(self.fragments(self.updates), Progress(self.updates, 0))
        self.updates += 1
        return report.metrics

    def move(self, scale: float = 0.02, seed: int = 0) -> None:
        """Random change of all weights."""
        flat = self.algorithm.flat.data
        flat.add_(scale * torch.randn(flat.shape, generator=torch.Generator().manual_seed(seed)))


def prefix_states(world: TinyWorld, batch: Any) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """Slow: for every trainable token (row, column), the trunk's last state of the prefix alone, (K, D)."""
    places = [(int(r), int(c)) for r, c in batch.mask.nonzero()]
    model = world.algorithm.language
    return places, torch.stack([model.hidden(batch.tokens[r : r + 1, :c])[0, -1] for r, c in places])
