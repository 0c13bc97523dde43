"""Curricula: choice of the next items by the success of earlier ones.

A curriculum is a state machine: what it samples is a pure function of the generator and of the updates, in their order.
A share `floor` of the draws is uniform over all items, so every item keeps a chance.

In a run the learner owns the curriculum and updates it with every batch that it has learned from; samplers get its
state with the weights (`to_extras`, `load_extras`) and only sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import numpy as np

from distrl.base.errors import CheckpointError, ConfigError, nearest
from distrl.base.registry import register
from distrl.language.tasks.base import Task

#: A group whose successes differ by no more has nothing to compare.
EQUAL = 1e-9
#: Names of a curriculum's arrays among the extras that travel with weights begin with this.
PREFIX = "curriculum."


class Curriculum:
    """Base class. A subclass writes `weights`, `update` and names its arrays in `state`.

    Args:
        size: Number of items; of an endless task, the number of its first items in use.
        floor: Share of draws that are uniform over all items.
    """

    #: Names of the arrays and numbers that change.
    state: tuple[str, ...] = ()

    def __init__(self, size: int, floor: float = 0.1):
        if size < 1:
            raise ConfigError(f"a curriculum over {size} items has nothing to ask.", "Give the task items.")
        if not 0.0 < floor <= 1.0:
            raise ConfigError(f"floor = {floor} is not a share in (0, 1].", "Set it to 0.1.")
        self.size, self.floor = size, floor

    def weights(self) -> np.ndarray:
        """Return unnormalized sampling weights (size,) float64, without the floor."""
        raise NotImplementedError

    def update(self, results: Mapping[int, Sequence[float]]) -> None:
        """Take in the groups of one update of the learner.

        Args:
            results: Success of each answer, before any shaping, by item.
        """

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Item numbers (count,) int64, in random order. None appears twice before all have appeared."""
        passes, rest = divmod(count, self.size)
        uniform = int(rng.binomial(rest, self.floor))
        drawn = rng.permutation(self.size)[:uniform]
        weights = np.array(self.weights(), np.float64)
        weights[drawn] = -1.0
        # the largest log(weight) + Gumbel noise: draws without replacement; weight 0 comes after all others
        with np.errstate(divide="ignore"):
            keys = np.log(np.maximum(weights, 0.0)) + rng.gumbel(size=self.size)
        last_resort = np.isneginf(keys) & (weights >= 0.0)
        keys[last_resort] = np.finfo(np.float64).min * (0.5 + 0.25 * rng.random(int(last_resort.sum())))
        chosen = np.argsort(-keys, kind="stable")[: rest - uniform]
        return rng.permutation(np.concatenate([np.tile(np.arange(self.size), passes), drawn, chosen])).astype(np.int64)

    def state_dict(self) -> dict[str, int | np.ndarray]:
        """Copies of all that changes."""
        return {"size": self.size, **{name: np.copy(getattr(self, name)) for name in self.state}}

    def load_state_dict(self, state: Mapping[str, int | np.ndarray]) -> None:
        """Go on from `state_dict`.

        Raises:
            CheckpointError: It is of another kind of curriculum, or of another number of items.
        """
        if set(state) != {"size", *self.state} or int(state["size"]) != self.size:
            raise CheckpointError(
                f"the checkpoint's curriculum has {', '.join(sorted(state))} over {state.get('size')} items; "
                f"this one has {', '.join(sorted(self.state)) or 'no state'} over {self.size}.",
                "Resume with the same curriculum and task.",
            )
        for name in self.state:
            setattr(self, name, np.copy(state[name]))

    def to_extras(self) -> dict[str, np.ndarray]:
        """`state_dict` as arrays under names of their own, to travel with weights."""
        return {PREFIX + name: np.asarray(value) for name, value in self.state_dict().items()}

    def load_extras(self, extras: Mapping[str, np.ndarray]) -> None:
        """The inverse of `to_extras`; other names are passed over."""
        self.load_state_dict({name.removeprefix(PREFIX): x for name, x in extras.items() if name.startswith(PREFIX)})


