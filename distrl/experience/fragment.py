"""Fragments: what one stream makes in one go, and what the loop needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distrl.base.columns import Columns
from distrl.experience.moments import Moments


class Unit(NamedTuple):
    """The name of a fragment: which stream, and the how-manieth of it. Units sort by sequence number, then stream."""

    seq: int
    stream: int


class Pace(NamedTuple):
    """How long a stream's environments took for some steps.

    Attributes:
        seconds: All steps together.
        longest: The longest of them.
        steps: How many.
    """

    seconds: float = 0.0
    longest: float = 0.0
    steps: int = 0

    @property
    def per_step(self) -> float:
        """Seconds of a usual step: without the longest one, which may have been a reset."""
        return (self.seconds - self.longest) / (self.steps - 1) if self.steps > 1 else self.seconds

    def joined(self, other: Pace) -> Pace:
        """Both spans as one."""
        return Pace(self.seconds + other.seconds, max(self.longest, other.longest), self.steps + other.steps)


@dataclass
class EpisodeReport:
    """An episode that ended inside a fragment.

    Attributes:
        stream, env, episode: Its place: stream, environment within the stream, number of the episode.
        return_: Undiscounted sum of raw rewards.
        length: Valid steps.
    """

    stream: int
    env: int
    episode: int
    return_: float
    length: int


@dataclass
class FragmentMeta:
    """What the loop keeps of a fragment: small, and never the data itself.

    Attributes:
        unit: Its name.
        version: The weight version that made it.
        env_steps: Valid environment steps inside.
        episodes: Episodes that ended inside.
        snapshot: The stream right after the fragment: enough to go on from there, bit for bit.
        nbytes: Size of the rollout.
        seconds: Phase times of the sampler since its previous report (the same for fragments of one call: only the
            first carries them).
        sampler: Which sampler made it.
        pace: Time that the stream's environments took for it.
    """

    unit: Unit
    version: int
    env_steps: int
    episodes: list[EpisodeReport]
    snapshot: Any = None
    nbytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sampler: int = -1
    pace: Pace = field(default_factory=Pace)


@dataclass
class FragmentData:
    """What the learner gets of a fragment.

    Attributes:
        rollout: Columns (T, B, ...), see `experience.rollout`.
        obs_moments: Moments of the raw observations (D,), in the order of the policy's normalizer; None where not
            normalized.
        return_moments: Moments of the running discounted return; None where rewards are not normalized.
    """

    rollout: Columns
    obs_moments: Moments | None = None
    return_moments: Moments | None = None


@dataclass
class CollectRequest:
    """An order to a sampler: make this unit with these weights.

    Attributes:
        unit: Stream and sequence number.
        version: The weight version to act with.
        snapshot: Where to start, if the sampler does not host the stream already (None: it does, or the stream is new).
        home: The stream is new to this sampler: build its environments.
    """

    unit: Unit
    version: int
    snapshot: Any = None
    home: bool = False


def _moments_state(moments: Moments | None) -> dict[str, Any] | None:
    return None if moments is None else moments.to_state()


def _moments(state: dict[str, Any] | None) -> Moments | None:
    return None if state is None else Moments.from_state(state)


def fragment_to_state(meta: FragmentMeta, data: FragmentData) -> dict[str, Any]:
    """A waiting fragment as a checkpoint keeps it. Its snapshot is kept with its stream, not here."""
    return {
        "unit": tuple(meta.unit),
        "version": meta.version,
        "env_steps": meta.env_steps,
        "episodes": [(e.stream, e.env, e.episode, e.return_, e.length) for e in meta.episodes],
        "nbytes": meta.nbytes,
        "sampler": meta.sampler,
        "rollout": data.rollout,
        "obs_moments": _moments_state(data.obs_moments),
        "return_moments": _moments_state(data.return_moments),
    }


def fragment_from_state(state: dict[str, Any]) -> tuple[FragmentMeta, FragmentData]:
    """The inverse of `fragment_to_state`."""
    meta = FragmentMeta(
        unit=Unit(*state["unit"]),
        version=state["version"],
        env_steps=state["env_steps"],
        episodes=[EpisodeReport(*fields) for fields in state["episodes"]],
        nbytes=state["nbytes"],
        sampler=state["sampler"],
    )
    data = FragmentData(state["rollout"], _moments(state["obs_moments"]), _moments(state["return_moments"]))
    return meta, data
