"""Resource use of this process."""

from __future__ import annotations

import psutil

_MIB = 2**20


class System:
    """Cheap readings of this process, a few hundred microseconds each time."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent(None)  # the first reading is always zero; the next one counts from here

    def read(self) -> dict[str, float]:
        """Return the `system/*` values: memory and CPU of this process, available memory."""
        with self._process.oneshot():
            return {
                "system/rss_mib": self._process.memory_info().rss / _MIB,
                "system/cpu_percent": self._process.cpu_percent(None),
                "system/available_mib": psutil.virtual_memory().available / _MIB,
            }
