"""Warnings of a language-model run."""

from __future__ import annotations

from collections.abc import Mapping

#: Updates in a row without any group whose answers differ, until the run says so.
EQUAL_UPDATES = 20
#: Most warnings about batches with unverified answers.
MOST_WARNINGS = 3


class TextWatch:
    """Counts what goes wrong without ending the run."""

    def __init__(self) -> None:
        self._equal = 0
        self._warned = 0

    def warnings(self, metrics: Mapping[str, float]) -> list[str]:
        """Return warnings after an update with these metrics."""
        return [text for text in (self._unverified(metrics), self._nothing_to_learn(metrics)) if text]

    def _unverified(self, metrics: Mapping[str, float]) -> str:
        share = metrics.get("text/unverified", 0.0)
        if share == 0.0 or self._warned >= MOST_WARNINGS:
            return ""
        self._warned += 1
        return (
            f"the task's verifier failed or took too long for {100 * share:.3g} % of the answers of a batch; they count"
            " as wrong (curve text/unverified). Try it on your own answers: distrl.language.tasks.base.verify_safely."
        )

    def _nothing_to_learn(self, metrics: Mapping[str, float]) -> str:
        self._equal = self._equal + 1 if metrics.get("text/zero_variance_groups") == 1.0 else 0
        if self._equal != EQUAL_UPDATES:
            return ""
        success = metrics["text/success"]
        if success < 0.5:
            advice = (
                "begin with language.warm_start or a larger model, ask easier items, add a reward component that "
                "differs between wrong answers, or raise algorithm.group_size"
            )
        else:
            advice = "ask harder items, or raise language.temperature; or the run has learned what there is"
        return (
            f"for {EQUAL_UPDATES} updates all answers of every group had equal rewards (success {success:.2f}), so "
            f"there is nothing to learn from: {advice}."
        )
