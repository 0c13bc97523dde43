"""Ragged group statistics and masked token sequences against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.language.chain import tokens
from distrl.language.chain.groups import Groups, outcome_entropy
from tests.support.llm_cases import CASES, by_group, gradient, ids, normal_like, ragged, rows, token_masks


@CASES
@given(ragged(smallest=1), st.floats(0.0, 1.0))
def test_statistics_of_ragged_groups_are_those_of_numpy(case, level):
    reward, group = case
    groups = Groups(group)
    found = {
        "mean": groups.mean(reward),
        "std": groups.std(reward, ddof=0),
        "low": groups.extremes(reward)[0],
        "high": groups.extremes(reward)[1],
        "median": groups.median(reward),
        "lme": groups.log_mean_exp(reward),
        **{how: groups.quantile(reward, level, how) for how in ("linear", "lower", "higher", "exact")},
    }
    for q, (index, x) in enumerate(by_group(reward, group)):
        ordered = np.sort(x)
        exact = next(v for v in ordered if (x <= v).mean() >= level - 1e-9)
        expected = {
            "mean": x.mean(),
            "std": x.std(),
            "low": x.min(),
            "high": x.max(),
            "median": ordered[(len(x) - 1) // 2],
            "lme": np.log(np.exp(x).mean()),
            "linear": np.quantile(x, level),
            "lower": ordered[int(np.floor(level * (len(x) - 1)))],
            "higher": ordered[int(np.ceil(level * (len(x) - 1)))],
            "exact": exact,
        }
        for name, value in expected.items():
            assert found[name][q].item() == pytest.approx(value, abs=1e-9), name
        assert groups.spread(groups.mean(reward))[index[0]] == found["mean"][q]
        assert groups.first_rows()[q] == index[0]


@CASES
@given(ragged(smallest=1))
def test_pairs_are_all_pairs_of_a_group(case):
    reward, group = case
    all_pairs = {(a, b) for a in range(len(group)) for b in range(a + 1, len(group)) if group[a] == group[b]}
    assert {tuple(pair) for pair in Groups(group).pairs().tolist()} == all_pairs
    neighbors = []
    for index, _ in by_group(reward, group):
        neighbors += [(int(a), int(b)) for a, b in zip(index[::2], index[1::2], strict=False)]
    assert {tuple(pair) for pair in Groups(group).pairs(adjacent=True).tolist()} == set(neighbors)


def test_log_mean_exp_of_nothing_is_zero_without_gradient():
    x, keep = rows(1.0, 2.0, 800.0, 801.0), torch.tensor([False, False, True, True])
    groups = Groups(ids(0, 0, 1, 1))
    assert groups.log_mean_exp(x, keep).tolist() == pytest.approx([0.0, 801.0 + np.log((1 + np.exp(-1)) / 2)])
    (slope,) = gradient(lambda y: groups.log_mean_exp(y, keep), x)
    share = 1 / (1 + np.e)
    assert slope.tolist() == pytest.approx([0.0, 0.0, share, 1 - share])


def test_unknown_interpolation_is_named():
    with pytest.raises(ConfigError, match="nearest"):
        Groups(ids(0, 0)).quantile(rows(0.0, 1.0), 0.5, "nearest")


def test_outcome_entropy_leaves_unreadable_answers_out():
    share, entropy, total = outcome_entropy(ids(4, 4, 4, 9, -1, 1, 1), Groups(ids(0, 0, 0, 0, 0, 2, 2)))
    assert share.tolist() == [0.75, 0.75, 0.75, 0.25, 0.0, 1.0, 1.0]
    assert entropy.tolist() == pytest.approx([0.5623351446188083, 0.0])
    assert total.tolist() == [4.0, 2.0]
    _, nothing, _ = outcome_entropy(ids(-1, -1), Groups(ids(0, 0)))
    assert nothing.tolist() == [0.0]


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from([0.0, 0.9, 1.0]))
def test_masked_sequences_against_loops(mask, seed, decay):
    x = normal_like(mask, seed)
    scanned = tokens.scan_trainable(x, decay, mask)
    following = tokens.next_trainable(x, mask, end=torch.arange(float(len(mask)), dtype=torch.float64))
    sums, means, last = tokens.sequence_sum(x, mask), tokens.sequence_mean(x, mask), tokens.last_token(mask)
    for n in range(len(mask)):
        places = torch.nonzero(mask[n]).squeeze(1).tolist()
        expected, after, later = torch.zeros_like(x[n]), torch.zeros_like(x[n]), 0.0
        for k in reversed(range(len(places))):
            later = x[n, places[k]] + decay * later
            expected[places[k]] = later
            after[places[k]] = x[n, places[k + 1]] if k + 1 < len(places) else float(n)
        torch.testing.assert_close(scanned[n], expected)
        assert torch.equal(following[n], after)
        assert torch.nonzero(last[n]).squeeze(1).tolist() == places[-1:]
        assert sums[n].item() == pytest.approx(sum(x[n, p].item() for p in places))
        assert means[n].item() == pytest.approx(sums[n].item() / max(len(places), 1))


@CASES
@given(token_masks(), st.integers(0, 1000), st.sampled_from([0, 1]))
def test_standardized_tokens(mask, seed, ddof):
    x = normal_like(mask, seed)
    found = tokens.masked_standardize(x, mask, eps=0.0, ddof=ddof)
    kept = x[mask].numpy()
    assert torch.all(found[~mask] == 0)
    if len(kept) < 2:
        assert torch.all(found == 0)
    else:
        np.testing.assert_allclose(found[mask].numpy(), (kept - kept.mean()) / kept.std(ddof=ddof), atol=1e-12)


def test_nothing_off_the_mask_has_a_gradient():
    mask = torch.tensor([[True, False]])
    logp, old = torch.tensor([[-1.0, -torch.inf]]), torch.tensor([[-2.0, -torch.inf]])
    (slope,) = gradient(lambda x: tokens.log_ratio(x, old, mask).exp(), logp)
    assert slope[0].tolist() == pytest.approx([np.e, 0.0], rel=1e-6)
