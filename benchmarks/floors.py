"""Costs of the parts of a training loop on this machine: lower bounds for benchmarks.

Raw environment steps, a small MLP's forward pass, an update on 256 rows, a Ray round trip. Medians of several repeats.

    python benchmarks/floors.py [--repeats 5] [--seconds 0.5] [--only env,mlp,ray]
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import median_of, write_result

ENV_ID = "CartPole-v1"
Floor = dict[str, Any]


def main() -> None:
    """Measure, print the table, write results/floors.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="each figure is the median of this many")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measurement")
    parser.add_argument("--only", default="env,mlp,ray", help="groups, with commas")
    parser.add_argument("--name", default="floors", help="results/NAME.json")
    args = parser.parse_args()
    groups = {"env": environment_floors, "mlp": mlp_floors, "ray": ray_floors}
    floors: list[Floor] = []
    for group in args.only.split(","):
        floors += groups[group](args.repeats, args.seconds)
    print_table(floors)
    print(write_result(args.name, {"repeats": args.repeats, "seconds": args.seconds, "floors": floors}))


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """Mean duration of a call over about `seconds`, after one tenth of warm-up."""
    end = time.perf_counter() + seconds / 10
    calls = 0
    while calls == 0 or time.perf_counter() < end:
        call()
        calls += 1
    calls = max(1, 10 * calls)
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def rate(name: str, call: Callable[[], Any], per_call: int, repeats: int, seconds: float) -> Floor:
    """A floor in environment steps a second, for a call that makes `per_call` of them."""
    return {"name": name, "unit": "steps/s", **median_of(repeats, lambda: per_call / seconds_per_call(call, seconds))}


def duration(name: str, call: Callable[[], Any], repeats: int, seconds: float, per_call: int = 1) -> Floor:
    """A floor in microseconds, for a call that does the thing `per_call` times."""
    return {"name": name, "unit": "us", **median_of(repeats, lambda: 1e6 * seconds_per_call(call, seconds) / per_call)}


def environment_floors(repeats: int, seconds: float) -> list[Floor]:
    """Steps a second with actions drawn beforehand, resets included."""
    import gymnasium
    from gymnasium.vector import SyncVectorEnv

    rng = np.random.default_rng(0)
    floors = []

    single = gymnasium.make(ENV_ID)
    single.reset(seed=0)
    actions = iter_forever(list(map(int, rng.integers(0, 2, 4096))))

    def step_single() -> None:
        _, _, terminated, truncated, _ = single.step(next(actions))
        if terminated or truncated:
            single.reset()

    floors.append(rate("gym.make", step_single, 1, repeats, seconds))
    vectors: list[tuple[str, Any]] = [
        ("SyncVectorEnv(8)", SyncVectorEnv([lambda: gymnasium.make(ENV_ID)] * 8)),
        ("native vector(64)", gymnasium.make_vec(ENV_ID, num_envs=64, vectorization_mode="vector_entry_point")),
        ("EnvPool(64)", envpool_vector(64)),
    ]
    for name, vector in vectors:
        if vector is None:
            continue
        vector.reset()
        size = int(name.split("(")[1].rstrip(")"))
        blocks = iter_forever(list(rng.integers(0, 2, (256, size))))

        def step_vector(vector: Any = vector, blocks: Any = blocks) -> None:
            vector.step(next(blocks))

        floors.append(rate(name, step_vector, size, repeats, seconds))
        vector.close()
    return floors


def envpool_vector(size: int) -> Any:
    """EnvPool's synchronous vector, or None where EnvPool is not installed."""
    try:
        import envpool
    except ImportError:
        return None
    return envpool.make(ENV_ID, env_type="gymnasium", num_envs=size, seed=0)


def iter_forever(items: list[Any]) -> Any:
    """Items in turn, without end."""
    while True:
        yield from items


def mlp_floors(repeats: int, seconds: float) -> list[Floor]:
    """Time forward passes and one plain torch update of a 4-64-64-2 tanh network."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    floors = []
    for batch in (8, 64):
        obs = torch.randn(batch, 4)

        def forward(obs: torch.Tensor = obs) -> None:
            with torch.inference_mode():
                net(obs)

        floors.append(duration(f"MLP forward, batch {batch}", forward, repeats, seconds))
    rows = torch.randn(256, 4)

    def update() -> None:
        optimizer.zero_grad()
        net(rows).square().mean().backward()
        optimizer.step()

    floors.append(duration("update on 256 rows", update, repeats, seconds))
    return floors


def ray_floors(repeats: int, seconds: float) -> list[Floor]:
    """Time round trips to one actor: empty calls, overlapping calls, 64 KB and 1 MB results."""
    import ray

    class Echo:
        def nothing(self) -> None:
            return None

        def send(self, size: int) -> np.ndarray:
            return np.zeros(size, np.uint8)

    ray.init(
        num_cpus=max(2, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        actor: Any = ray.remote(Echo).remote()
        ray.get(actor.nothing.remote())
        return [
            duration("Ray empty call", lambda: ray.get(actor.nothing.remote()), repeats, seconds),
            duration(
                "Ray empty call, 100 in flight",
                lambda: ray.get([actor.nothing.remote() for _ in range(100)]),
                repeats,
                seconds,
                per_call=100,
            ),
            duration("Ray 64 KB result", lambda: ray.get(actor.send.remote(2**16)), repeats, seconds),
            duration("Ray 1 MB result", lambda: ray.get(actor.send.remote(2**20)), repeats, seconds),
        ]
    finally:
        ray.shutdown()


def print_table(floors: list[Floor]) -> None:
    """One line a floor: median and extremes."""
    print(f"{'floor':32}{'median':>14}{'min':>14}{'max':>14}  unit")
    for floor in floors:
        numbers = "".join(f"{floor[key]:14,.1f}" for key in ("median", "min", "max"))
        print(f"{floor['name']:32}{numbers}  {floor['unit']}")


if __name__ == "__main__":
    main()
