"""RiskPO: the weights of scores, bundles against loops, the online quantile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.advantages import bundles as r
from tests.support.llm_cases import CASES, ids, rows


@pytest.mark.parametrize(("natural", "expected"), [(False, [-3, 0.6667, 2, 2]), (True, [-5, -1.3333, 0, 0])])
def test_mixed_var_weights(natural, expected):
    found = r.mixed_var_weight(rows(0, 2, 4, 5), 1.0, 4.0, natural_baseline=natural)
    assert found.tolist() == pytest.approx(expected, abs=5e-5)


def test_risk_seeking_weighs_the_upper_tail():
    found = r.mixed_var_weight(rows(0, 4, 5), 1.0, 4.0, risk_seeking=True)
    assert found.tolist() == pytest.approx([0, 2, (5 + 1.5 * 1 / 0.2) / 2.5])


def test_the_tracked_quantile_settles():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(60_000, 10, generator=generator, dtype=torch.float64)
    quantile, seen = 0.0, []
    for scores in draws:
        quantile = r.track_quantile(quantile, scores, 0.2)
        seen.append(quantile)
    assert np.mean(seen[1000:]) == pytest.approx(-0.8416, abs=0.01)


def test_quantiles_between_the_tracked_and_the_batchs_own():
    reward = rows(0, 1, 2, 3, 4, 5)  # own quantiles at 0.2 and 0.8: 1 and 4
    options = {"low_quantile": 3.0, "high_quantile": 6.0}  # so half the way: 2 and 5
    same, draw = torch.zeros(6, dtype=torch.int64), torch.arange(6)
    found = r.riskpo_mvar(reward, same, same, draw, **options, batch_share=0.5)
    expected = rows(-1.5 * 2 / 0.2, -1.5 * 1 / 0.2, 0, 1 / 0.6, 2 / 0.6, 3 / 0.6) / 2.5 / (3.5**0.5 + 1e-6)
    torch.testing.assert_close(found, expected)
    for share, others in ((0.0, options), (1.0, {})):
        found = r.riskpo_mvar(reward, same, same, draw, **options, batch_share=share)
        torch.testing.assert_close(found, r.riskpo_mvar(reward, same, same, draw, **others), rtol=0, atol=0)
    assert r.mixed_quantile(reward, 0.2, None, 0.5) == 1.0  # nothing tracked yet


def bundles(seed: int, prompts: int = 3, draws: int = 4, count: int = 2):
    """Shuffled rows: reward, group, bundle, draw of `count` bundles."""
    rng = np.random.default_rng(seed)
    table = [(b * prompts + q, b, k) for b in range(count) for q in range(prompts) for k in range(draws)]
    group, bundle, draw = (torch.from_numpy(x) for x in rng.permutation(np.array(table)).T)
    return torch.from_numpy(rng.integers(0, 2, len(table)).astype(float)), group, bundle, draw


@CASES
@given(st.integers(0, 10_000), st.sampled_from(["uniform", "std", "sum_mean"]))
def test_bundles_against_loops(seed, credit):
    reward, group, bundle, draw = bundles(seed)
    found = r.riskpo_mvar(reward, group, bundle, draw, low_quantile=1.0, high_quantile=2.0, credit=credit)
    scores = {(b, k): reward[(bundle == b) & (draw == k)].sum().item() for b in range(2) for k in range(4)}
    for i in range(len(reward)):
        b, k = int(bundle[i]), int(draw[i])
        std = np.std([scores[b, j] for j in range(4)], ddof=1)
        weight = r.mixed_var_weight(rows(scores[b, k]), 1.0, 2.0).item()
        expected = weight if std < 1e-6 else weight / (std + 1e-6)
        own = reward[group == group[i]]
        if credit == "std":
            spread = own.std().item()
            expected /= 1.0 if spread <= 1e-3 else spread
        if credit == "sum_mean":
            paper = [j for j in range(len(reward)) if bundle[j] == b and draw[j] == k]
            surplus = {j: (reward[j] - reward[group == group[j]].mean()).item() for j in paper}
            total = sum(surplus.values())
            share = 1 / len(paper) if abs(total) < 1e-6 else surplus[i] / total
            expected *= min(2.0, max(-2.0, share))
        assert found[i].item() == pytest.approx(expected, abs=1e-9)


def test_equal_scores_are_not_divided():
    reward, group, bundle, draw = bundles(0)
    found = r.riskpo_mvar(reward * 0, group, bundle, draw, low_quantile=1.0, high_quantile=4.0)
    assert torch.all(found == -3)


def test_without_tracking_the_batch_gives_the_quantiles():
    reward, group, bundle, draw = bundles(3)
    scores, _ = r.paper_scores(reward, bundle, draw)
    low, high = np.quantile(scores, [0.2, 0.8])
    by_hand = r.riskpo_mvar(reward, group, bundle, draw, low_quantile=low, high_quantile=high)
    torch.testing.assert_close(r.riskpo_mvar(reward, group, bundle, draw), by_hand)


def test_prompts_without_differences_still_get_a_signal():
    # two prompts always solved, one never in half of the papers: only the bundle sees a difference
    reward, group, bundle = rows(1, 1, 1, 0), ids(0, 0, 1, 1), ids(0, 0, 0, 0)
    found = r.riskpo_mvar(reward, group, bundle, ids(0, 1, 0, 1), low_quantile=1.5, high_quantile=2.0)
    assert found[0] > found[1]
    with pytest.raises(ConfigError, match="equal"):
        r.riskpo_mvar(reward, group, bundle, ids(0, 1, 0, 1), credit="equal")
