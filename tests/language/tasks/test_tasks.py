"""Text tasks: items are pure functions, demonstrations are right, splits are disjoint, whatever a model answers."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError, EnvError
from distrl.language.tasks.base import Item, Task, check_task, make_task, prompt_fault, verify_safely
from distrl.language.tasks.chat import NextNumber
from distrl.language.tasks.tiny import Pairs, SortDigits
from tests.helpers import REPOSITORY

TINY = ("sort_digits", "pairs")
CHAT = ("copy_words", "sort_numbers", "next_number", "larger_number", "reverse_words")


@pytest.mark.parametrize("name", TINY + CHAT)
@settings(max_examples=15)
@given(index=st.integers(0, 2**40), split=st.sampled_from(["train", "eval"]))
def test_items_are_pure_functions_with_right_demonstrations(name: str, index: int, split: str):
    task = make_task(name)
    task.item(index + 1, split)
    item = task.item(index, split)
    assert item == make_task(name).item(index, split)
    assert (item.index, item.split) == (index, split)
    assert prompt_fault(item.prompt) is None
    assert json.loads(json.dumps(item.facts)) == item.facts
    answer = task.demonstration(item)
    components, problem = verify_safely(task, item, answer)
    assert problem is None
    assert list(components) == list(task.components)
    assert set(components.values()) == {1.0}
    if task.alphabet is not None:
        assert set(item.prompt + answer) <= set(task.alphabet)


@pytest.mark.parametrize("name", TINY + CHAT)
@settings(max_examples=25)
@given(answer=st.text(max_size=40))
def test_garbage_gets_finite_components(name: str, answer: str):
    task = make_task(name)
    components, problem = verify_safely(task, task.item(0), answer)
    assert problem is None
    assert all(0.0 <= value <= 1.0 for value in components.values())


@pytest.mark.parametrize("name", ["sort_digits", *CHAT])
def test_held_out_questions_are_never_asked_in_training(name: str):
    task = make_task(name)
    asked = {split: {_question(task.item(index, split)) for index in range(300)} for split in ("train", "eval")}
    assert not asked["train"] & asked["eval"]
    assert len(asked["eval"]) > 50


def test_sorting_holds_out_digits_in_every_order():
    task = SortDigits()
    train, held_out = (
        {task.demonstration(task.item(index, split)) for index in range(300)} for split in ("train", "eval")
    )
    assert not train & held_out


def test_seeds_name_other_items_of_the_same_splits():
    ours, others = SortDigits(seed=0), SortDigits(seed=1)
    assert [ours.item(i).prompt for i in range(8)] != [others.item(i).prompt for i in range(8)]
    assert not any(ours.is_held_out(dict(others.item(i).facts)) for i in range(50))


def test_pairs_count_every_right_answer():
    task = Pairs()
    item = next(item for item in map(task.item, range(100)) if item.prompt == "09>")
    right = [f"{a}{b}" for a in range(10) for b in range(10) if task.verify(item, f"{a}{b}")["success"]]
    assert right == [f"{a}{9 - a}" for a in range(10)]
    assert task.verify(item, "46") == {"success": 0.0, "form": 1.0}
    assert task.verify(item, "٤٥") == {"success": 0.0, "form": 0.0}  # digits, but none of the alphabet
    shown = {task.demonstration(item) for item in map(task.item, range(600)) if item.prompt == "09>"}
    assert len(shown) == 10


def test_chat_examples_are_training_questions():
    task = NextNumber()
    for index in range(50):
        item = task.item(index, "eval")
        assert [message["role"] for message in item.prompt] == ["user", "assistant"] * 2 + ["user"]
        assert task.is_held_out(item.facts)
        assert not any(task.is_held_out(example) for example in item.facts["examples"])


def test_partial_credit():
    task = make_task("sort_numbers")
    item = Item(0, "train", "", {"numbers": [42, 7, 19]})
    assert task.verify(item, " 7 19 42\n")["success"] == 1.0
    assert task.verify(item, "7 42 19") == {"success": 0.0, "placed": pytest.approx(1 / 3)}
    assert task.verify(item, "7 19 42 99") == {"success": 0.0, "placed": 0.75}


class _Misbehaving(Task):
    components = ("success", "style")

    def item(self, index, split="train"):
        return Item(index, split, "question")

    def verify(self, item, answer):
        if answer == "raise":
            raise ValueError("cannot read this")
        if answer == "hang":
            while True:
                pass
        if answer == "swallow":
            while True:
                try:
                    while True:
                        pass
                except Exception:
                    continue
        return {
            "nan": {"success": math.nan, "style": 0.0},
            "large": {"success": 2.0, "style": 0.0},
            "missing": {"success": 1.0},
            "text": {"success": "yes", "style": 0.0},
        }.get(answer, {"success": 1.0, "style": -3.5})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("raise", "ValueError: cannot read this"),
        ("hang", "took longer than 0.2 s"),
        ("swallow", "took longer than 0.2 s"),
        ("nan", "not finite: success = nan"),
        ("large", "not within [0, 1]"),
        ("missing", "KeyError: 'style'"),
        ("text", "ValueError"),
    ],
)
def test_a_failing_verifier_costs_its_item_only(answer: str, told: str):
    task = _Misbehaving()
    components, problem = verify_safely(task, task.item(5), answer, timeout=0.2)
    assert components == {"success": 0.0, "style": 0.0}
    assert "train item 5" in problem
    assert told in problem
    assert verify_safely(task, task.item(5), "fine") == ({"success": 1.0, "style": -3.5}, None)


def test_check_task_names_what_is_wrong():
    class Forgetful(_Misbehaving):
        def item(self, index, split="train"):
            return Item(index, split, f"question {id(object())} {self.__dict__.setdefault('n', [])}{self.n.append(1)}")

    class Wrong(_Misbehaving):
        def demonstration(self, item):
            return "nan"

    class Unfinished(_Misbehaving):
        def item(self, index, split="train"):
            return Item(index, split, ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}))

    check_task(_Misbehaving())
    with pytest.raises(EnvError, match="differs when it is made twice"):
        check_task(Forgetful())
    with pytest.raises(EnvError, match="not finite"):
        check_task(Wrong())
    with pytest.raises(EnvError, match="nothing is left to answer"):
        check_task(Unfinished())


def test_wrong_names_and_arguments_are_told():
    with pytest.raises(ConfigError, match="did you mean 'sort_digits'"):
        make_task("sort_digit")
    with pytest.raises(ConfigError, match=r"task\.kwargs\.count"):
        make_task("sort_digits", {"cuont": 3})
    with pytest.raises(ConfigError, match="too few different questions"):
        make_task("next_number", {"low": 1, "high": 2}).item(0, "eval")
    with pytest.raises(ConfigError, match="not 'test'"):
        make_task("pairs").item(0, "test")


def test_tasks_need_neither_torch_nor_transformers():
    code = (
        "import sys; from distrl.base.registry import register; names = [m.name for m in register.methods('task')]; "
        "assert 'pairs' in names; assert not {'torch', 'transformers', 'gymnasium', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_example_of_the_docs_is_a_task():
    text = (REPOSITORY / "docs" / "tasks.md").read_text()
    code = textwrap.dedent(re.search(r"( {4}# my_task\.py\n.*?)\nWith `imports", text, re.DOTALL).group(1))
    space: dict[str, object] = {}
    exec(code, space)
    task = space["Double"]()
    check_task(task)
    assert verify_safely(task, task.item(0), "²") == ({"success": 0.0, "form": 0.0}, None)


def _question(item: Item) -> str:
    return item.prompt if isinstance(item.prompt, str) else item.prompt[-1]["content"]
