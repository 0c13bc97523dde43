"""Presets: truncated quantile critics, and high replay ratios with random pairs of the ensemble and resets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distrl.functional.atoms import equal_probs
from distrl.functional.bellman.ensembles import critic_rule, truncated
from tests.support.continuous_cases import learn, make_batch, make_learner

POOL = torch.tensor([[[1.0, 2.0, 9.0]], [[0.0, 3.0, 4.0]]])  # two critics, one row, three atoms


def test_exact_truncation():
    kept = truncated(POOL, equal_probs(POOL), drop=1)
    assert kept.values.tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert kept.values.mean().item() == 1.5
    everything = truncated(POOL, equal_probs(POOL), drop=0)
    assert everything.values.mean().item() == pytest.approx(3.1667, abs=1e-4)


def test_the_fast_path_is_the_slow_one():
    values = torch.randn(3, 16, 7)
    fast = truncated(values, equal_probs(values), drop=2)
    slow = truncated(values.requires_grad_(), equal_probs(values), drop=2)
    assert torch.equal(fast.values, slow.values)
    assert torch.equal(fast.probs, slow.probs)
    weighted = truncated(values, torch.full_like(values, 1 / 7), drop=2)  # not one number seen from everywhere
    torch.testing.assert_close((weighted.values * weighted.probs).sum(-1), fast.values.mean(-1))


def test_one_critic_with_one_atom_is_sac():
    """n = 1, M = 1, d = 0: half of Huber's loss (tau = 0.5) of SAC's target, and the same actor."""
    options = {"critics": 1, "temperature": 0.1}
    tqc = make_learner("tqc", critic_head={"name": "quantile", "size": 1}, drop=0, **options)
    sac = make_learner("sac", **options)
    for part in ("policy", "critics"):
        sac.modules[part].flat.data.copy_(tqc.modules[part].flat.data)
    sac.sync_targets()
    tqc.sync_targets()
    batch = make_batch()
    q = sac.critics(batch.obs, sac.scale.to_unit(batch.action)).detach()
    torch.testing.assert_close(q, tqc.critics(batch.obs, tqc.scale.to_unit(batch.action)).detach())
    with torch.no_grad():
        noise = torch.randn(32, 2)
        action, logp = sac.policy.sample(batch.next_obs, noise)
        rng = np.random.default_rng(0)
        distributions = [learner.next_return(batch.next_obs, action, rng) for learner in (sac, tqc)]
    torch.testing.assert_close(distributions[0].values, distributions[1].values)
    target = torch.randn(32, 1)
    losses = tqc.critic_losses(q, target, torch.ones(32, 1)).squeeze(0)
    torch.testing.assert_close(losses, 0.5 * F.huber_loss(q.squeeze(), target.squeeze(), reduction="none"))
    torch.testing.assert_close(
        tqc.action_value(batch.obs, action).detach(), sac.action_value(batch.obs, action).detach()
    )
    assert logp.shape == (32,)


def test_the_actor_sees_all_atoms_and_targets_only_the_lower_ones():
    learner = make_learner("tqc")
    batch, rng = make_batch(), np.random.default_rng(0)
    action = torch.zeros(32, 2)
    atoms = learner.critics(batch.obs, action)
    torch.testing.assert_close(learner.action_value(batch.obs, action), atoms.mean((0, 2)))
    with torch.no_grad():
        distribution = learner.next_return(batch.obs, action, rng)
    assert distribution.values.shape == (32, 2 * 23)
    pooled = torch.cat(tuple(atoms), -1).sort(-1).values[:, :46]
    torch.testing.assert_close(distribution.values, pooled.detach())


def test_quantile_minimum_and_mixture():
    probs = equal_probs(POOL)
    assert critic_rule("quantile_min")(POOL, probs).values.tolist() == [[0.0, 2.0, 4.0]]
    assert critic_rule("mean")(POOL, probs).values.mean().item() == pytest.approx(19 / 6)
    assert critic_rule("min")(POOL, probs).values.tolist() == [[0.0, 3.0, 4.0]]


def test_targets_come_from_a_random_pair():
    learner = make_learner("redq", critics=5)
    batch, action = make_batch(), torch.zeros(32, 2)
    with torch.no_grad():
        everyone = learner.target_critics(batch.obs, action).squeeze(-1)
        pairs = set()
        for seed in range(60):
            distribution = learner.next_return(batch.obs, action, np.random.default_rng(seed))
            chosen = np.random.default_rng(seed).choice(5, 2, replace=False)
            torch.testing.assert_close(distribution.values.squeeze(-1), everyone[chosen].amin(0))
            pairs.add(tuple(sorted(chosen.tolist())))
    assert len(pairs) == 10  # all of them


def test_the_actor_sees_the_mean_of_all_critics():
    learner = make_learner("redq", critics=5)
    batch, action = make_batch(), torch.zeros(32, 2)
    torch.testing.assert_close(learner.action_value(batch.obs, action), learner.critics(batch.obs, action).mean((0, 2)))


def test_resets():
    learner = make_learner("redq", critics=3, reset_every=4, policy_interval=1)
    first = learner.modules["critics"].flat.data.clone()
    learn(learner, [make_batch(seed=step) for step in range(3)])
    before = {name: part.flat.data.clone() for name, part in learner.modules.items()}
    learn(learner, [make_batch(seed=3)])
    for name, part in learner.modules.items():
        moved = (part.flat.data - before[name]).abs().max().item()
        assert moved > (0.05 if name != "number" else 0.0), name  # a gradient step moves 3e-4
        assert all(not slot.any() for slot in part.optimizer_state()["0"].values())
        if part.target is not None:
            assert torch.equal(part.flat.data, part.target_flat.data)
    assert not torch.equal(first, learner.modules["critics"].flat.data)
    assert learner.log_temperature.item() == 0.0
    assert learner.gradient_steps == 4
    learn(learner, [make_batch(seed=4)])  # and learning goes on
