"""What language-model runs compute with does not make the results of others stale, and the other way round it does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from code_hash import PACKAGE, REPOSITORY, learning_files, without_nulls


def names(algorithm: str, env_id: str) -> set[str]:
    return {path.relative_to(REPOSITORY / PACKAGE).as_posix() for path in learning_files(algorithm, env_id=env_id)}


def test_text_files_belong_to_text_runs() -> None:
    control, text = names("ppo", "CartPole-v1"), names("grpo", "text/sort_digits")
    mine = {
        "language/learner/learner.py",
        "language/samplers/sampler.py",
        "language/models/model.py",
        "language/tasks/tiny.py",
    }
    assert mine <= text
    assert not mine & control
    assert {"runtime/loop/loop.py", "store/queue.py"} <= control & text


def test_null_keys_count_as_absent() -> None:
    assert without_nulls({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}
