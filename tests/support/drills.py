"""Parts of the drills, each of about ten minutes: `make drills PART=kills` runs one, `make drills` all."""

from __future__ import annotations

import os

import pytest

#: Part -> beginnings of the ids of its tests.
PARTS: dict[str, tuple[str, ...]] = {
    "kills": ("tests/runtime/test_drills.py::test_serial_twenty_kills", "tests/runtime/test_kill_"),
    "cluster": (
        "tests/runtime/test_drills.py::test_ray_four_kills_of_everything",
        "tests/runtime/test_drills.py::test_interrupt_of_a_whole_cluster",
    ),
    "machines": (
        "tests/cluster/",
        *(f"tests/runtime/test_{name}.py" for name in ("autoscaler_drill", "hang_drill", "nodes", "resume_drill")),
    ),
}
#: The part of all other drills.
REST = "processes"


def part_of(test: str) -> str:
    """The part that a drill belongs to, by its id."""
    return next((part for part, names in PARTS.items() if test.startswith(names)), REST)


def select_part(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out drills of other parts than the one that DRILL_PART names, if it names one.

    Raises:
        pytest.UsageError: No part has this name.
    """
    wanted = os.environ.get("DRILL_PART")
    if not wanted:
        return
    if wanted not in (*PARTS, REST):
        raise pytest.UsageError(f"no drills {wanted!r}; parts: {', '.join((*PARTS, REST))}")
    left_out = [i for i in items if i.get_closest_marker("drill") and part_of(i.nodeid) != wanted]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
