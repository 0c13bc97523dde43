"""Thread counts of torch and of numpy's matrix library."""

from __future__ import annotations

import os
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


def set_threads(threads: int) -> None:
    """Set the threads of torch and of numpy's BLAS in this process, on which results can depend.

    By default numpy's BLAS takes every core and spins while it waits: tenfold work on shared cores.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    _numpy_libraries().limit(limits=threads, user_api="blas")


@cache
def _numpy_libraries() -> ThreadpoolController:
    """Return the BLAS libraries of this process; torch has loaded numpy's."""
    return ThreadpoolController()
