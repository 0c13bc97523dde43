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
    """

    unit: Unit
    version: int
    env_steps: int
    episodes: list[EpisodeReport]
    snapshot: Any = None
    nbytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    sampler: int = -1


@dataclass
class FragmentData:
    """What the learner gets of a fragment.

    Attributes:
        rollout: Columns (T, B, ...), see `experience.rollout`.
        obs_moments: Moments of the raw observations, a tree like the observation space; None where not normalized.
        return_moments: Moments of the running discounted return; None where rewards are not normalized.
    """

    rollout: Columns
    obs_moments: Any = None
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
