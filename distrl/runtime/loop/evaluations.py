"""Evaluations of a run: when they are due, their results, and restarts of the evaluator."""

from __future__ import annotations

import time
from collections.abc import Callable

from distrl.runtime.loop.recovery import MAX_DEATHS, backoff
from distrl.runtime.loop.saving import Saver
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.events import DataLost, Evaluated, EvaluatorLost


class Evaluations:
    """Orders evaluations and handles their results."""

    def __init__(self, state: RunState, services: Services, saver: Saver, finish: Callable[[], None]):
        self.state, self.backend, self.monitor = state, services.backend, services.monitor
        self.saver, self.finish = saver, finish  # `finish` waits for pending evaluations
        self.deaths = 0  # of the evaluator, in a row
        self.restart_at: float | None = None  # time.monotonic() at which lost evaluations are ordered again
        self._lost: list[EvaluatorLost] = []

    def order_if_due(self) -> None:
        """Order an evaluation every `eval.every` consumed steps; in deterministic mode wait for it."""
        state, config, progress = self.state, self.state.config, self.state.progress
        every = config.eval.interval
        if not every or progress.env_steps // every <= progress.evaluated_at // every:
            return
        if state.evaluations_pending and not config.deterministic:
            return  # at most one pending; retried at the next boundary
        progress.evaluated_at = progress.env_steps
        state.evaluations_pending += 1
        self.backend.evaluate(state.weights[progress.version], progress.env_steps, progress.version)
        if config.deterministic or not self.backend.concurrent:
            self.finish()

    def done(self, event: Evaluated) -> None:
        """Write the curves of an evaluation, and keep the policy if it is the best."""
        progress, mean = self.state.progress, event.result.mean
        self.state.evaluations_pending -= 1
        self.deaths = 0
        progress.evals.append((event.env_steps, mean))
        self.monitor.update(event.result.metrics(), event.env_steps, event.update)
        if progress.best is None or mean > progress.best:
            progress.best = mean
            facts: dict[str, object] = {"env_steps": event.env_steps, "update": event.update, "eval_return_mean": mean}
            try:
                self.saver.save_best(self.backend.fetch(event.weights), facts)
            except DataLost:
                self.monitor.warn(f"the policy of update {event.update} was lost with its node: not kept as the best")
                return
            self.monitor.event("best", **facts)

    def failed(self, why: str) -> None:
        """Report an evaluation that raised; training continues without it."""
        self.state.evaluations_pending -= 1
        self.monitor.warn(f"an evaluation failed, training continues: {why}")

    def evaluator_lost(self, event: EvaluatorLost) -> None:
        """Schedule the evaluation for a new evaluator, unless too many died in a row."""
        self.deaths += 1
        self.monitor.event("died", process="evaluator", reason=event.reason)
        if self.deaths > MAX_DEATHS:
            self.deaths = 0
            self.failed(f"the evaluator died {MAX_DEATHS + 1} times in a row: {event.reason}")
            return
        self._lost.append(event)
        self.restart_at = time.monotonic() + backoff(self.deaths)

    def poll(self) -> None:
        """Order lost evaluations again if that is due."""
        if self.restart_at is None or time.monotonic() < self.restart_at:
            return
        self.restart_at = None
        again, self._lost = self._lost, []
        for order in again:
            self.backend.evaluate(order.weights, order.env_steps, order.update)
            self.monitor.event("restarted", process="evaluator")
