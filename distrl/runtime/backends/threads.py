"""The number of threads that a process computes with."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch


def set_threads(threads: int) -> None:
    """Fix the threads of torch's and numpy's matrix products in this process.

    Results can depend on the number. And numpy's library, left alone, takes every core and spins while it waits for
    the slowest: beside other processes that costs ten times the work.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    _numpy_libraries().limit(limits=threads, user_api="blas")


@cache
def _numpy_libraries() -> Any:
    """The matrix libraries in this process; numpy's is loaded by now, because torch imports numpy."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
