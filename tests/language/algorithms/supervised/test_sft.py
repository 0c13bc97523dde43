"""Supervised fine-tuning and one-token rollouts: rows, losses, files of answers, resume, messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.experience.fragment import CollectRequest, Unit
from distrl.experience.token_episodes import FORCED, PROMPT, check_episodes
from distrl.experience.weights import Weights
from distrl.language.curricula.prompt_order import PromptLines
from distrl.language.samplers.demonstrations import DemonstrationSampler
from distrl.language.tasks.base import Item
from distrl.language.tasks.prompt_files import FileTask
from distrl.language.tasks.tiny import SortDigits
from distrl.runtime.train import train
from tests.helpers import lines, merged, parameter_hash
from tests.runtime.test_text_runs import text_config
from tests.support.tiny_worlds import TinyWorld, prefix_states


class Silent(SortDigits):
    """Does not know its own answers."""

    def demonstration(self, item: Item) -> Any:
        return None


class Letters:
    """A tokenizer of single bytes."""

    stop_ids = (0,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    encode_prompt = encode


def sft_config(name: str = "sft", **changes: Any) -> dict[str, Any]:
    run = text_config(name, **changes)
    run["algorithm"] = {"name": "sft", "learning_rate": 1e-3, **changes.get("algorithm", {})}
    return run


def logits(made: TinyWorld, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Slow: (K, V) of every answer token's own prefix, and the tokens (K,)."""
    return made.algorithm.language.logits(prefix_states(made, batch)[1]), batch.tokens[batch.mask]


def test_fragments_hold_prompts_and_their_right_answers() -> None:
    made = TinyWorld({"name": "sft"})
    tokenizer, task = made.algorithm.language.tokenizer, made.learner.task
    seen = []
    for fragment in made.fragments():
        episodes = check_episodes(fragment.rollout)
        assert set(episodes.kind[episodes.mask].tolist()) == {FORCED}
        assert set(episodes.kind[~episodes.mask].tolist()) == {PROMPT}
        for row, item in enumerate(episodes.item.tolist()):
            begin, end = episodes.offsets[row : row + 2]
            prompt, answer = tokenizer.encode_prompt(task.item(item).prompt), task.demonstration(task.item(item))
            expected = [*prompt, *tokenizer.encode(answer), tokenizer.stop_ids[0]]
            assert episodes.tokens[begin:end].tolist() == expected
            assert int(episodes.mask[begin:end].sum()) == len(answer) + 1
            seen.append(item)
    assert len(set(seen)) == 8
    assert made.sampler.clock.activity().what == ""  # what a pool asks of every sampler