def make_curriculum(name: str, size: int, options: Mapping[str, object] | None = None) -> Curriculum:
    """The curriculum that a config names."""
    factory = register.get("curriculum", name)
    known = [word for word in inspect.signature(factory).parameters if word != "size"]
    for word in options or {}:
        if word not in known:
            guess = nearest(word, known)
            hint = f"Did you mean {guess!r}?" if guess else "Remove it."
            raise ConfigError(f"curriculum {name!r} has no option {word!r}; it has {', '.join(known)}.", hint)
    try:
        return factory(size, **(options or {}))
    except TypeError as error:  # a word in the place of a number
        raise ConfigError(f"curriculum {name!r} cannot take the options {dict(options or {})}: {error}.") from None


def task_curriculum(word: str | Mapping[str, object] | None, task: Task) -> Curriculum | None:
    """Make the curriculum of `language.curriculum` over a task's training items.

    Args:
        word: Its name, or its name with options; None for none.
        task: Gives items. Of an endless one the option `size` says how many of the first are asked.
    """
    if word is None:
        return None
    options = {"name": word} if isinstance(word, str) else dict(word)
    if not isinstance(name := options.pop("name", None), str):
        raise ConfigError(f"language.curriculum is {word}, without a name.", "Write {name: success_band}.")
    size = options.pop("size", task.size)
    if size is None:
        raise ConfigError(
            f"language.curriculum keeps an account of every item, and task {type(task).__name__} has no end of them.",
            f"Say how many of its items to ask: language.curriculum={{name: {name}, size: 1000}}.",
        )
    if not isinstance(size, int) or isinstance(size, bool) or size < 1 or (task.size is not None and size > task.size):
        most = "" if task.size is None else f", at most the task's {task.size}"
        raise ConfigError(f"language.curriculum.size is {size!r}; expected a whole number of items above 0{most}.")
    return make_curriculum(name, size, options)


@register.curriculum("uniform")
class Uniform(Curriculum):
    """Every item is equally likely."""

    def weights(self) -> np.ndarray:
        return np.ones(self.size)


@register.curriculum("success_band", paper="Bae et al. 2025, Online Difficulty Filtering for Reasoning Oriented RL")
class SuccessBand(Curriculum):
    """Items whose success rate is within a band, and items not seen yet.

    Args:
        step: Weight of the newest group in an item's rate, in (0, 1]. 1: only the newest counts.
    """

    state = ("rate", "seen")

    def __init__(self, size: int, floor: float = 0.1, low: float = 0.2, high: float = 0.8, step: float = 0.5):
        super().__init__(size, floor)
        if not 0.0 <= low <= high <= 1.0 or not 0.0 < step <= 1.0:
            raise ConfigError(f"low = {low}, high = {high}, step = {step}: 0 <= low <= high <= 1, 0 < step <= 1.")
        self.low, self.high, self.step = low, high, step
        self.rate = np.zeros(size)
        self.seen = np.zeros(size, bool)

    def weights(self) -> np.ndarray:
        return (~self.seen | ((self.rate >= self.low) & (self.rate <= self.high))).astype(np.float64)

    def update(self, results: Mapping[int, Sequence[float]]) -> None:
        for item, successes in results.items():
            if len(successes):
                newest = float(np.mean(successes))
                self.rate[item] += (self.step if self.seen[item] else 1.0) * (newest - self.rate[item])
                self.seen[item] = True


@register.curriculum("dynamic", paper="Yu et al. 2025, DAPO, section 3.2")
class Dynamic(Curriculum):
    """Curriculum without the items whose last group was all right or all wrong.

    DAPO generates again until a batch is full of other groups. Here such an item rests for some updates instead, which
    wastes no answers.

    Args:
        rest: Updates for which an item is left out.
    """

    state = ("updates", "rests_until")

    def __init__(self, size: int, floor: float = 0.1, rest: int = 20):
        super().__init__(size, floor)
        if rest < 1:
            raise ConfigError(f"rest = {rest} updates is less than one.", "Set it to 20.")
        self.rest = rest
        self.updates = np.zeros((), np.int64)
        self.rests_until = np.zeros(size, np.int64)

    def weights(self) -> np.ndarray:
        return (self.rests_until <= self.updates).astype(np.float64)

    def update(self, results: Mapping[int, Sequence[float]]) -> None:
        self.updates = self.updates + 1
        for item, successes in results.items():
            if len(successes) > 1:
                equal = float(np.ptp(successes)) <= EQUAL
                self.rests_until[item] = self.updates + self.rest if equal else 0
