"""distrl: distributed and distributional reinforcement learning.

One actor-learner loop for control and for language, from a laptop to a Ray cluster::

    import distrl

    summary = distrl.train("examples/cartpole_ppo.yaml")
    agent = distrl.load(summary["checkpoint"])
    action = agent.act(obs)

Importing this module is cheap: torch, ray and gymnasium are imported when a function needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "register", "train"]

# name -> "module:attribute", imported on first use (PEP 562).
_LAZY = {
    "train": "distrl.runtime.train:train",
    "load": "distrl.deploy.agent:load",
    "register": "distrl.base.registry:register",
}

if TYPE_CHECKING:
    from distrl.base.registry import register
    from distrl.deploy.agent import load
    from distrl.runtime.train import train


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'distrl' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name].split(":")
    return getattr(import_module(module), attribute)
