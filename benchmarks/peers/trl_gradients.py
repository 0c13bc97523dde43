"""Gradients of TRL's own trainers on a small model, step by step, kept for `benchmarks/trl_gradients.py`.

    .venv-trl/bin/python peers/trl_gradients.py --model FOLDER --out FOLDER

A trainer runs as it is. What its loss was computed from, the weights before every optimizer step and the gradient are
written to OUT/CASE-STEP.safetensors.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoTokenizer, TrainerCallback

PROMPTS = ["31>", "204>", "5570>", "98>"]
DEMONSTRATIONS = ["13", "024", "0557", "89"]
GENERATIONS, NEW_TOKENS = 4, 8

#: Trainer, its options, and optimizer steps that are kept.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "grpo": ("GRPO", {"num_iterations": 2}, 2),
    "grpo_kl_temperature": ("GRPO", {"loss_type": "grpo", "beta": 0.04, "temperature": 0.7, "num_iterations": 2}, 2),
    "dr_grpo": ("GRPO", {"loss_type": "dr_grpo", "scale_rewards": "none"}, 1),
    "rloo": ("RLOO", {"beta": 0.0}, 1),
    "sft": ("SFT", {}, 2),
}
COMMON = {
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,  # gradients as they are
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "seed": 0,
}


def share_of_even_ids(completion_ids: list[list[int]], **rest: Any) -> list[float]:
    """A reward that is a pure function of tokens: the share that have an even id."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def recorder(base: type, inputs: list[dict[str, Any]]) -> type:
    """A trainer that keeps the inputs of its loss."""
    method = "compute_loss" if base is trl.SFTTrainer else "_compute_loss"

    def loss(self: Any, model: Any, batch: dict[str, Any], *args: Any, **options: Any) -> Any:
        inputs.append({name: x.detach().clone() for name, x in batch.items() if isinstance(x, torch.Tensor)})
        return getattr(base, method)(self, model, batch, *args, **options)

    return type("Recorder", (base,), {method: loss})


class Keeper(TrainerCallback):
    """Writes a file before every optimizer step."""

    def __init__(self, out: Path, case: str, inputs: list[dict[str, Any]]):
        self.out, self.case, self.inputs = out, case, inputs

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        tensors = {f"input/{name}": tensor for name, tensor in self.inputs[-1].items()}
        for name, parameter in model.named_parameters():
            tensors[f"weight/{name}"] = parameter.detach()
            tensors[f"gradient/{name}"] = parameter.grad
        kept = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        save_file(kept, self.out / f"{self.case}-{state.global_step}.safetensors")


def run(case: str, model: Path, out: Path) -> None:
    """Train for a step or two and keep them."""
    kind, options, steps = CASES[case]
    inputs: list[dict[str, Any]] = []
    base, config = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    tokenizer = AutoTokenizer.from_pretrained(model)
    shape: dict[str, Any] = {"max_steps": steps, "model_init_kwargs": {"dtype": "float32"}}
    if kind == "SFT":
        pairs = [{"prompt": p, "completion": a} for p, a in zip(PROMPTS, DEMONSTRATIONS, strict=True)]
        shape |= {"per_device_train_batch_size": len(pairs), "max_length": 32}
        more: dict[str, Any] = {"train_dataset": Dataset.from_list(pairs)}
    else:
        shape |= {
            "per_device_train_batch_size": GENERATIONS * len(PROMPTS),
            "num_generations": GENERATIONS,
            "max_completion_length": NEW_TOKENS,
        }
        more = {
            "train_dataset": Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
            "reward_funcs": share_of_even_ids,
        }
    with tempfile.TemporaryDirectory() as folder:
        trainer = recorder(base, inputs)(
            model=str(model),
            args=config(output_dir=folder, **COMMON, **shape, **options),
            processing_class=tokenizer,
            callbacks=[Keeper(out, case, inputs)],
            **more,
        )
        trainer.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        run(case, args.model, args.out)
    steps = {case: steps for case, (_, _, steps) in CASES.items()}
    print(json.dumps({"peer": "trl", "versions": {"trl": trl.__version__}, "steps": steps}), file=sys.__stdout__)


if __name__ == "__main__":
    main()
