"""Gymnasium ids of the built-in environments, registered when `make_env` first needs one."""

from __future__ import annotations

import gymnasium

from distrl.control.envs.library.minatar import GAMES

PACKAGE = "distrl.control.envs.library"


def _add(name: str, entry_point: str, limit: int | None = None, **kwargs: object) -> None:
    gymnasium.register(f"distrl/{name}", f"{PACKAGE}.{entry_point}", max_episode_steps=limit, kwargs=kwargs)


_add("RiskyPath-v0", "risky_path:RiskyPath", limit=50)
_add("PointGoal-v0", "goal:PointGoal", limit=50)
_add("BitFlip-v0", "goal:BitFlip", limit=50)
_add("Atari-v5", "atari:make_atari")
for _name, _mdp, _limit in (
    ("Chain3-v0", "chain3", None),
    ("GaussianChain-v0", "gaussian_chain", None),
    ("TwoChannels-v0", "two_channels", None),
    ("RiskyChoice-v0", "risky_choice", None),
    ("Halving-v0", "halving", 50),
    ("Ring-v0", "ring", 50),
):
    _add(_name, "tabular_examples:make_tabular", _limit, mdp=_mdp)
for _name in GAMES:
    _add(f"MinAtar-{_name}-v1", "minatar:MinAtar", game=_name)
