"""High replay ratios: random pairs of the ensemble, a policy that moves once a round, resets."""

from __future__ import annotations

import numpy as np
import torch

from tests.support.continuous_cases import learn, make_batch, make_learner


def test_targets_come_from_a_random_pair():
    learner = make_learner("redq", critics=5)
    batch, action = make_batch(), torch.zeros(32, 2)
    with torch.no_grad():
        everyone = learner.target_critics(batch.obs, action).squeeze(-1)
        pairs = set()
        for seed in range(60):
            law = learner.next_law(batch.obs, action, np.random.default_rng(seed))
            chosen = np.random.default_rng(seed).choice(5, 2, replace=False)
            torch.testing.assert_close(law.values.squeeze(-1), everyone[chosen].amin(0))
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
