"""Fragments: the experience of one stream between two weight updates, and its metadata."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from distrl.base.columns import Columns
from distrl.base.pack import State
from distrl.experience.moments import Moments

#: State of a stream for `base.pack`, from which it continues; None where streams cannot be restored.
Snapshot: TypeAlias = State | None


class Unit(NamedTuple):
    """Identifies a fragment: its sequence number, and its stream; units sort in this order."""

    seq: int
    stream: int


class Pace(NamedTuple):
    """Step times of a stream's environments."""

    seconds: float = 0.0
    longest: float = 0.0  # the longest step
    steps: int = 0

    @property
    def per_step(self) -> float:
        """Mean seconds of a step without the longest one, which may have been a reset."""
        return (self.seconds - self.longest) / (self.steps - 1) if self.steps > 1 else self.seconds

    def joined(self, other: Pace) -> Pace:
        return Pace(self.seconds + other.seconds, max(self.longest, other.longest), self.steps + other.steps)


@dataclass
class EpisodeReport:
    """An episode that ended inside a fragment."""

    stream: int
    env: int  # within the stream
    episode: int
    return_: float  # undiscounted sum of raw rewards
    length: int  # valid steps


@dataclass
class FragmentMeta:
    """Metadata of a fragment that the loop keeps; small, without the data."""

    unit: Unit
    version: int  # of the weights it was sampled with
    env_steps: int  # valid ones
    episodes: list[EpisodeReport]  # that ended in it
    snapshot: Snapshot = None  # of the stream after it, from which the stream continues bit-identically
    nbytes: int = 0  # of the rollout
    seconds: dict[str, float] = field(default_factory=dict)  # the sampler's phase times; once per call
    sampler: int = -1
    pace: Pace = field(default_factory=Pace)


@dataclass
class FragmentData:
    """Data of a fragment for the learner, with moments for normalizers."""

    rollout: Columns  # (T, B, ...) of `experience.rollout`, or rows of `experience.token_episodes`
    obs_moments: Moments | None = None  # of raw observations (D,), in the order of the policy's normalizer
    return_moments: Moments | None = None  # of the running discounted return


@dataclass
class CollectRequest:
    """An order to a sampler: collect this unit with this weight version."""

    unit: Unit
    version: int
    snapshot: Snapshot = None  # to start from, if the stream is not new and the sampler does not host it
    assign: bool = False  # the stream is new to this sampler, which has to build its environments


def fragment_to_state(meta: FragmentMeta, data: FragmentData) -> State:
    """Return a waiting fragment's state for a checkpoint; its snapshot is saved with its stream."""
    return {
        "unit": tuple(meta.unit),
        "version": meta.version,
        "env_steps": meta.env_steps,
        "episodes": [(e.stream, e.env, e.episode, e.return_, e.length) for e in meta.episodes],
        "nbytes": meta.nbytes,
        "sampler": meta.sampler,
        "rollout": data.rollout,
        "obs_moments": data.obs_moments and data.obs_moments.to_state(),
        "return_moments": data.return_moments and data.return_moments.to_state(),
    }


def fragment_from_state(state: State) -> tuple[FragmentMeta, FragmentData]:
    unit, episodes = Unit(*state["unit"]), [EpisodeReport(*fields) for fields in state["episodes"]]
    facts = {name: state[name] for name in ("version", "env_steps", "nbytes", "sampler")}
    moments = {name: state[name] and Moments.from_state(state[name]) for name in ("obs_moments", "return_moments")}
    return FragmentMeta(unit, episodes=episodes, **facts), FragmentData(state["rollout"], **moments)
