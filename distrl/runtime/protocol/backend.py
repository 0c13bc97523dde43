"""The face of a back end: where samplers, learner and evaluator run.

The loop hands out orders and waits for events; it never touches data. Handles (`weights`, `data`) are opaque to it:
the objects themselves in-process, object references on Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from distrl.control.learner.learner import Progress
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.runtime.protocol.events import Event
from distrl.runtime.protocol.orders import RecoveryPoint, UpdateOrder, Wait


class Backend(Protocol):
    """What the loop needs of a back end."""

    #: True where samplers, learner and evaluator really run at the same time
    concurrent: bool
    #: True where it pays to move the next batch to the learner's device while the present one is learned from
    prefetches: bool
    #: True where the learner can die alone, and be built again
    recovers: bool
    #: called about once a second while the back end itself waits for something
    on_wait: Callable[[], None]

    def start(self, samplers: int) -> None:
        """Start the learner and `samplers` samplers; each announces itself with `SamplerReady`."""

    def collect(self, sampler: int, requests: list[CollectRequest], weights: Any) -> None:
        """Order fragments from a sampler. Answer: `Collected`, `SamplerFailed` or `SamplerLost`."""

    def probe(self, sampler: int) -> None:
        """Ask what a sampler is doing in the middle of a call. Answer: `Probed`, or none; it changes nothing."""

    def update(self, data: Sequence[Any], progress: Progress) -> None:
        """Order an update. Answer: `Updated`, `LearnerFailed`, `BatchLost` or `LearnerLost`."""

    def stage(self, units: Sequence[Unit], data: Sequence[Any]) -> None:
        """The batch that will probably come next; only where `prefetches`. No answer."""

    def evaluate(self, weights: Any, env_steps: int, update: int) -> None:
        """Order an evaluation. Answer: `Evaluated`, `EvalFailed` or `EvaluatorLost`."""

    def wait(self, timeout: float) -> list[Event]:
        """Events since the last call; waits up to `timeout` seconds for the first."""

    def busy(self) -> bool:
        """Whether any order has not been answered yet."""

    def replace_sampler(self, sampler: int) -> None:
        """Start a process: in place of a lost one, or a further sampler. Announced with `SamplerReady`."""

    def end_sampler(self, sampler: int) -> None:
        """End a sampler's process; nothing of it is waited for any more."""

    def drop_streams(self, sampler: int, streams: Sequence[int]) -> None:
        """These streams live elsewhere once the sampler's present orders are done. No answer."""

    def learner_state(self) -> dict[str, Any]:
        """The learner's full state; only between updates."""

    def load_learner(self, state: dict[str, Any]) -> None:
        """Continue from a state."""

    def keep_state(self) -> Any:
        """Ask for the learner's state behind the updates that were ordered so far; a handle, at once."""

    def kept_state(self, handle: Any) -> tuple[float, Any] | None:
        """Seconds that it took the learner, and its packed state, in this process; None while it is not here."""

    def unpacked(self, state: Any) -> dict[str, Any]:
        """The learner's state from a packed one."""

    def rebuild_learner(self, base: RecoveryPoint, updates: Sequence[UpdateOrder]) -> dict[int, Any]:
        """A new learner begins with `base` and makes `updates` again; returns at once.

        Announced with `LearnerReady`.

        Returns:
            Handles of the weights that it will publish again, by version.
        """

    def intact(self, handle: Any) -> bool:
        """Whether what a handle stands for can still be had."""

    def gone(self, data: Sequence[Any]) -> list[bool]:
        """For each of these handles of data, whether it went with a machine."""

    def save_replay(self, folder: Path) -> None:
        """Write the learner's replay into `folder`, which is made; only between updates, only off-policy."""

    def replay_saved(self, folder: Path) -> None:
        """What `save_replay` wrote is in `folder` now: the next checkpoint may share its files."""

    def load_replay(self, folder: Path) -> None:
        """Take the replay that `save_replay` wrote."""

    def warm_start(self, weights: Weights) -> None:
        """Begin with given weights (config key init_from)."""

    def publish(self, version: int) -> Any:
        """A handle of the learner's present weights as `version`."""

    def put_weights(self, weights: Weights) -> Any:
        """A handle of given weights (from a checkpoint)."""

    def put_data(self, data: FragmentData) -> Any:
        """A handle of given data (from a checkpoint)."""

    def fetch(self, handle: Any) -> Any:
        """What a handle stands for."""

    def waits(self) -> list[Wait]:
        """Orders that have not been answered yet, and a start that is waited for."""

    def nodes(self) -> dict[str, str]:
        """Living machines: name and address."""

    def head(self) -> str | None:
        """Address of the machine without which no other one is reached; None where it is this one."""

    def store_bytes(self) -> int | None:
        """Size of the shared memory that fragments travel through; None where there is none."""

    def close(self) -> None:
        """End every process that was started here."""
