"""COPO: a prompt against its group and against the batch."""

from __future__ import annotations

import pytest
import torch

from distrl.language.algorithms.group_relative.copo import blended
from tests.support.text_worlds import TextWorld, same_next_update


def test_copo_without_its_global_term_is_grpo() -> None:
    world = TextWorld("copo", steepness=1e6, threshold=-1.0)
    batch = world.algorithm.prepare(world.batch(0))
    assert torch.all(batch.local_weight == 1)
    other = TextWorld(
        "grpo", aggregation="group_mean", objective={"name": "token_ppo", "clip_low": 0.2, "clip_high": 0.28}
    )
    expected = other.gradient(other.algorithm.prepare(other.batch(0)))
    assert float(expected.norm()) > 0
    torch.testing.assert_close(world.gradient(batch), expected)


def test_copo_learns_where_all_answers_are_equally_good() -> None:
    world = TextWorld("copo")
    batch = world.batch(0)
    solved = torch.isin(batch.group, batch.group.unique()[:4])  # half of the prompts always solved, half never
    batch = world.algorithm.prepare(batch.with_(components=solved.double()[:, None].expand(-1, 2), correct=solved))
    assert torch.all(batch.advantage == 0)
    together = blended(batch)
    assert torch.all(together[solved] > 0)
    assert torch.all(together[~solved] < 0)
    assert float(world.gradient(batch).norm()) > 0
    assert world.algorithm.batch_metrics(batch)["text/zero_advantage_share"] == 0


@pytest.mark.parametrize("name", ["copo"])
def test_the_state_alone_decides_the_next_updates(name: str) -> None:
    same_next_update(TextWorld(name))
