from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from distrl.monitor.tags import GROUPS, TAGS, group, reducer
from distrl.monitor.window import CURVE_POINTS, Window


def test_losses_become_one_mean_at_the_newest_step():
    window = Window()
    for update in (1, 2, 3):
        window.add({"loss/value": float(update), "policy/learning_rate": 1 / update}, update * 10, update, 0.5 * update)
    (point,) = window.take()
    assert point.place == (30, 3, 1.5)
    assert point.values == {"loss/value": 2.0, "policy/learning_rate": 1 / 3}
    assert window.take() == []


def test_every_evaluation_keeps_its_own_env_steps():
    window = Window()
    for update in range(1, 101):
        window.add({"eval/return_mean": float(update)}, update * 10, update, 0.0)
    points = window.take()
    assert [(point.env_steps, point.values["eval/return_mean"]) for point in points] == [
        (update * 10, float(update)) for update in range(1, 101)
    ]


def test_a_late_evaluation_stands_at_its_place_and_moves_nothing_else():
    window = Window()
    window.add({"loss/value": 1.0}, 100, 10, 1.0)
    window.add({"eval/return_mean": 7.0}, 50, 5, 2.0)
    assert [(point.env_steps, set(point.values)) for point in window.take()] == [
        (50, {"eval/return_mean"}),
        (100, {"loss/value"}),
    ]


def test_episode_curves_are_thinned_without_losing_their_mean():
    window = Window()
    count = CURVE_POINTS * 8
    for update in range(1, count + 1):
        window.add({"return/mean": float(update)}, update, update, 0.0)
    points = window.take()
    assert len(points) == CURVE_POINTS
    assert points[-1].env_steps == count
    assert sum(point.values["return/mean"] for point in points) / len(points) == pytest.approx((count + 1) / 2)


def test_the_record_is_copied():
    window, record = Window(), {"loss/value": 1.0}
    window.add(record, 1, 1, 0.0)
    record["loss/value"] = 99.0
    assert window.take()[0].values == {"loss/value": 1.0}


@pytest.mark.parametrize("tag", ["staleness/max", "return/min", "policy/max_ratio", "loss/value"])
def test_nan_is_never_hidden(tag: str):
    assert math.isnan(reducer(tag)([1.0, math.nan, 2.0]))


def test_the_page_and_the_code_name_the_same_tags():
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+/[a-z_0-9]+)` \| (.+) \|$", page, re.MULTILINE))
    groups = dict(re.findall(r"^\| `([a-z]+)/\*` \| (.+) \|$", page, re.MULTILINE))
    assert rows == TAGS
    assert groups == GROUPS
    assert all(group(tag) in GROUPS for tag in TAGS)
