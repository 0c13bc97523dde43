"""Gradients of GRPO, RLOO and SFT against TRL's trainers, on equal weights and batch.

    benchmarks/peers/setup_trl.sh
    python benchmarks/trl_gradients.py

TRL generates, scores and learns on a small random model, unchanged; our algorithms get its tokens and weights and
compute rewards, advantages, ratios, reference and gradient themselves. Second steps are those of a second pass over the
same answers, where ratios differ from 1 and some are clipped. Writes results/trl_gradients.json. Exit code 1: a
difference above 1e-4 of the gradient's norm.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import run_peer, write_result
from safetensors.torch import load_file
from tables import text_table
from torch import Tensor

from distrl.base.columns import Columns
from distrl.config.load import load_config
from distrl.config.sections.language import LanguageConfig
from distrl.language.chain.aggregation import aggregate, token_mean
from distrl.language.losses.supervised import sft
from distrl.language.models.export import export_pretrained
from distrl.language.models.loading import load_language_model
from distrl.language.models.token_logp import token_logp
from distrl.runtime.plan.make import make_plan

TOLERANCE = 1e-4
NEW_TOKENS = 8
GRPO = {"name": "grpo", "advantage": {"name": "grpo", "eps": 1e-4}}
LIVE_K3 = {"name": "k3", "importance": "live"}  # what TRL calls bias-corrected

#: Config of our algorithm for each of the peer's cases, and the temperature; none for supervised fine-tuning.
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "grpo": (GRPO, 1.0),
    "grpo_kl_temperature": ({**GRPO, "aggregation": "seq_mean_token_mean", "divergence": LIVE_K3, "beta": 0.04}, 0.7),
    "dr_grpo": ({"name": "dr_grpo"}, 1.0),
    "rloo": ({"name": "rloo"}, 1.0),
    "sft": ({}, 1.0),
}


def main() -> int:
    """Compare, write, print; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        results, versions = compare(Path(folder))
    write_result("trl_gradients", {"tolerance": TOLERANCE, "trl": versions["trl"], "gradients": results})
    header = ["case", "step", "norm", "difference / norm", "clipped", "largest advantage difference"]
    rows = [
        [r["case"], r["step"], f"{r['norm']:.4g}", f"{r['error']:.1e}", f"{r['clipped']:.0%}", f"{r['advantage']:.1e}"]
        for r in results
    ]
    print(text_table(header, rows))
    return int(max(result["error"] for result in results) > TOLERANCE)


