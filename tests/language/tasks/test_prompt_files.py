"""Prompts from files: what is read, which side it falls on, and messages that name file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distrl.base.errors import ConfigError
from distrl.language.tasks.base import check_task, make_task, verify_safely


def write(path: Path, rows: list[object]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A file of 60 additions."""
    return write(tmp_path / "sums.jsonl", [{"question": f"{n} + 1 = ?", "result": n + 1} for n in range(60)])


def test_rows_become_items(sums: str):
    task = make_task("file", {"path": sums, "prompt": "question", "answer": "result", "verifier": "numeric"})
    check_task(task)
    assert task.size + task.eval_size == 60
    assert 1 <= task.eval_size <= 20
    asked = [task.item(i).prompt for i in range(task.size)]
    held_out = [task.item(i, "eval").prompt for i in range(task.eval_size)]
    assert not {str(p) for p in asked} & {str(p) for p in held_out}
    item = task.item(0)
    assert item.prompt[-1]["role"] == "user"
    right = task.demonstration(item)
    assert verify_safely(task, item, f"It is {right}.") == ({"success": 1.0, "form": 1.0}, None)
    with pytest.raises(IndexError):
        task.item(task.size)


def test_sides_do_not_depend_on_other_rows(sums: str, tmp_path: Path):
    def held_out(path: str) -> list[object]:
        task = make_task("file", {"path": path, "prompt": "question", "answer": "result", "held_out": 0.3})
        return [task.item(i, "eval").prompt for i in range(task.eval_size)]

    lines = Path(sums).read_text().splitlines()
    half = write(tmp_path / "half.jsonl", lines[:30])
    assert held_out(sums)[: len(held_out(half))] == held_out(half)


def test_small_files_hold_out_one(tmp_path: Path):
    path = write(tmp_path / "few.jsonl", [{"prompt": f"question {n}", "answer": "x"} for n in range(3)])
    task = make_task("file", {"path": path, "held_out": 0.001})
    assert (task.size, task.eval_size) == (2, 1)
    with pytest.raises(ConfigError, match="leave none for 'train'"):
        make_task("file", {"path": write(tmp_path / "one.jsonl", [{"prompt": "q", "answer": "x"}])})
    alone = make_task("file", {"path": str(tmp_path / "one.jsonl"), "held_out": 0.0})
    assert (alone.size, alone.eval_size) == (1, 0)


def test_messages_system_and_files_of_their_own(tmp_path: Path):
    rows = [{"turns": [{"role": "user", "content": f"say {n}"}], "tests": [f"assert f() == {n}"]} for n in range(3)]
    train, held_out = write(tmp_path / "train.jsonl", rows[:2]), write(tmp_path / "eval.jsonl", rows[2:])
    fields = {"messages": "turns", "answer": "tests", "verifier": "unit_tests", "system": "Write Python."}
    task = make_task("file", {"path": [train], "held_out_path": held_out, **fields})
    assert (task.size, task.eval_size) == (2, 1)
    assert task.item(0, "eval").prompt == (
        {"role": "system", "content": "Write Python."},
        {"role": "user", "content": "say 2"},
    )
    assert task.demonstration(task.item(0)) is None
    assert task.verify_seconds > 5.0


def test_raw_text(tmp_path: Path):
    path = write(tmp_path / "raw.jsonl", [{"prompt": "a>", "answer": "a"}, {"prompt": "b>", "answer": "b"}])
    task = make_task("file", {"path": path, "chat": False, "held_out": 0.0})
    assert [task.item(i).prompt for i in range(2)] == ["a>", "b>"]


def test_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow belongs to the extra llm")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    rows = [{"prompt": [{"role": "user", "content": f"q{n}"}], "answer": [f"{n}", "x"]} for n in range(5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = make_task("file", {"path": str(path), "messages": "prompt", "held_out": 0.0})
    assert task.item(4).prompt == ({"role": "user", "content": "q4"},)
    assert task.verify(task.item(4), "x") == {"success": 1.0}
    with pytest.raises(ConfigError, match=r"rows\.parquet: row 0: .*did you mean 'answer'"):
        make_task("file", {"path": str(path), "messages": "prompt", "answer": "answers"})
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match="no Parquet file"):
        make_task("file", {"path": str(path)})


GOOD = {"prompt": "q", "answer": "1"}


@pytest.mark.parametrize(
    ("rows", "kwargs", "told"),
    [
        ([GOOD, "{broken"], {}, r":2: not JSON"),
        ([GOOD, "", "[1]"], {}, r":3: a list, not a JSON object"),
        ([GOOD, {"prompt": "q"}], {}, r":2: unknown field 'answer'"),
        ([{"prompt": "", "answer": "1"}], {}, r":1: the prompt is empty"),
        ([{"prompt": [], "answer": "1"}], {}, r":1: the prompt is list, not text"),
        ([{"prompt": [{"role": "me", "content": "?"}], "answer": "1"}], {"messages": "prompt"}, r":1: message 0 has"),
        ([GOOD, {"prompt": "q", "answer": "one"}], {"verifier": "numeric"}, r":2: field 'answer': .* a number"),
        ([{"prompt": "q", "answer": ["assert ("]}], {"verifier": "unit_tests"}, r":1: field 'answer'"),
        ([GOOD], {"held_out": 2.0}, r"held_out = 2\.0"),
        ([GOOD], {"verifier": "exactly"}, "did you mean 'exact'"),
    ],
)
def test_messages_name_file_and_line(tmp_path: Path, rows: list[object], kwargs: dict[str, object], told: str):
    with pytest.raises(ConfigError, match=told):
        make_task("file", {"path": write(tmp_path / "bad.jsonl", rows), **kwargs})


def test_no_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="no prompt file"):
        make_task("file", {"path": str(tmp_path / "none.jsonl")})
    with pytest.raises(ConfigError, match=r"\.jsonl or \.parquet"):
        make_task("file", {"path": write(tmp_path / "data.csv", ["a,b"])})
    with pytest.raises(ConfigError, match="needs the argument 'path'"):
        make_task("file")
