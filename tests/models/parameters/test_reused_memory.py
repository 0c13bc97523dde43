"""Memory is used again only when nobody can see what lies in it."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import torch

from distrl.models.parameters.reused_memory import ReusedBytes


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_its_array_is_gone() -> None:
    memory = ReusedBytes()
    one = memory.take("a", 4096)
    one[:] = 7
    where = address(one)
    other = memory.take("a", 4096)
    assert address(other) != where
    assert (other == 0).all()
    del one
    gc.collect()
    assert address(memory.take("a", 4096)) == where


def test_views_of_every_kind_keep_it() -> None:
    memory = ReusedBytes()
    one = memory.take("a", 4096)
    where = address(one)
    seen = [
        one[64:128].view(np.float32).reshape(4, 4),
        torch.from_numpy(one[256:320].view(np.float32)),
        pickle.PickleBuffer(one),
    ]
    del one
    while seen:
        gc.collect()
        taken = memory.take("a", 4096)
        assert address(taken) != where
        del taken
        seen.pop()
    gc.collect()
    found = {address(array) for array in [memory.take("a", 4096), memory.take("a", 4096)]}
    assert where in found


def test_another_layout_begins_with_zeros() -> None:
    memory = ReusedBytes()
    memory.take("a", 4096)[:] = 7
    gc.collect()
    assert (memory.take("b", 4096) == 0).all()
    assert (memory.take("a", 4096) == 0).all()
