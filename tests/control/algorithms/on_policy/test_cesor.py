"""CeSoR (entry 76): the gradient, whole episodes out of fragments, and contexts chosen through the first action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.base.columns import Columns, tree_map
from distrl.base.errors import ConfigError, NonFiniteError
from distrl.base.pack import load_state, save_state
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.control.algorithms.on_policy.episode_memory import EpisodeMemory, episode_returns
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.wrappers.context import GuardedPath
from distrl.control.models.context_policy import TRIES, beta_log_density, beta_sample
from distrl.control.samplers.sampler import EnvSampler
from distrl.experience.fragment import CollectRequest, Unit
from distrl.models.parameters.published import pack_weights
from tests.learning.rollouts import update
from tests.support.envs import env_config

ENV = env_config(
    id="distrl.control.envs.wrappers.context:GuardedPath",
    kwargs={},
    wrappers=["choose_context"],
    max_episode_steps=12,
    frame_stack=1,
    backend="gymnasium",
)


def make(seed: int = 0, recurrent: str | None = None, action: Any = None, **config: Any) -> Any:
    env = make_env(ENV)
    cls = register.get("algorithm", "cesor")
    checked = cls.Config(name="cesor", **config)
    shapes = env.observation_space, env.action_space if action is None else action
    model = cls.build_model(*shapes, ModelConfig(hidden=[16], recurrent=recurrent), checked, seed=seed)
    algorithm = cls(checked, model)
    algorithm.resolve(0, 1000)
    return algorithm


class Collector:
    """A sampler of one stream of `GuardedPath`."""

    def __init__(self, algorithm: Any, envs: int = 4, steps: int = 16):
        model = algorithm.acting_model(algorithm.model)
        self.algorithm, self.seq = algorithm, 0
        self.sampler = EnvSampler(
            0,
            type(model)(model.policy),
            lambda stream, start: make_vector(ENV, envs, lambda i, episode: 1000 * i + episode),
            rollout_steps=steps,
            seed=0,
        )

    def __call__(self) -> Columns:
        request = CollectRequest(Unit(self.seq, 0), self.seq, assign=self.seq == 0)
        self.seq += 1
        weights = pack_weights(self.algorithm.model, request.version)
        ((_, data),) = self.sampler.collect([request], weights)
        return data.rollout.map(lambda leaf: torch.from_numpy(leaf.copy()))


def test_the_first_action_chooses_the_context():
    env = make_env(ENV)
    first, _ = env.reset(seed=3)
    obs, reward, terminated, _, info = env.step({"action": 1, "context": np.array([0.95, 1.0], np.float32)})
    assert (reward, terminated, info["context"]) == (0.0, False, pytest.approx(0.95))
    assert np.array_equal(first, obs)
    steps = [env.step({"action": 1, "context": np.array([0.0, 0.0], np.float32)}) for _ in range(4)]
    assert [step[1] for step in steps] == pytest.approx([-1.0, -1.0 - 8.0 * 0.875, -1.0, 9.0], abs=1e-5)
    assert steps[-1][2]
    free = []
    for seed in range(200):
        env.reset(seed=seed)
        free.append(env.step({"action": 1, "context": np.array([-1.0, -1.0], np.float32)})[4]["context"])
    assert np.mean(free) == pytest.approx(0.5, abs=0.08)  # left open: the environment's own distribution
    assert np.mean(np.array(free) > 0.8) == pytest.approx(0.2, abs=0.08)


def test_the_two_ways_of_the_guarded_path():
    def walk(actions: list[int], context: float) -> float:
        env = GuardedPath()
        env.reset(seed=0, options={"context": [context]})
        return sum(env.step(action)[1] for action in actions)

    short, long = [1] * 4, [0, 1, 1, 1, 1, 2]
    assert [walk(short, c) for c in (0.0, 0.6, 0.8, 1.0)] == pytest.approx([6.0, 6.0, 2.0, -2.0])
    assert [walk(long, c) for c in (0.0, 1.0)] == [4.0, 4.0]


@pytest.mark.parametrize("mean", [0.05, 0.3, 0.5, 0.97])
def test_contexts_have_the_distribution_of_their_density(mean: float):
    rng = np.random.default_rng(0)
    uniform = torch.from_numpy(rng.random((20_000, 2, TRIES), dtype=np.float32))
    drawn = beta_sample(torch.full((20_000,), mean), uniform).double()
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.01)
    assert float(drawn.var()) == pytest.approx(mean * (1 - mean) / 3, abs=0.005)  # a + b = 2
    inside = torch.linspace(0.2, 0.8, 601, dtype=torch.float64)
    mass = torch.trapezoid(beta_log_density(inside, torch.tensor(mean, dtype=torch.float64)).exp(), inside)
    assert float(((drawn > 0.2) & (drawn < 0.8)).double().mean()) == pytest.approx(float(mass), abs=0.015)


def test_the_policy_draws_from_source_and_sampler_in_their_shares():
    algorithm = make(source_share=0.25)
    policy = algorithm.policy
    policy.context_mean.fill_(0.9)
    params = policy(torch.zeros(4000, 10))[0].detach()
    noise = torch.from_numpy(policy.actions.draw_noise(np.random.default_rng(0), (4000,)))
    action = policy.actions.sample(params, noise)
    contexts, source = action["context"].unbind(-1)
    assert float(source.mean()) == pytest.approx(0.25, abs=0.03)
    assert float(contexts[source > 0].mean()) == pytest.approx(0.5, abs=0.04)
    assert float(contexts[source == 0].mean()) == pytest.approx(0.9, abs=0.02)
    assert policy.actions.mode(params)["context"].eq(-1.0).all()


def test_level_one_is_reinforce_with_the_mean_as_baseline():
    """Entry 76: a = 1 and source episodes only."""
    algorithm = make(level=1.0, source_share=1.0, episodes=4, max_grad_norm=None)
    collect, memory = Collector(algorithm), EpisodeMemory()
    while len(memory) < 6:
        memory.add(collect())
    episodes = memory.take()
    batch, metrics, _ = algorithm.episode_batch(episodes, 1.0)
    algorithm.gradient(batch, algorithm.loss)
    found = algorithm.flat.grad.clone()
    algorithm.flat.zero_grad()
    returns = torch.stack([episode.reward.sum() for episode in episodes])
    total = torch.zeros(())
    for episode, advantage in zip(episodes, returns - returns.mean(), strict=True):
        params, _ = algorithm.policy(episode.obs[1:])
        logp = params[:, :4].log_softmax(-1).gather(-1, episode.action["action"][1:, None]).sum()
        total = total - advantage * logp / len(episodes)
    total.backward()
    torch.testing.assert_close(found, algorithm.flat.grad, rtol=1e-4, atol=1e-5)
    assert metrics["policy/effective_episodes"] == pytest.approx(len(episodes))
    assert metrics["policy/threshold"] == pytest.approx(float(returns.mean()))


def test_only_the_worst_episodes_count_below_level_one():
    """Returns 1..10 at level 0.3: those below the quantile, in proportion to how far they are below."""
    algorithm = make(level=0.3, soft_share=0.0)
    batch, metrics, _ = algorithm.episode_batch([episode(float(r), 0.4) for r in range(1, 11)], 0.3)
    assert metrics["policy/threshold"] == pytest.approx(3.7)
    expected = [(r - 3.7) / 3 if r < 3.7 else 0.0 for r in range(1, 11)]
    assert batch.coefficient[::2].tolist() == pytest.approx(expected)


def episode(reward: float, context: float, drawn_by: float = 0.5, source: bool = True) -> Columns:
    """Two steps after the choice, the first of them paid."""
    chosen = torch.tensor([[context, float(source)]]).expand(3, 2)
    return Columns(
        obs=torch.zeros(3, 10),
        action={"action": torch.zeros(3, dtype=torch.int64), "context": chosen},
        reward=torch.tensor([0.0, reward, 0.0]),
        params=torch.cat([torch.zeros(3, 4), torch.full((3, 1), drawn_by)], -1),
        logp=torch.zeros(3),
    )


def test_weights_correct_for_the_sampler_that_drew():
    algorithm = make(level=0.5, soft_share=0.0)
    episodes = [episode(0.0, 0.9, 0.8, source=False), episode(0.0, 0.9), episode(10.0, 0.1), episode(10.0, 0.1)]
    density = float(beta_log_density(torch.tensor(0.9), torch.tensor(0.8)).exp())
    batch, metrics, _ = algorithm.episode_batch(episodes, 0.5)
    ratio = float(batch.coefficient[0] / batch.coefficient[2])
    assert ratio == pytest.approx(1.0 / density, rel=1e-4)
    assert metrics["policy/effective_episodes"] < 4


def test_the_sampler_moves_to_contexts_of_bad_episodes():
    algorithm = make(level=0.1, soft_share=0.0, episodes=50)
    contexts = np.linspace(0.01, 0.99, 100)
    episodes = [episode(-float(c > 0.8), float(c)) for c in contexts]
    _, _, mean = algorithm.episode_batch(episodes, 0.1)
    assert float(mean) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("burnt", [False, True])
def test_episodes_are_joined_over_fragments(burnt: bool):
    rng, envs, steps = np.random.default_rng(1), 3, 5
    memory, expected, running = EpisodeMemory(), [], [[] for _ in range(envs)]
    fresh, burning, count = np.ones(envs, bool), np.zeros(envs, bool), 0
    for _ in range(8):
        columns: dict[str, Any] = {name: np.zeros((steps, envs), bool) for name in ("terminated", "first", "valid")}
        reward = np.zeros((steps, envs), np.float32)
        for t in range(steps):
            for b in range(envs):
                columns["valid"][t, b], columns["first"][t, b] = not burning[b], fresh[b] and not burning[b]
                if burning[b]:
                    burning[b] = False
                    continue
                fresh[b], reward[t, b], count = False, count, count + 1
                running[b].append(float(reward[t, b]))
                if rng.random() < 0.25:
                    columns["terminated"][t, b], fresh[b], burning[b] = True, True, burnt
                    expected.append(running[b])
                    running[b] = []
        rollout = Columns(reward=reward, truncated=np.zeros((steps, envs), bool), **columns).map(torch.from_numpy)
        memory.add(rollout if burnt else rollout.without("valid"))
    found = [part.reward.tolist() for part in memory.take()]
    assert sorted(found) == sorted(expected)
    assert max(map(len, found)) > steps


def test_beginnings_that_were_not_seen_are_dropped():
    ends = torch.tensor([[False], [True], [False], [True]])
    first = torch.tensor([[False], [False], [True], [False]])
    rollout = Columns(
        reward=torch.tensor([[1.0], [2.0], [3.0], [4.0]]), terminated=ends, truncated=ends & False, first=first
    )
    memory = EpisodeMemory()
    memory.add(rollout)
    assert [part.reward.tolist() for part in memory.take()] == [[3.0, 4.0]]


def test_discounted_returns():
    parts = [Columns(reward=torch.tensor([1.0, 2.0, 4.0])), Columns(reward=torch.tensor([3.0]))]
    assert episode_returns(parts, 0.5).tolist() == [3.0, 3.0]
    assert episode_returns(parts, 1.0).tolist() == [7.0, 3.0]


def test_a_restored_learner_goes_on_to_the_bit(tmp_path: Path):
    first = make(episodes=8)
    collect = Collector(first)
    for number in range(3):
        first.resolve(100 * number, 1000)
        update(first, collect(), number)
    assert float(first.policy.context_mean) != 0.5
    save_state(tmp_path / "state.safetensors", first.state())
    second = make(seed=4, episodes=8)
    second.load_state(load_state(tmp_path / "state.safetensors"))
    for number in (3, 4):
        rollout = collect()
        for algorithm in (first, second):
            algorithm.resolve(100 * number, 1000)
        assert update(first, rollout, number) == update(second, rollout, number)
    assert torch.equal(first.flat.data, second.flat.data)
    assert torch.equal(first.policy.context_mean, second.policy.context_mean)


def test_a_refused_batch_changes_nothing():
    algorithm = make(episodes=4)
    collect = Collector(algorithm)
    update(algorithm, collect())
    before, waiting = algorithm.state()["model"], len(algorithm.memory)
    rollout = collect()
    with pytest.raises(NonFiniteError):
        update(algorithm, rollout.with_(reward=torch.full_like(rollout.reward, torch.inf)))
    tree_map(lambda old, new: torch.testing.assert_close(old, new, rtol=0, atol=0), before, algorithm.state()["model"])
    assert len(algorithm.memory) == waiting
    assert "loss/actor" in update(algorithm, rollout)


def test_the_level_comes_down_over_the_run():
    algorithm = make(level=0.1, soft_share=0.8)
    levels = []
    for steps in (0, 400, 800, 1000):
        algorithm.resolve(steps, 1000)
        levels.append(algorithm.level())
    assert levels == pytest.approx([1.0, 0.55, 0.1, 0.1])
    algorithm.resolve(0, None)
    with pytest.raises(ConfigError, match=r"stop\.env_steps"):
        algorithm.level()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": spaces.Discrete(4)}, "choose_context"),
        ({"recurrent": "gru"}, "single steps"),
        ({"source_share": 0.0}, "source_share is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_an_environment_without_context_is_refused():
    with pytest.raises(ConfigError, match="has no context"):
        make_env(env_config(id="CartPole-v1", kwargs={}, wrappers=["choose_context"]))
    with pytest.raises(ConfigError, match="guard_probability"):
        GuardedPath(guard_probability=0.0)
