"""Evaluations of a run: when they are due, what becomes of their results, and an evaluator that died."""

from __future__ import annotations

import time
from typing import Any

from distrl.runtime.loop.recovery import MAX_DEATHS, backoff
from distrl.runtime.protocol.events import DataLost, Evaluated, EvaluatorLost, SamplerFailed, SamplerLost


class Evaluations:
    """Orders evaluations of a loop and takes their results.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: Any):
        self.loop = loop
        self.under_way = 0
        self.deaths = 0  # of the evaluator, in a row
        self.restart_at: float | None = None
        self._lost: list[EvaluatorLost] = []  # ordered again when the time has come

    def order_if_due(self) -> None:
        """Order an evaluation when `eval.every` more steps were consumed; in deterministic mode wait for it here."""
        loop = self.loop
        every, progress = loop.config.eval.every, loop.progress
        if not every or progress.env_steps // every <= progress.evaluated_at // every:
            return
        if self.under_way and not loop.config.deterministic:
            return  # never a queue of evaluations; the next boundary asks again
        progress.evaluated_at = progress.env_steps
        self.under_way += 1
        loop.backend.evaluate(loop.weights[progress.version], progress.env_steps, progress.version)
        if loop.config.deterministic or not loop.backend.concurrent:
            self.finish()

    def finish(self, ended: bool = False) -> None:
        """Wait for evaluations under way; once the run has ended, what samplers fail at no longer matters."""
        while self.under_way:
            if ended:
                self.turn()
            else:
                self.loop.look_around()
            for event in self.loop.wait():
                if not (ended and isinstance(event, SamplerFailed | SamplerLost)):
                    self.loop.handle(event)

    def done(self, event: Evaluated) -> None:
        """Curves, and the best policy so far."""
        loop, mean = self.loop, event.result.mean
        self.under_way -= 1
        self.deaths = 0
        progress = loop.progress
        progress.evals.append((event.env_steps, mean))
        loop.monitor.update(event.result.metrics(), event.env_steps, event.update)
        if progress.best is None or mean > progress.best:
            progress.best = mean
            facts = {"env_steps": event.env_steps, "update": event.update, "eval_return_mean": mean}
            try:
                loop.saver.save_best(loop.backend.fetch(event.weights), facts)
            except DataLost:
                loop.monitor.warn(f"the policy of update {event.update} is gone with its machine: not kept as the best")
                return
            loop.monitor.event("best", **facts)

    def failed(self, why: str) -> None:
        """The environment or the policy raised: training does not need this evaluation."""
        self.under_way -= 1
        self.loop.monitor.warn(f"an evaluation failed, training goes on: {why}")

    def lost(self, event: EvaluatorLost) -> None:
        """The evaluator died: another one does the same evaluation, until too many died in a row."""
        self.deaths += 1
        self.loop.monitor.event("died", process="evaluator", reason=event.reason)
        if self.deaths > MAX_DEATHS:
            self.deaths = 0
            self.failed(f"the evaluator died {MAX_DEATHS + 1} times in a row: {event.reason}")
            return
        self._lost.append(event)
        self.restart_at = time.monotonic() + backoff(self.deaths)

    def turn(self) -> None:
        """Called between the loop's turns: lost evaluations are ordered again when their time has come."""
        if self.restart_at is None or time.monotonic() < self.restart_at:
            return
        self.restart_at = None
        again, self._lost = self._lost, []
        for order in again:
            self.loop.backend.evaluate(order.weights, order.env_steps, order.update)
            self.loop.monitor.event("restarted", process="evaluator")
