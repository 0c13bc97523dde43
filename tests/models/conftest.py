"""Model configs for tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def model():
    """Makes a model config with small layers: `model(recurrent="gru")`."""

    def make(**changes: Any) -> SimpleNamespace:
        defaults: dict[str, Any] = {
            "torso": "auto",
            "hidden": [16, 16],
            "activation": "tanh",
            "recurrent": None,
            "recurrent_size": 8,
            "shared": False,
            "log_std_init": 0.0,
        }
        return SimpleNamespace(**{**defaults, **changes})

    return make
