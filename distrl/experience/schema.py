"""`SchemaCheck`: a check of the first batch of a learner, or of every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distrl.base.columns import Columns
from distrl.experience.fragment import FragmentData


class SchemaCheck:
    """Runs `check_rollout` or `check_episodes` on the first batch, or on every batch.

    >>> check = SchemaCheck(print)
    >>> check([FragmentData("rollout")]); check([FragmentData("not checked")])
    rollout
    """

    def __init__(self, check: Callable[[Columns], object], every_batch: bool = False):
        self.check, self.every_batch = check, every_batch
        self.checked = False

    def __call__(self, fragments: Sequence[FragmentData]) -> None:
        if self.checked and not self.every_batch:
            return
        for fragment in fragments:
            self.check(fragment.rollout)
        self.checked = True
