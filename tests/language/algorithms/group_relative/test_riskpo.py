"""RiskPO: bundles of prompts and tracked quantiles."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.advantages.bundles import riskpo_mvar, track_quantile
from tests.support.text_worlds import TextWorld, same_next_update


def papers(batch) -> list[float]:
    """Scores of all papers of bundles of 4 prompts, by hand: answer k to prompts 4 b .. 4 b + 3."""
    prompts = [batch.reward[batch.group == group] for group in batch.group.unique()]
    return [sum(p[k].item() for p in prompts[b : b + 4]) for b in range(0, len(prompts), 4) for k in range(8)]


def test_riskpo_bundles_prompts_and_tracks_quantiles() -> None:
    world = TextWorld("riskpo")
    algorithm = world.algorithm
    batch = algorithm.prepare(world.batch(0))
    assert batch.bundle.unique().tolist() == [0, 1]
    assert batch.draw[batch.group == batch.group[0]].tolist() == list(range(8))
    scores = torch.tensor(papers(batch), dtype=torch.float64)
    low, high = float(scores.quantile(0.2)), float(scores.quantile(0.8))
    expected = riskpo_mvar(batch.reward, batch.group, batch.bundle, batch.draw, low_quantile=low, high_quantile=high)
    torch.testing.assert_close(batch.advantage, expected)
    world.turn(0)
    assert algorithm.quantiles == pytest.approx((low, high))
    following = algorithm.prepare(world.batch(1))
    own = riskpo_mvar(
        following.reward, following.group, following.bundle, following.draw, low_quantile=low, high_quantile=high
    )
    torch.testing.assert_close(following.advantage, own)
    world.turn(1)
    scores = torch.tensor(papers(following), dtype=torch.float64)
    assert algorithm.quantiles == pytest.approx((track_quantile(low, scores, 0.2), track_quantile(high, scores, 0.8)))
    assert world.metrics["policy/score_low"] == algorithm.quantiles[0]


@pytest.mark.parametrize(("mode", "share"), [("batch", 1.0), ("mix", 0.5)])
def test_riskpo_takes_the_batchs_own_quantiles_or_the_means(mode: str, share: float) -> None:
    world = TextWorld("riskpo", mode=mode)
    algorithm = world.algorithm
    first = algorithm.prepare(world.batch(0))
    columns = (first.reward, first.group, first.bundle, first.draw)
    torch.testing.assert_close(first.advantage, riskpo_mvar(*columns), rtol=0, atol=0)  # nothing tracked yet
    world.turn(0)
    low, high = algorithm.quantiles = (0.5, 2.25)  # as after worse batches
    batch = algorithm.prepare(world.batch(1))
    scores = torch.tensor(papers(batch), dtype=torch.float64)
    used = {
        "low_quantile": (1 - share) * low + share * float(scores.quantile(0.2)),
        "high_quantile": (1 - share) * high + share * float(scores.quantile(0.8)),
    }
    assert used != {"low_quantile": low, "high_quantile": high}
    expected = riskpo_mvar(batch.reward, batch.group, batch.bundle, batch.draw, **used)
    torch.testing.assert_close(batch.advantage, expected)
    world.turn(1)
    own = [float(scores.quantile(level)) for level in (0.2, 0.8)]
    tracked = [track_quantile(low, scores, 0.2), track_quantile(high, scores, 0.8)]
    assert algorithm.quantiles == pytest.approx(own if mode == "batch" else tracked)


def test_riskpo_refuses_what_makes_no_bundles() -> None:
    world = TextWorld("riskpo", bundle_size=3)
    with pytest.raises(ConfigError, match=r"8 prompts.*bundles of 3"):
        world.algorithm.prepare(world.batch(0))
    with pytest.raises(ConfigError, match="levels"):
        TextWorld("riskpo", levels=[0.8, 0.2])
    with pytest.raises(ConfigError, match="gives low_quantile, which riskpo sets"):
        TextWorld("riskpo", advantage={"name": "riskpo_mvar", "low_quantile": 1.0})


@pytest.mark.parametrize("name", ["riskpo"])
def test_the_state_alone_decides_the_next_updates(name: str) -> None:
    same_next_update(TextWorld(name))
