"""Values derived from a config for `train --dry-run`: batches, updates, memory, CPUs."""

from __future__ import annotations

import math

from distrl.config.algorithm import AlgorithmConfig, check_batch, minibatch_rows
from distrl.config.schema import RunConfig

Values = dict[str, object]
Sections = dict[str, Values]

#: Bytes that the learner holds for one float32 parameter: itself, its gradient, and Adam's two moments.
BYTES_PER_PARAMETER = 16

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def derive(
    config: RunConfig,
    algorithm: AlgorithmConfig,
    obs_bytes: int | None = None,
    num_parameters: int | None = None,
    cluster_cpus: float | None = None,
    transition_bytes: int | None = None,
) -> Sections:
    """Derive the values of a run: section -> name -> value; memory in bytes.

    `obs_bytes` is the size of one observation as the policy sees it, `num_parameters` counts policy and critic; values
    that depend on an argument that is None are left out.
    """
    if config.language is None:
        check_batch(config, algorithm)
    sections: Sections = {
        "experience": _experience(config),
        "learning": _learning(config, algorithm) if config.language is None else _text_learning(config, algorithm),
        "replay": _replay(config, algorithm),
        "memory (bytes)": _memory(config, algorithm, obs_bytes, num_parameters)
        | _replay_memory(config, transition_bytes),
        "cpus": _cpus(config, cluster_cpus),
    }
    return {name: values for name, values in sections.items() if values}


def streams_per_sampler(streams: int, samplers: int) -> list[int]:
    """Split streams evenly over samplers, larger shares first.

    >>> streams_per_sampler(8, 3)
    [3, 3, 2]
    """
    share, rest = divmod(streams, samplers)
    return [share + (i < rest) for i in range(samplers)]


def _experience(config: RunConfig) -> Values:
    samplers = config.samplers.count if config.backend == "ray" else 1
    return {
        ("prompt lines" if config.language else "environments"): config.parallel,
        "streams": config.streams,
        ("lines per stream" if config.language else "environments per stream"): config.parallel // config.streams,
        "samplers": samplers,
        "streams per sampler": streams_per_sampler(config.streams, samplers),
        "fragments a stream may be ahead": config.store.max_staleness + 1,
    }


