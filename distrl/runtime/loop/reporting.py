"""`Reporter`: curves and display of each update, and the summary of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distrl.experience.fragment import EpisodeReport, FragmentMeta
from distrl.learning.learner_base import Report
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.loop.time_shares import TimeShares, limit


class Reporter:
    """Writes the monitor's records of a run."""

    def __init__(self, state: RunState, services: Services):
        self.state, self.services = state, services
        self.shares = TimeShares(services.phases)
        self.shown = 0.0  # time.monotonic() of the measurement in the newest display

    def learner_report(self, report: Report) -> None:
        """Record the learner's times, warnings and lost transitions."""
        state, monitor = self.state, self.services.monitor
        self.shares.add("learner", report.seconds)
        lost = int(report.metrics.get("replay/lost_with_shard", 0))
        if lost > state.lost_transitions:
            monitor.event("lost", what="replay shard", transitions=lost - state.lost_transitions)
            state.lost_transitions = lost
        for text in report.warnings:
            monitor.warn(text)

    def record(
        self,
        metrics: dict[str, float],
        metas: Sequence[FragmentMeta],
        episodes: Sequence[EpisodeReport],
        version: int,
        diagnosed: float,
    ) -> None:
        """Complete the metrics of an update of `version` in place and write its curves.

        The display is updated if `diagnosed`, the time of the newest measurement, is new.
        """
        state, progress = self.state, self.state.progress
        ages = [version - meta.version for meta in metas]
        metrics["staleness/mean"] = sum(ages) / len(ages)
        metrics["staleness/max"] = max(ages)
        metrics["staleness/waiting"] = len(state.queue)
        if diagnosed > self.shown:
            self.shown = diagnosed
            shares = self.shares.since_last()
            self.services.monitor.status(
                samplers=sum(slot.ready for slot in state.pool.slots),
                waiting=len(state.queue),
                staleness=max(ages),
                limit=limit(shares),
                phases=shares.get("learner", shares["loop"]),
            )
            for process, phases in shares.items():
                metrics.update({f"time/{process}/{name}": share for name, share in phases.items()})
        if episodes:
            metrics["return/mean"] = sum(episode.return_ for episode in episodes) / len(episodes)
            metrics["length/mean"] = sum(episode.length for episode in episodes) / len(episodes)
        if progress.return_mean is not None:
            metrics[f"return/mean_last_{progress.window}"] = progress.return_mean
        self.services.monitor.update(metrics, progress.env_steps, progress.version)

    def summary(self, reason: str, checkpoint: Path | None, problem: str | None) -> dict[str, object]:
        """Return the content of `summary.json`; `problem` is the error of a failed last checkpoint."""
        state, config, progress = self.state, self.state.config, self.state.progress
        weights = self.services.backend.fetch(state.weights[progress.version])
        returns = list(progress.returns)[-20:]
        state.ledger.check()
        return {
            "name": config.name,
            "stopped": reason,
            "seed": config.seed,
            "backend": config.backend,
            "deterministic": config.deterministic,
            "env_steps": progress.env_steps,
            "updates": progress.version,
            "episodes": progress.episodes,
            "wall_s": progress.wall_seconds,
            "return_mean_last_20": sum(returns) / len(returns) if returns else None,
            "eval_return_mean": progress.last_eval,
            "best_eval_return_mean": progress.best,
            "evaluations": progress.evals,
            "parameter_hash": weights.checksum(),
            "ledger": state.ledger.read(),
            "staleness_max": state.ledger.staleness_max,
            "phases": self.shares.seconds(),
            "checkpoint": str(checkpoint) if checkpoint else None,
            "checkpoint_problem": problem,
        }