def compare(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every step of every case: norms and differences of gradients, relative to TRL's norm."""
    model, out = folder / "model", folder / "out"
    out.mkdir()
    settings = LanguageConfig(source="tiny", layers=2, width=32, heads=4, dtype="fp32")
    alphabet = "0123456789>"
    export_pretrained(load_language_model(settings, 0, alphabet=alphabet), model, {"name": "tiny", "task": "text"})
    peer = run_peer("trl-gradients", "--model", model, "--out", out, timeout=900)
    results = []
    for case, steps in peer["steps"].items():
        for step in range(steps):
            kept = load_file(out / f"{case}-{step}.safetensors")
            inputs = _part(kept, "input/")
            if case == "sft":
                found, facts = supervised_gradient(model, kept)
            else:
                found, facts = policy_gradient(model, case, kept, inputs)
            wanted = _joined(_part(kept, "gradient/"), found)
            ours = _joined(found, found)
            error = float((ours - wanted).norm() / wanted.norm())
            results.append({"case": case, "step": step, "norm": float(wanted.norm()), "error": error, **facts})
    return results, peer["versions"]


def policy_gradient(
    model: Path, case: str, kept: dict[str, Tensor], inputs: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradient by parameter, share of clipped tokens, and difference of advantages."""
    words, temperature = CASES[case]
    algorithm = _algorithm(model, words, temperature)
    _write(algorithm.language, kept)
    batch = _batch(inputs)
    if words["name"] == "rloo" or "old_per_token_logps" not in inputs:
        batch = batch.with_(logp=algorithm.scored(batch))  # its ratio is 1
    else:
        batch = batch.with_(logp=_scattered(inputs, inputs["old_per_token_logps"], 0.0))
    batch = algorithm.prepare(batch)
    _, moved = algorithm.text_gradient(algorithm.objective.weights(batch))
    gradients = {name: p.grad.clone() for name, p in algorithm.language.network.named_parameters()}
    advantage = float((batch.advantage - inputs["advantages"]).abs().max())
    clipped = float(moved["policy/ratio_low"] + moved["policy/ratio_high"])
    return gradients, {"clipped": clipped, "advantage": advantage}


def supervised_gradient(model: Path, kept: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The gradient of the mean negative log-likelihood of answers, by parameter."""
    language = load_language_model(LanguageConfig(source=str(model), dtype="fp32"), 0)
    _write(language, kept)
    tokens = kept["input/input_ids"]
    mask = kept["input/labels"] != -100
    logp, _ = token_logp(language, tokens, mask, packing=True)
    aggregate(sft(logp, mask), token_mean(mask)).backward()
    gradients = {name: p.grad for name, p in language.network.named_parameters()}
    return gradients, {"clipped": 0.0, "advantage": 0.0}


def _algorithm(model: Path, words: dict[str, Any], temperature: float) -> Any:
    """A learner's algorithm whose reference model is the first weights."""
    config = {
        "name": "gradients",
        "task": {"name": "sort_digits", "kwargs": {"count": 3}, "prompts": 4, "streams": 1},
        "language": {
            "source": str(model),
            "dtype": "fp32",
            "temperature": temperature,
            "max_new_tokens": NEW_TOKENS,
            "gate": {"every": 0},
        },
        "algorithm": {"group_size": 4, "learning_rate": 1e-3, **words},
        "stop": {"updates": 1},
    }
    learner = make_plan(load_config(config)).build_learner()
    learner.weights(0)
    learner.algorithm.resolve(0, None)
    return learner.algorithm


def _batch(inputs: dict[str, Tensor]) -> Columns:
    """TRL's batch as rows without padding on the left, with our own reward of each answer."""
    tokens = _scattered(inputs, inputs["completion_ids"], 0, inputs["prompt_ids"])
    mask = _scattered(inputs, inputs["completion_mask"], 0).bool()
    prompts = [tuple(row[keep.bool()].tolist()) for row, keep in _prompts(inputs)]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    even = ((tokens % 2 == 0) & mask).sum(1) / mask.sum(1)
    return Columns(
        tokens=tokens,
        mask=mask,
        components=torch.stack([even.double(), torch.zeros(len(tokens), dtype=torch.float64)], 1),
        group=torch.tensor([numbers[prompt] for prompt in prompts]),
        length=inputs["prompt_mask"].sum(1) + mask.sum(1),
    )


def _scattered(inputs: dict[str, Tensor], answers: Tensor, fill: float, prompts: Tensor | None = None) -> Tensor:
    """Columns (N, L) with prompts moved to the left and answers behind them."""
    lengths = inputs["prompt_mask"].sum(1).tolist()
    width = max(lengths) + answers.shape[1]
    rows = torch.full((len(lengths), width), fill, dtype=answers.dtype)
    for row, length in enumerate(lengths):
        if prompts is not None:
            rows[row, :length] = prompts[row, inputs["prompt_mask"][row].bool()]
        rows[row, length : length + answers.shape[1]] = answers[row]
    return rows


def _prompts(inputs: dict[str, Tensor]) -> Any:
    return zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)


def _write(language: Any, kept: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in language.network.named_parameters():
            parameter.copy_(kept[f"weight/{name}"])


def _part(kept: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in kept.items() if name.startswith(prefix)}


def _joined(tensors: dict[str, Tensor], order: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten().double() for name in order])


if __name__ == "__main__":
    sys.exit(main())
