"""Code hashes of learning records: which edits make a result stale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # scripts, not a package

import code_hash

from distrl.base.files import write_atomic

CODE = '''
"""A module."""
class Config:
    """A class."""
    lam: float = 0.9
    """An attribute."""

    def at(self, x):
        """A method."""  # a comment
        return x * self.lam
'''


def test_meaning_ignores_docstrings_comments_and_layout() -> None:
    bare = "class Config:\n  lam: float = 0.9\n  def at(self, x): return (x * self.lam)\n"
    assert code_hash.meaning(CODE) == code_hash.meaning(bare)


@pytest.mark.parametrize(
    ("old", "new"), [("0.9", "0.8"), ("x * self.lam", "self.lam * x"), ("lam: float", "mu: float")]
)
def test_meaning_sees_every_other_change(old: str, new: str) -> None:
    assert code_hash.meaning(CODE) != code_hash.meaning(CODE.replace(old, new))


def test_a_string_that_is_a_value_counts() -> None:
    assert code_hash.meaning('kind = "gae"') != code_hash.meaning('kind = "vtrace"')
    assert code_hash.meaning('def f():\n    return "a"') != code_hash.meaning('def f():\n    return "b"')


@pytest.mark.parametrize(
    "source",
    [
        "import math\nfrom a.b import c\nx = 1",
        "if TYPE_CHECKING:\n    from a.b import c\nx = 1",
        "def f():\n    import math\nx = 1\n",
    ],
)
def test_meaning_ignores_imports(source: str) -> None:
    assert code_hash.meaning(source) == code_hash.meaning(source.replace("a.b", "d").replace("math", "cmath"))


def test_meaning_ignores_annotations_of_functions_and_facts_of_the_registry() -> None:
    one = '@register.loss("l1", paper="A", entries=[1])\ndef f(x: Any) -> Any: return x'
    other = '@register.loss("l1", paper="B")\ndef f(x: Tensor) -> Tensor: return x'
    assert code_hash.meaning(one) == code_hash.meaning(other)
    assert code_hash.meaning(one) != code_hash.meaning(one.replace('"l1"', '"l2"'))


PRESETS = """
from distrl.functional.policy.conjugate import conjugate
Base = preset("base", of=PPO, paper="none", line="One.", clip=0.1)
Mild = preset(
    "mild", of=Base, paper="none", line="Another.", clip=0.2
)
Wild = preset("wild", of=PPO, paper="none", line="A third.", clip=0.3)
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("clip=0.1", "clip=0.5", {"base", "mild"}),
        ("clip=0.2", "clip=0.5", {"mild"}),
        ("clip=0.3", "clip=0.5", {"wild"}),
        ("Another", "Any other", set()),
    ],
)
def test_a_preset_counts_for_itself_and_what_is_based_on_it(old: str, new: str, changed: set[str]) -> None:
    edited = PRESETS.replace(old, new)
    names = {"base", "mild", "wild"}
    found = {name for name in names if code_hash.meaning(PRESETS, name) != code_hash.meaning(edited, name)}
    assert found == changed


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small repository: four algorithms of control, one of language, and what they import."""
    files = {
        "base/seeds.py": "SEED = 1",
        "base/errors.py": "TEXT = 1",
        "monitor/view.py": "SHOWN = 1",
        "runtime/train.py": "from distrl.store.queue import Queue\nimport distrl.monitor.view\n"
        "import distrl.base.seeds, distrl.base.errors\n"
        "def plan():\n    import distrl.control.learner.replay_learner, distrl.language.learner.learner",
        "control/learner/replay_learner.py": "import distrl.store.replay.buffer",
        "control/algorithms/off_policy.py": "Q = 1",
        "control/algorithms/value_based/dqn.py": "from distrl.control.algorithms.off_policy import Q",
        "control/algorithms/on_policy/base.py": "from distrl.functional.returns.state_values import gae",
        "control/algorithms/on_policy/ppo.py": "import distrl.functional.losses\n"
        "from distrl.control.algorithms.on_policy.base import OnPolicy",
        "control/algorithms/on_policy/trpo.py": "from distrl.functional.policy import conjugate\n"
        "from distrl.control.algorithms.on_policy.base import OnPolicy",
        "control/algorithms/on_policy/presets.py": PRESETS,
        "control/envs/library/maze.py": "walls = 1",
        "language/algorithms/grpo.py": "LOSS = 1",
        "language/advantages/group.py": '@register.advantage("mean")\ndef f(): ...',
        "language/learner/learner.py": "LEARNER = 1",
        "language/tasks/sort.py": "TASK = 1",
        "store/queue.py": "Queue = 1",
        "store/replay/buffer.py": "Replay = 1",
        "functional/returns/state_values.py": "gae = 1",
        "functional/losses.py": "clip = 1",
        "functional/policy/conjugate.py": "solve = 1",
    }
    for name, text in files.items():
        write_atomic(tmp_path / "distrl" / name, text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("base/seeds.py", {"ppo", "trpo", "dqn", "grpo"}),
        ("base/errors.py", set()),
        ("monitor/view.py", set()),
        ("runtime/train.py", {"ppo", "trpo", "dqn", "grpo"}),
        ("store/queue.py", {"ppo", "trpo", "dqn", "grpo"}),
        ("store/replay/buffer.py", {"dqn"}),
        ("control/learner/replay_learner.py", {"dqn"}),
        ("control/algorithms/on_policy/base.py", {"ppo", "trpo"}),
        ("control/algorithms/on_policy/ppo.py", {"ppo"}),
        ("functional/returns/state_values.py", {"ppo", "trpo"}),
        ("functional/losses.py", {"ppo"}),
        ("functional/policy/conjugate.py", {"trpo"}),
        ("language/algorithms/grpo.py", {"grpo"}),
        ("language/learner/learner.py", {"grpo"}),
        ("language/tasks/sort.py", {"grpo"}),
    ],
)
def test_a_change_reaches_the_algorithms_that_use_the_file(tree: Path, file: str, changed: set[str]) -> None:
    algorithms = ("ppo", "trpo", "dqn", "grpo")
    before = {name: code_hash.code_hash(name, root=tree) for name in algorithms}
    path = tree / "distrl" / file
    path.write_text(path.read_text() + "\nMORE = 2\n")
    code_hash.forget_files()
    after = {name: code_hash.code_hash(name, root=tree) for name in algorithms}
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_move_changes_nothing(tree: Path) -> None:
    before = code_hash.code_hash("ppo", root=tree)
    package = tree / "distrl"
    (package / "functional" / "losses.py").rename(package / "functional" / "policy" / "objectives.py")
    ppo = package / "control" / "algorithms" / "on_policy" / "ppo.py"
    ppo.write_text(ppo.read_text().replace("functional.losses", "functional.policy.objectives"))
    code_hash.forget_files()
    assert code_hash.code_hash("ppo", root=tree) == before


def test_a_preset_counts_the_file_that_registers_it(tree: Path) -> None:
    names = [path.name for path in code_hash.learning_files("mild", tree)]
    assert "presets.py" in names
    assert "conjugate.py" in names
    assert "ppo.py" not in names


def test_methods_that_the_config_names_count(tree: Path) -> None:
    file = tree / "distrl" / "language" / "advantages" / "group.py"
    for names, counts in (((), False), (("mean", "adam"), True)):
        assert (file in code_hash.learning_files("grpo", tree, names=names)) is counts
    assert code_hash.strings({"advantage": {"name": "mean", "size": 2}, "words": ["a"]}) == {"mean", "a"}


def test_our_own_environments_count_where_they_are_played(tree: Path) -> None:
    for env_id, counts in (("CartPole-v1", False), ("distrl/Maze-v0", True)):
        found = code_hash.learning_files("ppo", tree, env_id)
        assert (tree / "distrl" / "control" / "envs" / "library" / "maze.py" in found) is counts


def test_sharding_counts_where_a_replay_has_shards() -> None:
    package = code_hash.REPOSITORY / code_hash.PACKAGE
    for sharded in (True, False):
        files = code_hash.learning_files("dqn", sharded=sharded)
        assert (package / "store/replay/sharded.py" in files) is sharded
        assert package / "store/replay/buffer.py" in files


def test_files_of_the_runs_own_count(tmp_path: Path) -> None:
    own = tmp_path / "env.py"
    own.write_text("x = 1")
    first = code_hash.code_hash("ppo", [own])
    own.write_text("x = 2")
    code_hash.forget_files()
    assert code_hash.code_hash("ppo", [own]) != first


def test_files_that_are_named_exist() -> None:
    package = code_hash.REPOSITORY / code_hash.PACKAGE
    lists = (code_hash.SILENT, code_hash.COUNTED, code_hash.REPLAY, code_hash.SHARDS, *code_hash.DOMAINS.values())
    named = [name for names in lists for name in names] + [code_hash.LOOP, code_hash.ENVIRONMENTS, code_hash.TASKS]
    assert [name for name in named if not (package / name).exists()] == []


def names(algorithm: str, env_id: str) -> set[str]:
    package = code_hash.REPOSITORY / code_hash.PACKAGE
    return {path.relative_to(package).as_posix() for path in code_hash.learning_files(algorithm, env_id=env_id)}


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
    assert code_hash.without_nulls({"a": None, "b": [{"c": None, "d": 0}]}) == {"b": [{"d": 0}]}
