"""What a user of a language-model run can give that cannot be: named before the run begins where that is possible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distrl.base.errors import ConfigError, ResourceError
from distrl.config.load import load_config
from distrl.config.sections.language import LanguageConfig
from distrl.deploy.language.export import export_pretrained
from distrl.language.learner.warnings import EQUAL_UPDATES, MOST_WARNINGS, TextWatch
from distrl.language.models.loading import load_language_model
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import events, summary_of
from tests.runtime.test_text_runs import text_config

ALPHABET = "0123456789> +=?"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers with a tiny model, without a chat template; its context is 64."""
    settings = LanguageConfig(layers=1, width=16, heads=2, context=64, max_new_tokens=4, dtype="fp32")
    model = load_language_model(settings, 0, alphabet=ALPHABET)
    return export_pretrained(model, tmp_path_factory.mktemp("model") / "tiny", {"name": "tiny"})


def with_source(pretrained: Path, **changes: Any) -> dict[str, Any]:
    return text_config(**{"language": {"source": str(pretrained), "max_new_tokens": 4, "dtype": "fp32"}, **changes})


def with_task(run: dict[str, Any], name: str, **kwargs: Any) -> dict[str, Any]:
    return {**run, "task": {**run["task"], "name": name, "kwargs": kwargs}, "algorithm": {"name": "grpo"}}


# ---- prompts -------------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_the_context_is_named_before_the_run(tmp_runs: Path) -> None:
    says = r"train item 0: its prompt has 301 tokens, .* 4; together 305, and the model's context is 256.*language\.con"
    with pytest.raises(ConfigError, match=says):
        train(text_config(task={"kwargs": {"count": 300}}), runs_dir=tmp_runs)
    assert not (tmp_runs / "text").exists()


def test_so_is_one_in_the_middle_of_a_file(tmp_path: Path, pretrained: Path) -> None:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": "1+" * (100 if n == 33 else 1) + f"{n}=?", "result": n + 1} for n in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = {"path": str(file), "prompt": "question", "answer": "result", "verifier": "numeric"}
    run = with_task(with_source(pretrained), "file", **words)
    run["language"]["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ConfigError, match=r"item \d+: its prompt has 20\d tokens, .* the model's context is 64"):
        make_plan(load_config(run))


def test_one_that_comes_late_ends_the_run_with_its_name_and_state(tmp_runs: Path) -> None:
    run = with_task(text_config("late"), "tests.runtime.text_tasks:LongLater", count=3)
    with pytest.raises(ConfigError, match=r"train item \d+: its prompt has 400 tokens"):
        train(run, runs_dir=tmp_runs)
    assert "its prompt has 400 tokens" in events(tmp_runs / "late", "failed")[0]["error"]


def test_a_tokenizer_without_chat_template_is_told_with_the_item(pretrained: Path) -> None:
    run = with_task(with_source(pretrained), "next_number")
    with pytest.raises(ConfigError, match=r"train item 0: .*no chat template.*language\.chat_template"):
        make_plan(load_config(run))


def test_a_tokenizer_without_padding_token_trains(pretrained: Path, tmp_path: Path, tmp_runs: Path) -> None:
    folder = tmp_path / "unpadded"
    folder.mkdir()
    for file in pretrained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            settings = json.loads((folder / name).read_text())
            settings.pop("pad_token", None)
            (folder / name).write_text(json.dumps(settings))
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    summary = train(with_source(folder, stop={"updates": 1}), runs_dir=tmp_runs)
    assert summary["updates"] == 1


# ---- memory --------------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    pretrained: Path, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distrl.language.models.memory_estimate.available_memory", lambda device: 2**20)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # calling it would be an error
    with pytest.raises(ResourceError, match=r"tiny needs about .* GB on cpu \(parameters .* 0\.0 GB are free.*lora"):
        train(with_source(pretrained), runs_dir=tmp_runs)
    assert not tmp_runs.exists()


# ---- rewards -------------------------------------------------------------------------------------------------------


def test_rewards_that_are_not_finite_count_as_unjudged_and_are_told(tmp_runs: Path) -> None:
    run = with_task(text_config("infinite"), "tests.runtime.text_tasks:Infinite", count=3)
    summary = train({**run, "stop": {"updates": 2}}, runs_dir=tmp_runs)
    assert summary["updates"] == 2
    assert "verifier failed" in events(tmp_runs / "infinite", "warning")[0]["text"]


@pytest.mark.parametrize(("success", "says"), [(0.0, "warm_start or a larger model"), (1.0, "ask harder items")])
def test_groups_that_stay_equal_are_told_once_with_advice(success: float, says: str) -> None:
    watch = TextWatch()
    metrics = {"text/zero_variance_groups": 1.0, "text/success": success, "text/unverified": 0.0}
    told = [watch.warnings(metrics) for _ in range(3 * EQUAL_UPDATES)]
    assert [update for update, texts in enumerate(told) if texts] == [EQUAL_UPDATES - 1]
    [text] = told[EQUAL_UPDATES - 1]
    assert "nothing to learn from" in text
    assert says in text


def test_one_group_that_differs_begins_the_count_anew() -> None:
    watch = TextWatch()
    for update in range(4 * EQUAL_UPDATES):
        share = 0.9 if update % (EQUAL_UPDATES - 1) == 0 else 1.0
        metrics = {"text/zero_variance_groups": share, "text/success": 0.0, "text/unverified": 0.0}
        assert watch.warnings(metrics) == []


def test_failing_verifiers_are_told_a_few_times() -> None:
    watch = TextWatch()
    metrics = {"text/zero_variance_groups": 0.0, "text/success": 0.5, "text/unverified": 0.25}
    told = [watch.warnings(metrics) for _ in range(10)]
    assert [bool(texts) for texts in told] == [True] * MOST_WARNINGS + [False] * (10 - MOST_WARNINGS)
    assert "25 %" in told[0][0]


def test_a_run_whose_groups_stay_equal_says_so(tmp_runs: Path) -> None:
    run = text_config(
        "equal", algorithm={"reward": {}}, task={"kwargs": {"count": 12}}, stop={"updates": EQUAL_UPDATES + 1}
    )
    train({**run, "checkpoint": {"every_tokens": 0}}, runs_dir=tmp_runs)
    texts = [warning["text"] for warning in events(tmp_runs / "equal", "warning")]
    assert sum("nothing to learn from" in text for text in texts) == 1
    assert summary_of(tmp_runs / "equal")["updates"] == EQUAL_UPDATES + 1