def test_the_loss_is_the_answers_surprise_whatever_answers_are_drawn_at() -> None:
    made = TinyWorld({"name": "sft", "micro_batch": 3, "minibatches": 1}, {"temperature": 0.7, "top_p": 0.9})
    batch = made.prepared()
    found = made.gradient(batch)
    z, tokens = logits(made, batch)
    loss = torch.nn.functional.cross_entropy(z, tokens)
    expected = made.slow_gradient(loss)
    assert float(expected.norm()) > 1e-3
    assert torch.allclose(found, expected, atol=1e-5)
    metrics = made.step()
    assert metrics["loss/policy"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics["text/length"] == 3.0
    assert "text/success" not in metrics


@pytest.mark.parametrize("word", ["one_token_rollout", "one_token_rollout_exact"])
def test_one_token_rollouts_have_the_expected_gradient(word: str) -> None:
    """Exactly, or for very many draws within their noise."""
    made = TinyWorld({"name": "one_token_rollout", "objective": {"name": word, "other": -0.1}, "draws": 100_000})
    made.move(0.3)
    batch = made.prepared()
    found = made.gradient(batch)
    z, tokens = logits(made, batch)
    logp, share = z.log_softmax(-1), (z.detach() / 1.3).softmax(-1)
    reward = torch.full_like(share, -0.1).scatter(1, tokens[:, None], 1.0)
    expected = made.slow_gradient(-(share * reward * logp).sum(-1).mean())
    exact = word.endswith("exact")
    assert float((found - expected).norm()) < (1e-4 if exact else 0.02) * float(expected.norm())


def test_draws_are_the_same_in_every_process_and_differ_between_steps() -> None:
    losses = []
    for shards in (1, 1, 2):
        made = TinyWorld({"name": "one_token_rollout", "draws": 4, "micro_batch": 2}, learner={"shards": shards})
        batch = made.prepared()
        losses += [float(made.algorithm.text_gradient(made.algorithm.add_loss_weights(batch))[0]) for _ in range(2)]
    assert losses[0] == losses[2]
    assert losses[1] == losses[3]
    assert losses[0] != losses[1]
    assert losses[4] == pytest.approx(losses[0], abs=1e-6)  # shards of four rows, parts of two: the same parts


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_files_of_prompts_and_answers(tmp_path: Path, suffix: str) -> None:
    rows = [{"question": f"{k}+{k}=", "solution": str(2 * k)} for k in range(20)]
    path = tmp_path / f"sums.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    task = FileTask(str(path), prompt="question", answer="solution", chat=False)
    lines_ = PromptLines(task, streams=2, lines=1, items_per_line=1, seed=0)
    sampler = DemonstrationSampler(0, Letters(), task, lines_, context=None, wanted_by="sft")
    weights = Weights.of({"w": np.zeros(1, np.float32)}, 0)
    units = [Unit(seq, stream) for seq in range(task.size // 2) for stream in range(2)]
    texts = []
    for _, data in sampler.collect([CollectRequest(unit, 0) for unit in units], weights):
        assert data.rollout.tokens[-1] == 0  # the stop token
        texts.append(bytes(data.rollout.tokens[:-1].tolist()).decode())
    asked = {row["question"] + row["solution"] for row in rows}
    assert set(texts) <= asked
    assert len(set(texts)) == len(units) >= 8  # no prompt twice in a pass


def test_a_run_learns_evaluates_and_resumes_with_the_same_hash(tmp_runs: Path) -> None:
    run = sft_config("whole", stop={"updates": 6}, eval={"every_tokens": 40, "episodes": 8})
    whole = train(run, runs_dir=tmp_runs)
    assert whole["env_steps"] == 6 * 4 * 4  # tokens of answers
    assert whole["evaluations"]
    assert whole["ledger"]["consumed"] == 12
    curve = [line["loss/policy"] for line in lines(tmp_runs / "whole" / "metrics.jsonl") if "loss/policy" in line]
    assert curve[-1] < curve[0]
    part = merged(run, {"name": "part", "stop": {"updates": 3}})
    parameter_hash(part, tmp_runs)
    again = train(merged(part, {"stop": {"updates": 6}}), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == whole["parameter_hash"]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_serial_hash(local_ray: str, tmp_runs: Path) -> None:
    serial = parameter_hash(sft_config("serial"), tmp_runs)
    assert parameter_hash(sft_config("ray", backend="ray", samplers={"count": 2}), tmp_runs) == serial


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"algorithm": {"reward": {"components": {"success": {}}}}}, "no rewards"),
        ({"algorithm": {"group_size": 4}}, "group_size"),
        ({"algorithm": {"name": "one_token_rollout", "objective": "sft"}}, "one_token_rollout_exact"),
        ({"language": {"curriculum": {"name": "uniform", "size": 8}}}, "curriculum"),
        ({"language": {"context": 6}}, "context"),
        ({"task": {"name": "tests.language.algorithms.supervised.test_sft:Silent"}}, "demonstrations"),
    ],
)
def test_wrong_configs_are_named(changes: dict[str, Any], says: str, tmp_runs: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        train(sft_config(**changes), runs_dir=tmp_runs)
