"""Wrong configs and what the user is told: overrides of a good config, whole configs, or YAML text."""

from __future__ import annotations

from typing import Any, NamedTuple

#: A good config; overrides below make it wrong.
GOOD: dict[str, Any] = {
    "name": "good",
    "env": {"id": "CartPole-v1", "num_envs": 8, "streams": 2},
    "algorithm": {"name": "ppo"},
    "stop": {"env_steps": 1000},
}


class Wrong(NamedTuple):
    """A mistake and the words that must appear in its message."""

    mistake: list[str] | dict[str, Any] | str
    message: str


WRONG_CONFIGS: list[Wrong] = [
    # unknown keys: the nearest one, in this section or another
    Wrong(["num_envs=4"], "unknown key 'num_envs': did you mean env.num_envs?"),
    Wrong(["env.num_env=4"], "unknown key 'env.num_env': did you mean env.num_envs?"),
    Wrong(["sampler.count=2"], "unknown key 'sampler': did you mean samplers?"),
    Wrong(["stop.max_steps=5"], "unknown key 'stop.max_steps': did you mean stop.env_steps?"),
    Wrong(["lr=1e-3"], "unknown key 'lr': did you mean algorithm.learning_rate?"),
    Wrong(["env.gamma=0.9"], "unknown key 'env.gamma': did you mean algorithm.gamma?"),
    Wrong(["store.zebra=1"], "unknown key 'store.zebra'. Keys of store: capacity, max_staleness, memory_map, shards."),
    Wrong({**GOOD, "nme": "x"}, "unknown key 'nme': did you mean name?"),
    # missing
    Wrong({key: GOOD[key] for key in ("env", "algorithm", "stop")}, "name is missing"),
    Wrong({**GOOD, "env": {"num_envs": 4}}, "env.id is missing"),
    Wrong({**GOOD, "algorithm": {}}, "algorithm.name is missing. For example: algorithm.name=ppo."),
    Wrong(["stop.env_steps=null"], "stop has none of env_steps, tokens, return_mean, eval_mean, wall_seconds, updates"),
    Wrong(["stop.eval_mean=475"], "stop.eval_mean is set, but eval.every is 0"),
    Wrong(["stop.eval_in_a_row=0"], "stop.eval_in_a_row is 0; expected at least 1"),
    # wrong kinds of values
    Wrong(["env.num_envs=many"], "env.num_envs is 'many'; expected a whole number"),
    Wrong(["env.num_envs=2.5"], "env.num_envs is 2.5; expected a whole number"),
    Wrong(["env.num_envs=true"], "env.num_envs is true; expected a whole number"),
    Wrong(["env.clip_obs=[1]"], "env.clip_obs is [1]; expected a number"),
    Wrong(["checkpoint.every_seconds=.nan"], "checkpoint.every_seconds is nan; expected a finite number"),
    Wrong(["deterministic=perhaps"], "deterministic is 'perhaps'; expected true or false"),
    Wrong(["model.hidden=64"], "model.hidden is 64; expected a list, like [a, b]"),
    Wrong(["model.hidden=[64, 0]"], "model.hidden is [64, 0]; every layer needs at least 1 unit"),
    Wrong(["env=CartPole-v1"], "Did you mean env.id=CartPole-v1?"),
    Wrong(["algorithm=ppo"], "Did you mean algorithm.name=ppo?"),
    Wrong(["env.kwargs=[1]"], "env.kwargs is [1]; expected keys and values"),
    Wrong(["env.wrappers=[3]"], "env.wrappers[0] is 3; expected a name or {NAME: {kwargs}}"),
    Wrong(["name=2024"], 'name is 2024; expected text. Quote it: name: "2024".'),
    Wrong(["name=../up"], "name is '../up'; expected a folder name"),
    Wrong({**GOOD, "env": {"id": "X-v0", "kwargs": {"f": print}}}, "env.kwargs.f is a builtin_function_or_method"),
    # outside the allowed values
    Wrong(["backend=rays"], "backend is 'rays'; expected 'ray' or 'serial'. Did you mean backend=ray?"),
    Wrong(["env.backend=gym"], "env.backend is 'gym'; expected 'gymnasium', 'vector' or 'envpool'"),
    Wrong(["learner.precision=fp16"], "learner.precision is 'fp16'; expected 'fp32' or 'bf16'"),
    Wrong(["learner.device=gpu"], "learner.device is 'gpu'; allowed: auto, cpu, cuda, cuda:N, mps"),
    Wrong(["env.num_envs=0"], "env.num_envs is 0; expected at least 1"),
    Wrong(["seed=-1"], "seed is -1; expected at least 0"),
    Wrong(["store.max_staleness=-2"], "store.max_staleness is -2; expected at least 0"),
    Wrong(["samplers.timeout=0"], "samplers.timeout is 0; expected more than 0"),
    Wrong(["ray.object_store_mb=10"], "ray.object_store_mb is 10; expected at least 75"),
    # two things that clash
    Wrong(["env.id=text/pairs"], "env.id is 'text/pairs': text tasks have a section task in place of env."),
    Wrong(["task.name=pairs"], "env and task are both set; a run has environments or a text task."),
    Wrong(["stop.tokens=9"], "stop.tokens is set, but this run counts environment steps. Set stop.env_steps instead."),
    Wrong(["eval.every_tokens=9"], "eval.every_tokens is set, but this run counts environment steps."),
    Wrong({key: GOOD[key] for key in ("name", "algorithm", "stop")}, "env is missing, and so is task"),
    Wrong(["env.streams=3"], "env.streams 3 does not divide env.num_envs 8. Set env.streams to one of 1, 2, 4, 8."),
    Wrong(["samplers.count=4"], "samplers.count 4 is more than env.streams 2: more samplers than streams"),
    Wrong(["learner.processes=2", "learner.shards=3"], "learner.processes 2 does not divide learner.shards 3"),
    Wrong(
        ["backend=serial", "learner.processes=2", "learner.shards=2"],
        "backend serial has one process, but learner.processes is 2",
    ),
    Wrong(["learner.sharding=fsdp"], "learner.sharding is fsdp, but learner.processes is 1: nothing can be shared."),
    Wrong(
        ["learner.sharding=fsdp", "learner.processes=2", "learner.shards=2"],
        "learner.sharding is fsdp, which is for language models; the run has no section language.",
    ),
    Wrong(
        ["deterministic=true", "env.backend=envpool"], "deterministic: true with env.backend envpool: it has no exact"
    ),
    Wrong(["deterministic=true", "env.backend=vector"], "deterministic: true with env.backend vector: it has no exact"),
    Wrong(["deterministic=true", "env.snapshot=off"], "deterministic: true with env.snapshot off"),
    # schedules
    Wrong(
        ["algorithm.gamma={from: 1, to: 0}", "stop.env_steps=null", "stop.updates=5"],
        "algorithm.gamma has a schedule over: run, but stop.env_steps is not set",
    ),
    Wrong(["algorithm.lr={from: 1, to: 0, after: 2000}"], "after: 2000, but stop.env_steps is 1000"),
    Wrong(["algorithm.lr={from: 1}"], "algorithm.lr: a schedule needs `to`"),
    Wrong(["algorithm.lr={from: 1, to: 0, ovr: 5}"], "unknown schedule key 'ovr': did you mean 'over'?"),
    Wrong(["algorithm.lr={from: 1, to: 0, over: ever}"], "schedule `over` is 'ever'; expected `run` or a number of"),
    Wrong(["algorithm.lr={from: high, to: 0}"], "schedule `from` is 'high'; expected a finite number"),
    Wrong(["algorithm.lr={from: 1, to: 0, shape: cos}"], "shape is 'cos'; allowed: linear, cosine, exponential"),
    Wrong(["algorithm.lr={from: 1, to: 0, shape: exponential}"], "cannot go from 1 to 0"),
    # the text itself
    Wrong("", "is empty"),
    Wrong("- a\n- b\n", "holds a list; expected keys and values"),
    Wrong("name: x\nenv: {id: a\nstop: 3\n", "line 3, column 5"),
    Wrong("name: x\n\tseed: 1\n", "line 2, column 1"),
    Wrong("name: x\nseed: 1\nname: y\n", "line 3, column 1: the key 'name' is given twice, first in line 1"),
    Wrong("seed: &x 1\nname: *y\n", "found undefined alias 'y'"),
    Wrong("name: !!python/object:os.system {}\n", "could not determine a constructor for the tag"),
    # overrides
    Wrong(["seed"], "override 'seed' is not of the form key=value. For example: seed=VALUE."),
    Wrong(["=3"], "override '=3' is not of the form key=value"),
    Wrong(["env.id.x=3"], "override 'env.id.x=3': env.id is 'CartPole-v1', not keys and values"),
    Wrong(["env.kwargs={"], "override 'env.kwargs={', line 1"),
]
