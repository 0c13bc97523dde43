"""Records since the last flush, and their reduction to points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from distrl.monitor.tags import group, reducer

# Training episodes keep their own env_steps, but at most this many points a flush: fast environments end thousands.
CURVE_POINTS = 4
_CURVES = ("return", "length")


@dataclass(frozen=True)
class Point:
    """Values by tag at one place of the x axis."""

    env_steps: int
    update: int
    wall_s: float
    values: dict[str, float]

    @property
    def place(self) -> tuple[int, int, float]:
        """Env_steps, update and wall_s, in the order of time."""
        return self.env_steps, self.update, self.wall_s


class Window:
    """Collects records cheaply; `take` turns them into points, ordered by env_steps.

    Evaluations stay as they came, each at its own env_steps. Curves of training episodes keep up to `CURVE_POINTS`
    points. Everything else becomes one value per tag at the newest env_steps.
    """

    def __init__(self) -> None:
        self._records: list[Point] = []
        self._evals: list[Point] = []
        self._curves: list[Point] = []
        self._rest: dict[str, list[float]] = {}
        self._newest = (0, 0, 0.0)

    def add(self, record: Mapping[str, float], env_steps: int, update: int, wall_s: float) -> None:
        """Keep a copy of the record; no arithmetic here, this is the learner's time."""
        self._records.append(Point(env_steps, update, wall_s, dict(record)))

    def take(self) -> list[Point]:
        """Return and clear the points since the last `take`, one per (env_steps, update)."""
        self._fold()
        points = self._evals + _thin(self._curves, CURVE_POINTS)
        if self._rest:
            points.append(Point(*self._newest, {tag: reducer(tag)(values) for tag, values in self._rest.items()}))
        self._evals, self._curves, self._rest = [], [], {}
        return _join(points)

    def _fold(self) -> None:
        records, self._records = self._records, []
        for record in records:
            evals: dict[str, float] = {}
            curves: dict[str, float] = {}
            for tag, value in record.values.items():
                kind = group(tag)
                if kind == "eval":
                    evals[tag] = float(value)
                elif kind in _CURVES:
                    curves[tag] = float(value)
                else:
                    self._rest.setdefault(tag, []).append(float(value))
            if evals:
                self._evals.append(Point(*record.place, evals))
            if curves:
                self._curves.append(Point(*record.place, curves))
            # An evaluation may finish late; the x axis never goes back for the other tags.
            self._newest = max(self._newest, record.place)


def _thin(points: Sequence[Point], limit: int) -> list[Point]:
    """Merge neighbors until at most `limit` points are left, each at its last env_steps."""
    if len(points) <= limit:
        return list(points)
    edges = [len(points) * i // limit for i in range(limit + 1)]
    return [_merge(points[begin:end]) for begin, end in pairwise(edges)]


def _merge(points: Sequence[Point]) -> Point:
    values: dict[str, list[float]] = {}
    for point in points:
        for tag, value in point.values.items():
            values.setdefault(tag, []).append(value)
    return Point(*points[-1].place, {tag: reducer(tag)(several) for tag, several in values.items()})


def _join(points: Sequence[Point]) -> list[Point]:
    joined: dict[tuple[int, int], Point] = {}
    for point in sorted(points, key=lambda point: point.place):
        earlier = joined.get(point.place[:2])
        values = {**earlier.values, **point.values} if earlier else point.values
        joined[point.place[:2]] = Point(*point.place, values)
    return list(joined.values())
