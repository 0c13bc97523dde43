"""An agent in a plain loop does what the evaluator's policy does in ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import distrl
from distrl.base.columns import tree_leaves, tree_map, tree_stack
from distrl.base.errors import CheckpointError, UserError
from distrl.base.seeds import seed_for
from distrl.control.envs.backends.loop import LoopVectorEnv
from distrl.deploy.agent import Agent
from distrl.deploy.evaluate import Evaluator
from distrl.deploy.policy_file import SavedPolicy
from tests.deploy.conftest import MakePolicy
from tests.support.cases import CASES


def play(agent: Agent, seed: int) -> tuple[float, int, list[Any]]:
    """One episode in a loop as a user writes it."""
    env = agent.make_env()
    agent.reset()
    obs, info = env.reset(seed=seed)
    total, actions, over = 0.0, [], False
    while not over:
        action = agent.act(obs, mask=info.get("action_mask"))
        assert env.action_space.contains(action)
        obs, reward, terminated, truncated, info = env.step(action)
        total, over = total + float(reward), terminated or truncated
        actions.append(action)
    env.close()
    return total, len(actions), actions


@pytest.mark.parametrize("case", CASES)
def test_agent_plays_the_evaluators_episodes(
    case: str, make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same seeds, same actions, same returns, though the evaluator's environments stack frames and reset themselves."""
    env_id, overrides = CASES[case]
    path = make_policy(env_id, *overrides)
    saved = SavedPolicy.read(path)
    seen: list[Any] = []
    step = LoopVectorEnv.step

    def recorded(self: LoopVectorEnv, action: Any) -> Any:
        seen.append(tree_map(np.copy, action))
        return step(self, action)

    monkeypatch.setattr(LoopVectorEnv, "step", recorded)
    result = Evaluator(saved.config.env, 1, seed=11).evaluate(saved.build(), 4)
    agent = distrl.load(path)
    played = [play(agent, seed_for(11, "eval", episode)) for episode in range(4)]
    assert [length for _, length, _ in played] == result.lengths
    np.testing.assert_allclose([total for total, _, _ in played], result.returns, rtol=1e-5, atol=1e-5)
    mine = [action for _, _, actions in played for action in actions]
    theirs = [agent._split(agent._clip(action))[0] for action in seen]
    for one, other in zip(mine, theirs, strict=True):
        for leaf, expected in zip(tree_leaves(one), tree_leaves(other), strict=True):
            np.testing.assert_allclose(leaf, expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_is_as_many_single_observations(case: str, make_policy: MakePolicy) -> None:
    env_id, overrides = CASES[case]
    path = make_policy(env_id, *overrides)
    together, singles = distrl.load(path), [distrl.load(path) for _ in range(3)]
    together.observation_space.seed(0)
    for t in range(6):
        rows = [together.observation_space.sample() for _ in range(3)]
        first = np.array([False, t == 3, False])
        if t == 3:
            singles[1].reset()
        batch = together.params(tree_stack([tree_map(np.asarray, row) for row in rows]), first=first)
        each = np.stack([agent.params(row) for agent, row in zip(singles, rows, strict=True)])
        np.testing.assert_allclose(batch, each, atol=1e-5)


def test_drawn_actions_follow_the_distribution_and_the_seed(make_policy: MakePolicy) -> None:
    path = make_policy(*[CASES["plain"][0]])
    obs = np.full((4000, 5), 0.3, np.float32)
    agent = distrl.load(path, seed=1)
    drawn = agent.act(obs, deterministic=False)
    shares = np.bincount(drawn + 2, minlength=4) / len(drawn)
    expected = torch.softmax(torch.from_numpy(agent.params(obs[0])), -1).numpy()
    np.testing.assert_allclose(shares, expected, atol=0.04)  # 5 standard errors of a share over 4,000 draws
    assert (distrl.load(path, seed=1).act(obs, deterministic=False) == drawn).all()
    assert (distrl.load(path, seed=2).act(obs, deterministic=False) != drawn).any()


def test_masks_hold_for_every_row_of_a_batch(make_policy: MakePolicy) -> None:
    agent = distrl.load(make_policy(CASES["masked"][0]))
    rng = np.random.default_rng(0)
    obs, mask = rng.normal(size=(50, 5)).astype(np.float32), np.eye(4, dtype=bool)[rng.integers(4, size=50)]
    assert (agent.act(obs, mask=mask) == mask.argmax(1) - 2).all()
    assert (agent.act(obs, deterministic=False, mask=mask) == mask.argmax(1) - 2).all()


@pytest.mark.parametrize(
    ("case", "obs", "kwargs", "words"),
    [
        ("plain", np.zeros(4), {}, ["(4,)", "Box(5,)"]),
        ("plain", np.zeros((2, 2, 5)), {}, ["(2, 2, 5)"]),
        ("plain", "north", {}, ["Box(5,)"]),
        ("nested", {"arm": np.zeros(3)}, {}, ["arm", "button"]),
        ("plain", np.zeros(5), {"mask": np.zeros(4, bool)}, ["no action"]),
        ("plain", np.zeros(5), {"mask": np.ones(3, bool)}, ["(3,)", "(4,)"]),
        ("normalized", np.zeros(2), {"mask": np.ones(3, bool)}, ["cannot be masked"]),
    ],
)
def test_what_does_not_fit_is_named(
    case: str, obs: Any, kwargs: dict[str, Any], words: list[str], make_policy: MakePolicy
) -> None:
    agent = distrl.load(make_policy(CASES[case][0]))
    with pytest.raises(UserError) as caught:
        agent.act(obs, **kwargs)
    assert all(word in str(caught.value) for word in words), caught.value


def test_another_batch_size_needs_a_reset(make_policy: MakePolicy) -> None:
    agent = distrl.load(make_policy(CASES["gru"][0], "model.recurrent=gru"))
    agent.act(np.zeros((2, 5)))
    with pytest.raises(UserError, match="reset"):
        agent.act(np.zeros((3, 5)))
    agent.reset()
    assert agent.act(np.zeros((3, 5))).shape == (3,)


def test_load_takes_run_folders_checkpoints_and_files(make_policy: MakePolicy, tmp_path: Any) -> None:
    file = make_policy(CASES["plain"][0])
    run = tmp_path / "run"
    for name, update in (("update_00000001", 1), ("update_00000002", 2)):
        saved = SavedPolicy.read(file)
        saved.facts["update"] = update
        saved.save(run / "checkpoints" / name / "policy.safetensors")
    assert distrl.load(run).facts["update"] == 2
    assert distrl.load(str(run / "checkpoints" / "update_00000001")).facts["update"] == 1
    assert distrl.load(file).facts["update"] == 7
    with pytest.raises(CheckpointError, match="no policy in"):
        distrl.load(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"", b"not a policy", b"\x80\x04\x95 a pickle"])
def test_files_that_are_no_policies(content: bytes, tmp_path: Any) -> None:
    file = tmp_path / "policy.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError):
        distrl.load(file)
