"""Loading, overriding, writing and comparing configs; YAML as users expect it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.config.algorithm import AlgorithmConfig, check_algorithm, fill_algorithm
from distrl.config.load import changed_keys, dump_config, load_config, resume_allowed
from distrl.config.schema import RunConfig
from distrl.config.yaml_text import dump, parse

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole_ppo.yaml"
MINIMAL: dict[str, Any] = {
    "name": "x",
    "env": {"id": "CartPole-v1"},
    "algorithm": {"name": "ppo"},
    "stop": {"updates": 3},
}


def test_example() -> None:
    config = load_config(EXAMPLE)
    assert (config.name, config.backend, config.env.num_envs, config.env.streams) == ("cartpole-ppo", "ray", 8, 2)
    assert config.algorithm["learning_rate"] == {"from": 1e-3, "to": 0, "over": "run"}
    assert (config.samplers.count, config.stop.env_steps, config.stop.return_mean) == (2, 100_000, 475.0)


def test_every_example_loads() -> None:
    examples = sorted(EXAMPLE.parent.glob("*.yaml"))
    assert examples
    for path in examples:
        load_config(path)


def test_overrides() -> None:
    config = load_config(
        EXAMPLE, ["algorithm.gamma=0.9", "stop.env_steps=1e5", "env.kwargs={size: 3}", "ray.address=auto", "seed=7"]
    )
    assert config.algorithm["gamma"] == 0.9
    assert config.stop.env_steps == 100_000
    assert isinstance(config.stop.env_steps, int)
    assert config.env.kwargs == {"size": 3}
    assert (config.ray.address, config.seed) == ("auto", 7)


def test_override_inside_a_schedule_and_last_one_wins() -> None:
    config = load_config(EXAMPLE, ["algorithm.clip.to=0.1", "seed=1", "seed=2"])
    assert config.algorithm["clip"] == {"from": 0.2, "to": 0.1, "over": "run"}
    assert config.seed == 2


def test_sources_are_left_as_they_are() -> None:
    source = {**MINIMAL, "env": {"id": "CartPole-v1"}}
    load_config(source, ["env.num_envs=3"])
    assert source["env"] == {"id": "CartPole-v1"}


def test_config_as_source_derives_its_defaults_again() -> None:
    config = load_config(MINIMAL)
    assert config.env.streams == 8
    assert load_config(config, ["env.num_envs=6"]).env.streams == 6


@pytest.mark.parametrize(("num_envs", "streams"), [(1, 1), (4, 4), (8, 8), (12, 6), (13, 1), (64, 8)])
def test_default_streams_divide(num_envs: int, streams: int) -> None:
    config = load_config(MINIMAL, [f"env.num_envs={num_envs}"])
    assert config.env.streams == streams
    assert config.env.envs_per_stream * streams == num_envs


def test_default_evaluator_size() -> None:
    assert load_config(MINIMAL, ["eval.episodes=3"]).eval.num_envs == 3
    assert load_config(MINIMAL, ["eval.episodes=100"]).eval.num_envs == 16
    assert load_config(MINIMAL, ["eval.num_envs=5"]).eval.num_envs == 5


def test_wrapper_calls() -> None:
    config = load_config(MINIMAL, ["env.wrappers=[a:B, {c:D: {n: 1}}, {e: }]"])
    assert config.env.wrapper_calls == [("a:B", {}), ("c:D", {"n": 1}), ("e", {})]


def test_serial_with_several_samplers_is_fine() -> None:
    assert load_config(MINIMAL, ["backend=serial", "samplers.count=4"]).samplers.count == 4


def test_configs_do_not_change() -> None:
    config = load_config(MINIMAL)
    with pytest.raises(Exception, match="frozen"):
        config.seed = 3  # type: ignore[misc]


def test_kwargs_become_plain_data() -> None:
    source = {**MINIMAL, "env": {"id": "x", "kwargs": {"shape": (2, np.int64(3)), "scale": np.float32(0.5)}}}
    kwargs = load_config(source).env.kwargs
    assert kwargs == {"shape": [2, 3], "scale": 0.5}
    assert type(kwargs["shape"][1]) is int


def test_dump_reads_back(tmp_path: Path) -> None:
    config = load_config(EXAMPLE, ["env.kwargs={a: 'off', b: '1e-3', c: '010', d: 1e-7}", "samplers.cpus=0.5"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert path.read_text() == dump_config(load_config(path))


keys = st.text(min_size=1, max_size=8)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=12),
    st.sampled_from(["1e-3", "off", "yes", "0o7", "010", "1:30", "2024-01-01", "~", "<<", "=", "1_000", ".5", "0x1F"]),
)  # fmt: skip
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@given(trees)
def test_any_plain_data_reads_back(tree: Any) -> None:
    again = parse(dump(tree), "test")
    assert again == tree
    assert repr(again) == repr(tree)  # 1 is not 1.0, and not True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e5", 1e5),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("-.inf", -float("inf")),
        ("100_000", 100_000),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("off", "off"),
        ("yes", "yes"),
        ("True", True),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("", None),
        ("~", None),
        ("'1'", "1"),
        ("CartPole-v1", "CartPole-v1"),
        ("module:Class", "module:Class"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found = parse(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_may_be_overridden() -> None:
    assert parse("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}", "test")["b"] == {"x": 3, "y": 2}


def with_(*overrides: str) -> RunConfig:
    return load_config(EXAMPLE, overrides)


def test_changed_keys() -> None:
    changed = changed_keys(with_(), with_("seed=3", "env.kwargs={a: 1}", "algorithm.lam=0.9", "algorithm.extra=1"))
    assert changed == ["seed", "env.kwargs", "algorithm.lam", "algorithm.extra"]
    assert changed_keys(with_(), with_()) == []


@pytest.mark.parametrize(
    "override",
    [
        "stop.env_steps=200000", "stop.window=50", "samplers.count=1", "samplers.timeout=5", "learner.device=cpu",
        "learner.threads=2", "learner.compile=true", "learner.prefetch=false", "logging.console=quiet",
        "checkpoint.keep=9", "ray.address=auto", "backend=serial",
    ],
)  # fmt: skip
def test_resume_may_change(override: str) -> None:
    assert resume_allowed(with_(), with_(override)) == [override.split("=")[0]]


def test_resume_may_change_processes() -> None:
    old, new = with_("learner.shards=2"), with_("learner.shards=2", "learner.processes=2")
    assert resume_allowed(old, new) == ["learner.processes"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=1", "seed (0 -> 1)"),
        ("name=other", "name ('cartpole-ppo' -> 'other')"),
        ("env.num_envs=16", "env.num_envs (8 -> 16)"),
        ("algorithm.gamma=0.9", "algorithm.gamma (0.98 -> 0.9)"),
        ("algorithm.beta=1", "algorithm.beta ('default' -> 1)"),
        ("model.hidden=[32]", "model.hidden ([64, 64] -> [32])"),
        ("learner.shards=2", "learner.shards (1 -> 2)"),
        ("learner.precision=bf16", "learner.precision ('fp32' -> 'bf16')"),
        ("store.max_staleness=1", "store.max_staleness (0 -> 1)"),
        ("eval.every=5", "eval.every (10000 -> 5)"),
        ("deterministic=true", "deterministic (False -> True)"),
    ],
)
def test_resume_refuses(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resume_allowed(with_(), with_(override, "stop.env_steps=5"))
    assert f"--resume cannot change {named}." in str(caught.value)


class Example(AlgorithmConfig):
    minibatches: int = 1
    """Minibatches."""


def test_filled_algorithm_compares_equal_to_written_defaults() -> None:
    silent = load_config(MINIMAL)
    spoken = load_config(MINIMAL, ["algorithm.gamma=0.99", "algorithm.minibatches=1"])
    assert changed_keys(silent, spoken) == ["algorithm.gamma", "algorithm.minibatches"]
    filled = [fill_algorithm(config, check_algorithm(config, Example)) for config in (silent, spoken)]
    assert changed_keys(*filled) == []
    assert load_config(dict(parse(dump_config(filled[0]), "x"))) == filled[0]
