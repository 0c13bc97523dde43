"""Generators of reasoning-gym as tasks, the broken ones among them."""

from __future__ import annotations

import json

import pytest

from distrl.base.errors import ConfigError, EnvError
from distrl.language.tasks.base import check_task, make_task, prompt_fault, verify_safely

pytest.importorskip("reasoning_gym", reason="reasoning-gym belongs to the extra llm")


def make(name: str, **kwargs: object):
    return make_task("reasoning_gym", {"name": name, **kwargs})


@pytest.mark.parametrize("name", ["number_sorting", "chain_sum", "maze", "gcd", "countdown"])
def test_generators_are_tasks(name: str):
    task = make(name)
    check_task(task, items=2, timeout=60.0)
    item, held_out = task.item(3), task.item(3, "eval")
    assert item == make(name).item(3)
    assert item.prompt != held_out.prompt
    assert prompt_fault(item.prompt) is None
    assert json.loads(json.dumps(item.facts)) == item.facts
    assert make(name, seed=1).item(3) != item
    components, problem = verify_safely(task, item, "no idea", timeout=60.0)
    assert problem is None
    assert components["success"] == 0.0


def test_tags_and_instructions():
    task = make("gcd", tag="answer", instruction="Write <answer>...</answer>.", chat=False)
    item = task.item(0)
    assert item.prompt.endswith("\n\nWrite <answer>...</answer>.")
    right = task.demonstration(item)
    assert right == f"<answer>{item.facts['answer']}</answer>"
    assert task.verify(item, f"<answer>0</answer> or {right}")["success"] == 1.0
    assert task.verify(item, item.facts["answer"])["success"] == 0.0


def test_items_without_an_answer_have_no_demonstration():
    task = make("propositional_logic")
    items = [task.item(index) for index in range(12)]
    assert any(task.demonstration(item) is None for item in items)
    assert all(verify_safely(task, item, "(P → Q)", timeout=60.0)[1] is None for item in items[:4])


def test_generators_of_few_items_keep_their_size():
    task = make("word_ladder", item_seconds=120.0)
    assert task.size + task.eval_size < 10_000
    with pytest.raises(IndexError):
        task.item(task.size)


def test_a_generator_that_loops_for_ever_is_told():
    with pytest.raises(ConfigError, match=r"'base_conversion' made no item 0: TimeoutError: took longer than 0\.3 s"):
        make("base_conversion", config={"min_base": 2, "max_base": 2}, item_seconds=0.3)


def test_an_item_that_fails_is_told(monkeypatch):
    task = make("gcd")
    monkeypatch.setattr(type(task.dataset), "__getitem__", lambda *_: 1 / 0)
    with pytest.raises(EnvError, match="'gcd' made no item 5: ZeroDivisionError"):
        task.item(5)


def test_wrong_words():
    with pytest.raises(ConfigError, match="did you mean 'chain_sum'"):
        make("chain_sums")
    with pytest.raises(ConfigError, match="did you mean 'min_terms'"):
        make("chain_sum", config={"min_term": 2})
    with pytest.raises(ConfigError, match="refuses its arguments"):
        make("chain_sum", config={"min_terms": 9, "max_terms": 2})
