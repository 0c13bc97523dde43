"""Environment checker of `distrl doctor --env ID`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Literal

import gymnasium
import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box

from distrl.base.columns import tree_leaves
from distrl.base.errors import UserError
from distrl.base.pack import pack, unpack
from distrl.config.sections.env import EnvConfig
from distrl.control.envs.backends.actions import random_actions
from distrl.control.envs.backends.loop import LoopVectorEnv
from distrl.control.envs.checker.trial import Trial, first_difference, run_trial
from distrl.control.envs.make import env_name, make_env
from distrl.control.envs.make_vector import make_vector
from distrl.control.envs.spaces import describe, leaf_spaces, nbytes, unsupported

#: Slower steps limit the throughput of most runs.
SLOW_STEP_SECONDS = 5e-3
#: Larger observations train badly unless they are normalized.
LARGE_OBSERVATION = 20.0


@dataclass(slots=True)
class Finding:
    """Result of one check."""

    level: Literal["ok", "warn", "error"]
    title: str
    detail: str
    fix: str = ""


def check_env(env_config: EnvConfig, steps: int = 1000, seconds: float = 10.0) -> list[Finding]:
    """Check an environment; returns findings in order, and never raises for a broken one.

    A third of the random `steps` is for each comparison; `seconds` limits each check.
    """
    subject = _Subject(env_config, steps, seconds)
    findings: list[Finding] = []
    last = _snapshot if env_config.backend == "gymnasium" else _backend
    checks = [_build_and_step, _reproducible, last]
    for check in checks[2:] if env_config.backend == "envpool" else checks:  # its ids need not be known to gymnasium
        try:
            findings.extend(check(subject))
        except UserError as error:
            findings.append(Finding("error", "environment", error.problem, error.fix))
        except Exception as error:
            findings.append(Finding("error", "environment", f"{type(error).__name__}: {error}"))
        if any(finding.level == "error" for finding in findings):
            break
    return findings + subject.close()


@dataclass(slots=True)
class _Subject:
    """The environment under test, and the copies made of it."""

    config: EnvConfig
    steps: int
    seconds: float
    envs: list[gymnasium.Env] = field(default_factory=list)

    def fresh(self) -> gymnasium.Env:
        self.envs.append(make_env(self.config))
        return self.envs[-1]

    def close(self) -> list[Finding]:
        for env in self.envs:
            try:
                env.close()
            except Exception as error:
                return [Finding("warn", "close", f"close raised {type(error).__name__}: {error}.")]
        return []


def _build_and_step(subject: _Subject) -> Iterator[Finding]:
    env = subject.fresh()
    yield Finding("ok", "build", f"{env_name(subject.config)} is {env}")
    for role, space in (("observation", env.observation_space), ("action", env.action_space)):
        if reason := unsupported(space, role):
            yield Finding("error", f"{role} space", reason, "Convert it in a wrapper (config key env.wrappers).")
            return
        yield Finding("ok", f"{role} space", f"{describe(space)}, {nbytes(space)} bytes")
    yield from _action_bounds(env.action_space)
    trial = run_trial(env, subject.steps, seed=0, seconds=subject.seconds)
    for text in trial.problems:
        yield Finding("error", "API", text + ".", "Make reset and step return values of the spaces.")
    for text in trial.remarks:
        yield Finding("warn", "observations", text + ".", "Fix the observation space or the observations.")
    if not trial.problems:
        yield Finding("ok", "API", f"{trial.steps} random steps gave values of the spaces")
        yield from _trial_findings(env, trial)
        if trial.largest > LARGE_OBSERVATION and not subject.config.normalize_obs:
            detail = f"values up to {trial.largest:.4g}: large inputs train badly."
            yield Finding("warn", "observation scale", detail, "Set env.normalize_obs=true.")


def _action_bounds(space: Space) -> Iterator[Finding]:
    for leaf in tree_leaves(leaf_spaces(space)):
        if not isinstance(leaf, Box):
            continue
        if not (np.isfinite(leaf.low).all() and np.isfinite(leaf.high).all()):
            detail = f"{describe(leaf)} is not bounded: no action is ever clipped."
            yield Finding("warn", "action bounds", detail, "Give the Box finite bounds that match the useful range.")
        elif leaf.low.min() < -10 or leaf.high.max() > 10:
            detail = f"{describe(leaf)} is wide for a policy with initial std 1."
            fix = "Rescale actions to about [-1, 1] in a wrapper (gymnasium's RescaleAction)."
            yield Finding("warn", "action bounds", detail, fix)
        if leaf.dtype.kind != "f":
            detail = f"{describe(leaf)} holds integers: actions are rounded."
            yield Finding("warn", "action bounds", detail, "MultiDiscrete states the choices exactly.")


def _trial_findings(env: gymnasium.Env, trial: Trial) -> Iterator[Finding]:
    per_step, per_reset = trial.step_seconds / max(1, trial.steps), median(trial.reset_seconds)
    speed = f"{per_step * 1e6:.1f} us per step, {per_reset * 1e6:.1f} us per reset"
    slow = per_step > SLOW_STEP_SECONDS
    yield Finding("warn" if slow else "ok", "speed", speed, "More samplers step it in parallel." if slow else "")
    limit = getattr(env.spec, "max_episode_steps", None)
    ends = f"{len(trial.lengths)} episodes ended ({trial.truncations} by a time limit)"
    if trial.lengths:
        ends += f", median length {median(trial.lengths):g}"
    if limit or trial.lengths:
        yield Finding("ok", "episodes", f"{ends}; time limit {limit or 'none'}")
    else:
        detail = f"no episode ended in {trial.steps} steps and there is no time limit."
        yield Finding("warn", "episodes", detail, "Set env.max_episode_steps.")
    if trial.masked:
        yield Finding("ok", "action mask", "given at every step, with the shape of the action space")


def _reproducible(subject: _Subject) -> Iterator[Finding]:
    steps = max(1, subject.steps // 3)
    one, two, other = (run_trial(subject.fresh(), steps, seed, subject.seconds) for seed in (7, 7, 8))
    if found := first_difference(one, two):
        fix = "Call super().reset(seed=seed) and draw random numbers only from self.np_random."
        yield Finding("warn", "seeding", f"two copies with equal seeds and actions differ {found}.", fix)
        return
    yield Finding("ok", "seeding", f"equal seeds and actions gave {len(one.path)} equal observations and rewards")
    first, another = one.path[0][0], other.path[0][0]
    if all(np.array_equal(a, b) for a, b in zip(tree_leaves(first), tree_leaves(another), strict=True)):
        yield Finding("ok", "first observation", "equal for two seeds: episodes begin alike, or reset ignores its seed")


def _snapshot(subject: _Subject) -> Iterator[Finding]:
    if reason := probe_snapshot(subject.config, min(subject.steps, 100)):
        yield Finding("warn", "snapshot", reason, _NO_SNAPSHOT)
    else:
        yield Finding("ok", "snapshot", "seed and actions restore it exactly")


def _backend(subject: _Subject) -> Iterator[Finding]:
    config, steps = subject.config, min(subject.steps, 200)
    vector = make_vector(config, 2, lambda env, episode: 1000 * env + episode)
    try:
        for role, space in (("observation", vector.observation_space), ("action", vector.action_space)):
            yield Finding("ok", f"{role} space", f"{describe(space)}, {nbytes(space)} bytes")
        yield from _action_bounds(vector.action_space)
        vector.reset()
        rng = np.random.default_rng(0)
        actions = [random_actions(vector.action_space, 2, rng) for _ in range(steps)]
        before = perf_counter()
        ends = sum(len(vector.step(action).episodes) for action in actions)
        speed = (perf_counter() - before) / (2 * steps) * 1e6
    finally:
        vector.close()
    yield Finding("ok", "backend", f"{config.backend}: {steps} steps of two environments, {ends} episodes ended")
    yield Finding("ok", "speed", f"{speed:.1f} us per step and environment, with two environments")
    yield Finding("warn", "snapshot", probe_snapshot(config) or "", _NO_SNAPSHOT)


_NO_SNAPSHOT = "Without snapshots a resumed run begins new episodes, and deterministic: true is refused."


def probe_snapshot(env_config: EnvConfig, steps: int = 40) -> str | None:
    """Test a snapshot in mid-episode; returns None if it restores exactly, else the reason.

    `steps` random steps precede the snapshot; as many, at most 20, are compared after it.
    """
    if env_config.backend != "gymnasium":
        return f"backend {env_config.backend} has no exact snapshots."

    def make() -> LoopVectorEnv:
        name = env_name(env_config)
        return LoopVectorEnv(lambda: make_env(env_config), 1, lambda env, episode: 977 + episode, name)

    original = make()
    try:
        original.reset()
        rng = np.random.default_rng(0)
        done = 0
        while done < steps or (original.first[0] and done < 2 * steps):
            original.step(random_actions(original.action_space, 1, rng, original.mask))
            done += 1
        state = unpack(*pack(original.snapshot()))
        copy = make()
        try:
            copy.restore(state)
            return _compare(original, copy, min(steps, 20), rng)
        finally:
            copy.close()
    except UserError as error:
        return error.problem
    finally:
        original.close()


def _compare(original: LoopVectorEnv, copy: LoopVectorEnv, steps: int, rng: np.random.Generator) -> str | None:
    for t in range(steps):
        action = random_actions(original.action_space, 1, rng, original.mask)
        one, other = original.step(action), copy.step(action)
        same = one.reward == other.reward and one.terminated == other.terminated and one.truncated == other.truncated
        for mine, theirs in zip(tree_leaves(original.obs), tree_leaves(copy.obs), strict=True):
            same = same and np.array_equal(mine, theirs)
        if not same:
            return f"a restored environment differs {t + 1} steps after the snapshot."
    return None
