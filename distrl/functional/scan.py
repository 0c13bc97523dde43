"""The recurrence of every return estimator: A_t = delta_t + decay_t * A_{t+1}.

- *Doubling* (Hillis and Steele 1986): after round k, row t contains the sum of its first 2^k terms, so ceil(log2 T)
  whole-array operations replace T steps. Fastest except for big arrays; on an accelerator, fewest kernel launches.
- *Loop over rows*: fewest operations, for arrays larger than the cache and for decays above 1, whose products
  (formed by doubling only) could overflow and turn a finite sum into NaN.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Elements from which the loop over rows is faster than doubling (about 1 MB of float32 for both arrays).
LOOP_FROM = 1 << 17


def reverse_scan(delta: Tensor, decay: Tensor) -> Tensor:
    """Solve A_t = delta_t + decay_t * A_{t+1} backwards in time, with A_T = 0. No gradients.

    Args:
        delta: (T, ...) floating.
        decay: Same shape, dtype and device, not negative. `decay[T-1]` has no effect; a 0 cuts the recurrence.

    >>> reverse_scan(torch.ones(3), torch.full((3,), 0.5))
    tensor([1.7500, 1.5000, 1.0000])
    """
    if delta.shape != decay.shape:
        raise ValueError(f"delta has shape {tuple(delta.shape)}, decay {tuple(decay.shape)}; they must be equal.")
    delta, decay = delta.detach(), decay.detach().to(delta.dtype)
    if delta.numel() == 0:
        return delta.clone()
    if delta.device.type == "cpu" and delta.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(_scan_numpy(delta.numpy(), decay.numpy()))
    # not (max <= 1) also sends NaN to the loop
    return _doubling_torch(delta, decay) if bool(decay.max() <= 1) else _loop_torch(delta, decay)


def _scan_numpy(delta: np.ndarray, decay: np.ndarray) -> np.ndarray:
    if delta.size >= LOOP_FROM or not decay.max() <= 1:
        return _loop_numpy(delta, decay)
    return _doubling_numpy(delta, decay)


def _doubling_numpy(delta: np.ndarray, decay: np.ndarray) -> np.ndarray:
    total = delta.copy()
    reach = decay  # reach[t]: product of the `step` decays from t on
    term = np.empty_like(total)
    length, step = len(delta), 1
    while step < length:
        rows = length - step
        np.multiply(reach[:rows], total[step:], out=term[:rows])
        np.add(total[:rows], term[:rows], out=total[:rows])
        rows -= step  # later rows reach beyond the end and are never used again
        if rows > 0:
            reach = reach[:rows] * reach[step : step + rows]
        step *= 2
    return total


def _loop_numpy(delta: np.ndarray, decay: np.ndarray) -> np.ndarray:
    total = delta.copy()
    term = np.empty(total.shape[1:], total.dtype)
    for t in range(len(total) - 2, -1, -1):
        np.multiply(decay[t], total[t + 1], out=term)
        np.add(total[t], term, out=total[t, ...])
    return total


def _doubling_torch(delta: Tensor, decay: Tensor) -> Tensor:
    total, reach = delta.clone(), decay
    length, step = len(delta), 1
    while step < length:
        rows = length - step
        total[:rows] += reach[:rows] * total[step:]
        rows -= step
        if rows > 0:
            reach = reach[:rows] * reach[step : step + rows]
        step *= 2
    return total


def _loop_torch(delta: Tensor, decay: Tensor) -> Tensor:
    total = delta.clone()
    for t in range(len(total) - 2, -1, -1):
        total[t].addcmul_(decay[t], total[t + 1])
    return total
