"""Reverb: a replay in a server of its own, reached over gRPC on this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import reverb
import tensorflow as tf
from replay_tools import BATCH, CAPACITY, OBS, block, print_result
from replay_tools import seconds_each as each

TABLE, INSERTED, IN_FLIGHT = "replay", 2_000, 2 * BATCH


def serve(pipe: Any, signature: dict[str, Any]) -> None:
    """A server with one uniform table, until the pipe closes. Sends its port."""
    table = reverb.Table(
        TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=CAPACITY,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )
    server = reverb.Server([table], port=None)
    pipe.send(server.port)
    try:
        pipe.recv()
    except EOFError:
        server.stop()


def main() -> None:
    """Measure and print: transitions are inserted one by one, batches come from its dataset."""
    data = block()
    steps = [{name: column[row] for name, column in data.items()} for row in range(len(data["reward"]))]
    signature = {name: tf.TensorSpec(column.shape[1:], column.dtype, name) for name, column in data.items()}
    # A process of its own: within one process Reverb's clients bypass gRPC.
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    spawn.Process(target=serve, args=(theirs, signature), daemon=True).start()
    address = f"localhost:{pipe.recv()}"
    client = reverb.Client(address)
    turn = itertools.cycle(steps)
    with client.writer(max_sequence_length=1) as writer:

        def insert() -> None:
            for _ in range(INSERTED):
                writer.append(next(turn))
                writer.create_item(TABLE, num_timesteps=1, priority=1.0)
            writer.flush()

        seconds = {"insert_one": each(insert, repeats=3) / INSERTED}
        for _ in range(CAPACITY // INSERTED):
            insert()
    dataset = reverb.TimestepDataset(
        server_address=address,
        table=TABLE,
        dtypes={name: spec.dtype for name, spec in signature.items()},
        shapes={name: spec.shape for name, spec in signature.items()},
        max_in_flight_samples_per_worker=IN_FLIGHT,
    )
    batches = iter(dataset.batch(BATCH).prefetch(2).as_numpy_iterator())
    assert np.asarray(next(batches).data["obs"]).shape == (BATCH, OBS)
    for _ in range(100):
        next(batches)
    seconds["remote_sample"] = each(lambda: next(batches), repeats=3, at_least=1.0)
    print_result("reverb", ("dm-reverb", "tensorflow"), seconds)
    os._exit(0)  # else it waits for a dataset that nobody reads any more; the server ends with its pipe


if __name__ == "__main__":
    main()
