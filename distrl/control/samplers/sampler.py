"""Sampler of control: steps environments with given weights and returns fragments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from distrl.base.columns import Columns, Tree, tree_cat, tree_map
from distrl.base.errors import NonFiniteError
from distrl.base.phases import Phases
from distrl.base.seeds import generator
from distrl.control.envs.backends.interface import EpisodeEnd, VectorEnv
from distrl.control.models.actor_critic import ActorCritic
from distrl.control.numpy_gradients.dense import NumpyPolicy
from distrl.control.samplers.buffers import RolloutBuffer
from distrl.control.samplers.clock import StepClock
from distrl.control.samplers.running_return import running_returns
from distrl.experience.fragment import CollectRequest, EpisodeReport, FragmentData, FragmentMeta
from distrl.experience.moments import Moments
from distrl.experience.rollout import rollout_bytes, slice_envs
from distrl.experience.weights import Weights
from distrl.models.parameters.published import load_weights


@dataclass
class HostedStream:
    """Stream of this sampler: environments and the state carried between fragments."""

    env: VectorEnv
    state: Tree  # recurrent state (B, ...), or None
    running_return: np.ndarray  # (B,), after the previous step
    ended: np.ndarray  # (B,) bool, true where the previous step ended an episode

    def snapshot(self) -> dict[str, Tree] | None:
        """Return the state to continue bit for bit elsewhere; None if the backend cannot."""
        if not self.env.can_snapshot:
            return None
        state = None if self.state is None else tree_map(lambda leaf: leaf.numpy().copy(), self.state)
        carried = {"running_return": self.running_return.copy(), "ended": self.ended.copy()}
        return {"env": self.env.snapshot(), "state": state, **carried}

    def restore(self, snapshot: dict[str, Tree]) -> None:
        """Continue from a snapshot."""
        self.env.restore(snapshot["env"])
        if snapshot["state"] is not None:
            self.state = tree_map(lambda leaf: torch.tensor(leaf), snapshot["state"])
        self.running_return = np.array(snapshot["running_return"])
        self.ended = np.array(snapshot["ended"])


class EnvSampler:
    """Sampler that hosts streams of environments.

    Args:
        model: Policy; its weights are overwritten by the first request.
        make_stream_env: (stream, first sequence number) -> VectorEnv.
        seed: Noise is drawn from (seed, stream, fragment).
        gamma: Discount of the running return (reward normalization).
        fuse: One forward pass for all streams (fast), else one for each with a fixed shape (deterministic).
        normalize_obs, normalize_reward: Collect moments for the learner's normalizers.
        reuse_buffers: Overwrite the arrays of the previous fragment.
        raw_obs: Fragments contain observations before normalization (for a replay).
    """

    def __init__(
        self,
        index: int,
        model: ActorCritic,
        make_stream_env: Callable[[int, int], VectorEnv],
        *,
        rollout_steps: int,
        seed: int,
        gamma: float = 0.99,
        fuse: bool = True,
        normalize_obs: bool = False,
        normalize_reward: bool = False,
        reuse_buffers: bool = False,
        snapshots: bool = True,
        raw_obs: bool = False,
        phases: Phases | None = None,
    ):
        self.index, self.model, self.policy = index, model, model.policy
        self.numpy_policy = NumpyPolicy(self.policy) if NumpyPolicy.fits(self.policy) else None
        self.make_stream_env = make_stream_env
        self.rollout_steps, self.seed, self.gamma, self.fuse = rollout_steps, seed, gamma, fuse
        self.normalize_obs = normalize_obs and self.policy.normalizer.enabled
        self.normalize_reward = normalize_reward
        self.reuse_buffers, self.snapshots, self.raw_obs = reuse_buffers, snapshots, raw_obs
        self.phases = phases or Phases()
        self.own_phases = phases is None
        self.streams: dict[int, HostedStream] = {}
        self.version = -1
        self.clock = StepClock()
        self._buffers: dict[tuple[int, ...], RolloutBuffer] = {}

    def collect(self, requests: Sequence[CollectRequest], weights: Weights) -> list[tuple[FragmentMeta, FragmentData]]:
        """Collect the requested units with these weights, in the order of the requests."""
        self.phases.switch("load")
        self.clock.begin([])  # no steps while environments are built
        if weights.version != self.version:
            load_weights(self.model, weights)
            self.version = weights.version
        for request in requests:
            if request.assign:
                self._host(request)
        groups = [list(requests)] if self.fuse else [[request] for request in requests]
        with torch.inference_mode():
            fragments = [fragment for group in groups for fragment in self._run(group)]
        if self.own_phases and fragments:
            fragments[0][0].seconds = self.phases.reset()
            self.phases.switch("wait")  # until the next request
        return fragments

    def drop(self, streams: Sequence[int]) -> None:
        """Close the environments of these streams."""
        for stream in streams:
            if stream in self.streams:
                self.streams.pop(stream).env.close()

    def close(self) -> None:
        """Close all environments."""
        self.drop(list(self.streams))

    def _host(self, request: CollectRequest) -> None:
        stream = request.unit.stream
        self.drop([stream])
        env = self.make_stream_env(stream, request.unit.seq)
        count = env.num_envs
        hosted = HostedStream(env, self.policy.initial_state(count), np.zeros(count), np.zeros(count, bool))
        if request.snapshot is not None:
            hosted.restore(request.snapshot)
        else:
            env.reset()
        self.streams[stream] = hosted

    def _run(self, requests: list[CollectRequest]) -> list[tuple[FragmentMeta, FragmentData]]:
        """Step the streams of the requests together for `rollout_steps`; one fragment each."""
        self.phases.switch("sampler")
        hosted = [self.streams[request.unit.stream] for request in requests]
        edges = np.cumsum([0, *(stream.env.num_envs for stream in hosted)]).tolist()
        spans = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        buffer = self._buffer(requests, hosted[0].env, edges[-1])
        reports = self._step_all(requests, hosted, spans, buffer)
        rollout = self._finish(buffer, requests, hosted, spans)
        paces = self.clock.paces()
        fragments = []
        for request, stream, span, episodes in zip(requests, hosted, spans, reports, strict=True):
            mine = rollout if len(requests) == 1 else slice_envs(rollout, span.start, span.stop)
            data = self._data(mine, buffer, stream, span)
            meta = FragmentMeta(
                unit=request.unit,
                version=self.version,
                env_steps=int(mine.valid.sum()) if "valid" in mine else mine.reward.size,
                episodes=[
                    EpisodeReport(request.unit.stream, end.env, end.episode, float(end.return_), int(end.length))
                    for end in episodes
                ],
                snapshot=stream.snapshot() if self.snapshots else None,
                nbytes=rollout_bytes(mine),
                sampler=self.index,
                pace=paces[request.unit.stream],
            )
            fragments.append((meta, data))
        self.phases.switch("other")
        return fragments

    def _step_all(
        self, requests: list[CollectRequest], hosted: list[HostedStream], spans: list[slice], buffer: RolloutBuffer
    ) -> list[list[EpisodeEnd]]:
        """Alternate policy and environment steps; returns the ended episodes of each stream."""
        policy, actions, switch = self.policy, self.policy.actions, self.phases.switch
        numpy_policy = self.numpy_policy
        tick = self.clock.begin([request.unit.stream for request in requests])
        noise = torch.from_numpy(self._noise(requests, hosted))
        state: Tree = tree_cat([stream.state for stream in hosted]) if policy.recurrent else None
        buffer.begin(state)
        reports: list[list[EpisodeEnd]] = [[] for _ in hosted]
        for t in range(self.rollout_steps):
            for stream, span in zip(hosted, spans, strict=True):
                buffer.observe(t, span, stream.env)
            switch("policy")
            obs = buffer.policy_obs(t, policy)
            mask = buffer.policy_mask(t)
            if policy.recurrent:
                params, state = policy(obs, state, buffer.first_tensor[t])
            else:
                params = policy(obs)[0] if numpy_policy is None else numpy_policy(obs)
            action = buffer.act(t, params, actions.sample(params, noise[t], mask))
            switch("env")
            tick(perf_counter())
            for i, (stream, span) in enumerate(zip(hosted, spans, strict=True)):
                chosen = action if len(spans) == 1 else tree_map(lambda leaf, span=span: leaf[span], action)
                step = stream.env.step(chosen)
                buffer.record(t, span, step)
                if step.episodes:
                    reports[i].extend(step.episodes)
                tick(perf_counter())
            switch("sampler")
        for stream, span in zip(hosted, spans, strict=True):
            buffer.observe_last(span, stream.env)
            if state is not None:
                stream.state = tree_map(lambda leaf, span=span: leaf[span].clone(), state)
        return reports

    def _noise(self, requests: list[CollectRequest], hosted: list[HostedStream]) -> np.ndarray:
        """Draw the noise (T, B, noise_size) of all streams, each from its generator."""
        noises = []
        for request, stream in zip(requests, hosted, strict=True):
            rng = generator(self.seed, "noise", request.unit.stream, request.unit.seq)
            noises.append(self.policy.actions.draw_noise(rng, (self.rollout_steps, stream.env.num_envs)))
        return noises[0] if len(noises) == 1 else np.concatenate(noises, axis=1)

    def _buffer(self, requests: list[CollectRequest], env: VectorEnv, width: int) -> RolloutBuffer:
        """Return the buffer of a group of streams; groups share none."""
        key = tuple(request.unit.stream for request in requests)
        buffer = self._buffers.get(key) if self.reuse_buffers else None
        if buffer is None:
            buffer = RolloutBuffer(env, self.policy, self.rollout_steps, width, self.normalize_obs, self.raw_obs)
            if self.reuse_buffers:
                self._buffers[key] = buffer
        return buffer

    def _finish(
        self, buffer: RolloutBuffer, requests: list[CollectRequest], hosted: list[HostedStream], spans: list[slice]
    ) -> Columns:
        """Complete the rollout of a fragment and check that it is finite."""
        self.phases.switch("policy")
        rollout = buffer.rollout(self.policy, self.version)
        self.phases.switch("sampler")
        if not np.isfinite(rollout.logp.sum()):
            units = ", ".join(str(tuple(request.unit)) for request in requests)
            raise NonFiniteError(
                f"the policy's output is not finite in (fragment, stream) {units}, weight version {self.version}.",
                "Lower learning_rate, or check the observations' scale with distrl doctor --env ID.",
            )
        return rollout

    def _data(self, rollout: Columns, buffer: RolloutBuffer, stream: HostedStream, span: slice) -> FragmentData:
        """Attach the moments for the learner's normalizers."""
        valid = rollout.get("valid")
        obs_moments = buffer.obs_moments(span, valid, self.policy) if self.normalize_obs else None
        return_moments = None
        if self.normalize_reward:
            done = rollout.terminated | rollout.truncated
            returns, stream.running_return = running_returns(
                rollout.reward, done, stream.running_return, stream.ended, self.gamma
            )
            stream.ended = done[-1].copy()
            return_moments = Moments.of(returns, valid)
        return FragmentData(rollout, obs_moments, return_moments)
