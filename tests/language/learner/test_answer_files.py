"""What a run keeps of its answers: pages for people, Parquet files with every row once."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.language.learner.answer_files import TextKeeper
from distrl.language.learner.learner import age_metrics
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import events, lines
from tests.runtime.test_text_runs import text_config

parquet = pytest.importorskip("pyarrow.parquet")
KEPT = {"texts": {"every": 2, "rows": 5, "rollouts": True}}


class Spans(HTMLParser):
    """Text and attributes of the `span`s of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.spans: list[tuple[dict[str, Any], str]] = []
        self._open: dict[str, Any] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "span":
            self._open = dict(attrs)
            self.spans.append((self._open, ""))

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.spans[-1] = (self._open, self.spans[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def rollouts(folder: Path) -> Any:
    return parquet.read_table(folder / "rollouts").to_pydict()


def test_every_answer_is_kept_once_and_a_resumed_run_keeps_the_same(tmp_runs: Path) -> None:
    whole = text_config("whole", language={**KEPT, "top_p": 0.9})
    train(whole, runs_dir=tmp_runs)
    found = rollouts(tmp_runs / "whole")
    assert sorted(set(found["update"])) == [1, 2, 3, 4]
    assert len(found["group"]) == 4 * 16
    assert len(set(found["group"])) == 16
    for row in range(len(found["group"])):
        said = [token for token, mask in zip(found["tokens"][row], found["mask"][row], strict=True) if mask]
        assert len(found["answer_text"][row]) == sum(token >= 2 for token in said)  # a character each; 0 and 1 are none
        assert len(found["support"][row]) == len(found["tokens"][row])
        assert found["prompt_text"][row].endswith(">")
        assert set(found["version"][row]) == {-1, found["update"][row] - 1}

    # As if the run had been killed after update 4, with update 2 in its newest checkpoint.
    parted = {**whole, "name": "parted"}
    train({**parted, "stop": {"updates": 2}}, runs_dir=tmp_runs)
    folder = tmp_runs / "parted" / "rollouts"
    for update in (3, 4, 5):
        (folder / f"update-{update:07d}.parquet").write_bytes((folder / "update-0000002.parquet").read_bytes())
    train(parted, runs_dir=tmp_runs, resume=True)
    assert rollouts(tmp_runs / "parted") == found
    assert not list(folder.glob("*.tmp"))


def test_a_page_shows_prompts_answers_and_three_colors(tmp_runs: Path) -> None:
    train(text_config("pages", language=KEPT, logging={"tensorboard": True}), runs_dir=tmp_runs)
    folder = tmp_runs / "pages"
    assert sorted(path.name for path in (folder / "texts").iterdir()) == [
        "newest.md",
        *(f"update-{update:07d}.html" for update in (1, 2, 4)),
    ]
    found = rollouts(folder)
    rows = [row for row, update in enumerate(found["update"]) if update == 4][:5]
    spans = Spans((folder / "texts" / "update-0000004.html").read_text()).spans
    assert len(spans) == sum(len(found["tokens"][row]) for row in rows)
    said = [text for attributes, text in spans if attributes["class"] == "model" and len(text) == 1]
    assert "".join(said) == "".join(found["answer_text"][row] for row in rows)
    asked = [text for attributes, text in spans if attributes["class"] == "prompt"]
    assert "".join(asked) == "".join(found["prompt_text"][row] for row in rows)
    model = [attributes for attributes, _ in spans if attributes["class"] == "model"]
    told = [float(re.search(r"log-probability (-?[\d.]+)", attributes["title"])[1]) for attributes in model]
    logps = [x for row in rows for x, kind in zip(found["logp"][row], found["kind"][row], strict=True) if kind == 1]
    np.testing.assert_allclose(told, logps, atol=6e-4)
    surest, least = int(np.argmax(told)), int(np.argmin(told))
    reds = [int(re.search(r"--logp:#ff(..)", model[place]["style"])[1], 16) for place in (surest, least)]
    assert reds[0] > reds[1]
    board = b"".join(path.read_bytes() for path in (folder / "tb").iterdir())
    assert b"Update 4: 5 of 16 answers" in board


def test_pages_are_escaped_and_show_the_age_of_tokens(tmp_path: Path) -> None:
    plan = make_plan(load_config(text_config(language=KEPT)))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    [(_, data)] = sampler.collect([CollectRequest(Unit(0, 0), 0)], learner.weights(0))

    class Markup(type(learner.algorithm.language.tokenizer)):
        def pieces(self, ids: Any) -> list[str]:
            return ["<script>" for _ in ids]

    keeper = TextKeeper(tmp_path, plan.config.language.texts, Markup("0123456789>"), ("success", "placed"))
    assert keeper.keep(data.rollout, 4) == []
    page = (tmp_path / "texts" / "update-0000004.html").read_text()
    assert "<script>" not in page
    assert "3 versions old" in page


def test_ages_of_tokens(tmp_path: Path) -> None:
    plan = make_plan(load_config(text_config()))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    [(_, data)] = sampler.collect([CollectRequest(Unit(0, 0), 0)], learner.weights(0))
    episodes = data.rollout
    assert age_metrics(episodes, 3) == {"staleness/tokens_mean": 3.0, "staleness/mixed_answers": 0.0}
    first = np.flatnonzero(episodes.mask[: episodes.offsets[1]])
    assert len(first) > 1
    episodes.version[first[-1]] = 2
    tokens = int(episodes.mask.sum())
    found = age_metrics(episodes, 3)
    assert found["staleness/tokens_mean"] == pytest.approx((3 * tokens - 2) / tokens)
    assert found["staleness/mixed_answers"] == 1 / len(episodes.group)


def test_a_folder_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    plan = make_plan(load_config(text_config(language=KEPT)))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    [(_, data)] = sampler.collect([CollectRequest(Unit(0, 0), 0)], learner.weights(0))
    keeper = TextKeeper(tmp_path / "gone", plan.config.language.texts, learner.algorithm.language.tokenizer, ("a", "b"))
    assert "does not see the run folder" in keeper.keep(data.rollout, 2)[0]
    assert keeper.keep(data.rollout, 4) == []
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_costs_the_texts_and_not_the_run(tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distrl.language.learner.answer_files.write_atomic", full)
    summary = train(text_config("full", language=KEPT), runs_dir=tmp_runs)
    assert summary["updates"] == 4
    warnings = events(tmp_runs / "full", "warning")
    assert sum("no longer kept" in warning["text"] for warning in warnings) == 1


def test_curves_of_texts(tmp_runs: Path) -> None:
    train(text_config("curves", logging={"every_seconds": 0.01}), runs_dir=tmp_runs)
    tags = {tag for line in lines(tmp_runs / "curves" / "metrics.jsonl") for tag in line}
    assert tags >= {
        "throughput/tokens_per_s",
        "text/pass_at_2",
        "text/distinct_answers",
        "text/success",
        "staleness/tokens_mean",
        "staleness/mixed_answers",
    }
    assert "text/pass_at_4" not in tags, "that is the group itself"
