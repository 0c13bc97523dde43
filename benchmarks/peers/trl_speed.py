"""Seconds of a GRPO step of TRL's trainer, answers of one fixed length; see `benchmarks/trl_speed.py`.

    .venv-trl/bin/python peers/trl_speed.py --model FOLDER --prompts FILE --group-size 8 --new-tokens 32 --steps 4

FILE is JSON: lists of chat messages. Gradient checkpointing is off, weights are kept in float32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback


def share_of_even_ids(completion_ids: list[list[int]], **rest: Any) -> list[float]:
    """Costs nothing."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class Clock(TrainerCallback):
    """Moments at which steps end."""

    def __init__(self, now: Any):
        self.now = now
        self.moments: list[float] = []

    def on_train_begin(self, *args: Any, **rest: Any) -> None:
        self.moments.append(self.now())

    def on_step_end(self, *args: Any, **rest: Any) -> None:
        self.moments.append(self.now())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prompts = json.loads(args.prompts.read_text())
    clock = Clock(time.process_time if args.cpu_time else time.perf_counter)
    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder,
            max_steps=args.steps,
            per_device_train_batch_size=args.group_size * len(prompts),
            num_generations=args.group_size,
            max_completion_length=args.new_tokens,
            generation_kwargs={"min_new_tokens": args.new_tokens},
            model_init_kwargs={"dtype": "float32"},
            learning_rate=1e-6,
            beta=0.0,
            bf16=args.dtype == "bf16",
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = trl.GRPOTrainer(
            model=str(args.model),
            args=config,
            processing_class=AutoTokenizer.from_pretrained(args.model),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            reward_funcs=share_of_even_ids,
            callbacks=[clock],
        )
        trainer.train()
    seconds = [later - earlier for earlier, later in zip(clock.moments, clock.moments[1:], strict=False)]
    line = {"peer": "trl", "versions": {"trl": trl.__version__, "torch": torch.__version__}, "seconds": seconds}
    print(json.dumps(line), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