def _learning(config: RunConfig, algorithm: AlgorithmConfig) -> Values:
    steps, envs = algorithm.rollout_steps, config.parallel
    batch = steps * envs
    values: Values = {"batch (environment steps per update)": batch, "made of": f"{steps} steps x {envs} envs"}
    updates = _updates(config, batch)
    if hasattr(algorithm, "replay_ratio"):
        values["minibatch (transitions)"] = algorithm.batch_size  # type: ignore[attr-defined]
        values["gradient steps per update"] = algorithm.replay_ratio * batch
        return values if updates is None else {**values, "updates until the end": updates}
    minibatch = minibatch_rows(config, algorithm) * (steps if config.model.recurrent else 1)
    if hasattr(algorithm, "minibatches") or hasattr(algorithm, "minibatch_size"):
        values["minibatch (environment steps)"] = minibatch
        values["minibatches per epoch"] = batch // minibatch
    epochs = getattr(algorithm, "epochs", None)
    if isinstance(epochs, int):
        values["gradient steps per update"] = epochs * (batch // minibatch)
    values["logical shards per minibatch"] = config.learner.shards
    if updates is not None:
        values["updates until the end"] = updates
    return values


def _text_learning(config: RunConfig, algorithm: AlgorithmConfig) -> Values:
    assert config.language is not None
    keys = algorithm.model_dump()
    prompts = config.parallel * algorithm.rollout_steps
    answers = prompts * keys["group_size"]
    minibatches = min(keys["minibatches"], prompts)
    values: Values = {
        "prompts per update": prompts,
        "answers per update": answers,
        "made of": f"{prompts} prompts x {keys['group_size']} answers",
        "tokens per update, at most": answers * config.language.max_new_tokens,
        "answers per minibatch": answers // minibatches,
        "rows at once in the learner": min(keys["micro_batch"], answers // minibatches),
        "gradient steps per update": keys["epochs"] * minibatches,
        "logical shards per minibatch": config.learner.shards,
    }
    if config.stop.updates is not None:
        values["updates until the end"] = config.stop.updates
    return values


def _replay(config: RunConfig, algorithm: AlgorithmConfig) -> Values:
    ratio = getattr(algorithm, "replay_ratio", None)
    if ratio is None:
        return {}
    return {
        "capacity (transitions)": config.store.capacity,
        "shards": config.store.shards,
        "samples per insert": ratio * algorithm.batch_size,  # type: ignore[attr-defined]
        "first gradient step after (environment steps)": algorithm.learning_starts,  # type: ignore[attr-defined]
        "drawn": "by priority" if algorithm.prioritized else "uniformly",  # type: ignore[attr-defined]
    }


def _replay_memory(config: RunConfig, transition_bytes: int | None) -> Values:
    if transition_bytes is None:
        return {}
    where = "replay (in files)" if config.store.memory_map else "replay"
    return {"one transition in the replay": transition_bytes, where: transition_bytes * config.store.capacity}


def _updates(config: RunConfig, batch: int) -> int | None:
    """Return the updates until `stop.env_steps` or `stop.updates`, whichever comes first."""
    by_steps = None if config.stop.env_steps is None else -(-config.stop.env_steps // batch)
    ends = [end for end in (by_steps, config.stop.updates) if end is not None]
    return min(ends, default=None)


def _memory(config: RunConfig, algorithm: AlgorithmConfig, obs_bytes: int | None, num_parameters: int | None) -> Values:
    values: Values = {}
    if obs_bytes is not None and config.language is None:
        batch = algorithm.rollout_steps * config.parallel * obs_bytes
        values["observations of one batch"] = batch
        values["observations waiting, at most"] = (config.store.max_staleness + 1) * batch
    if num_parameters is not None:
        values["weights sent to samplers"] = 4 * num_parameters
        values["parameters, gradients, optimizer"] = BYTES_PER_PARAMETER * num_parameters * config.learner.processes
    return values


def _cpus(config: RunConfig, cluster_cpus: float | None) -> Values:
    samplers = config.samplers.count * config.samplers.threads
    learners = config.learner.processes * config.learner.threads
    if config.backend == "serial":
        return {"busy threads": max(config.samplers.threads, config.learner.threads)}
    busy, reserved = samplers + learners, reserved_cpus(config)
    values: Values = {
        "busy threads": busy,
        "made of": f"{config.samplers.count} samplers x {config.samplers.threads} + "
        f"{config.learner.processes} learners x {config.learner.threads}",
        "reserved": reserved,
    }
    if cluster_cpus is not None:
        values["in the cluster"] = cluster_cpus
        values["verdict"] = _verdict(busy, reserved, cluster_cpus)
    return values


def reserved_cpus(config: RunConfig) -> float:
    """Return the CPUs that the actors of a run reserve from Ray.

    None on local clusters, where two cores must hold two samplers, a learner and the loop; 1 per actor on remote ones.
    `samplers.cpus` overrides the number for samplers.
    """
    each = 0.0 if config.ray.address is None else 1.0
    sampler = each if config.samplers.cpus is None else config.samplers.cpus
    evaluators = 1 if config.eval.interval else 0
    shards = config.store.shards if config.store.shards > 1 else 0
    return config.samplers.count * sampler + (config.learner.processes + evaluators + shards) * each


def _verdict(busy: int, reserved: float, there: float) -> str:
    if reserved > there:
        return f"does not fit: {reserved:g} CPUs reserved, {there:g} available; some processes would wait forever"
    if busy > there:
        return f"fits, but {busy} busy threads share {there:g} CPUs"
    return "fits"


def format_bytes(count: float) -> str:
    """Format a number of bytes.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    if count < 1024:
        return f"{count:.0f} B"
    power = min(int(math.log2(count) // 10), len(_UNITS))
    return f"{count / 1024**power:.1f} {_UNITS[power - 1]}"


def value_text(title: str, value: object) -> str:
    """Format a derived value; numbers of sections titled "(bytes)" as memory."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_bytes(value) if "(bytes)" in title else f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
