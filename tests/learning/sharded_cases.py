"""Language-model runs with a sharded learner: the same fragments for one process and for a group of two.

As a program (`python -m tests.learning.sharded_cases FOLDER RANK RENDEZVOUS`) it is one process of the group.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from distrl.base.errors import NonFiniteError
from distrl.base.pack import pack, unpack
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.base import Plan
from distrl.runtime.plan.make import make_plan
from tests.helpers import merged
from tests.runtime.test_text_runs import text_config

UPDATES = 3
START = {"steps": 30, "batch_size": 16, "learning_rate": 3e-3}
KL = {"beta": 0.1, "old_logp": "recompute", "divergence": "k3"}

#: What differs from the base: 3 groups of 4 answers, so one of two shards has twice the other's micro-batches.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "start": {"language": {"warm_start": START}},
    "reference": {"algorithm": KL, "language": {"gradient_checkpointing": True}},
    "lora": {"language": {"lora": {"rank": 4, "targets": ["q_proj", "down_proj"]}}, "algorithm": KL},
    "critic": {"algorithm": {"name": "ppo_tokens"}, "language": {"critic_head": "scalar"}},
    "decay": {
        "task": {"prompts": 4},
        "algorithm": {
            "weight_decay": 0.01,
            "entropy_coef": 0.01,
            "packing": False,
            "minibatches": 2,
            "max_grad_norm": 0.05,
        },
    },
}


def case_config(name: str, sharded: bool, **changes: Any) -> dict[str, Any]:
    run = text_config(
        name,
        language={"max_new_tokens": 3, "layers": 2, "width": 32},
        task={"kwargs": {"count": 2}, "prompts": 3, "streams": 1},
        algorithm={"group_size": 4, "micro_batch": 4, "minibatches": 1, "epochs": 1, "learning_rate": 1e-3},
        learner={"shards": 2},
    )
    run = merged(merged(run, CASES.get(name, {})), changes)
    if sharded:
        run = merged(run, {"backend": "ray", "learner": {"processes": 2, "sharding": "fsdp"}})
    return run


def tied_folder(folder: Path) -> str:
    """A model like the others' whose output layer is its embedding; returns where it is."""
    from distrl.language.models.export import export_pretrained

    model = plan_of("plain", False).build_model()
    model.network.config.tie_word_embeddings = True
    model.network.tie_weights()
    return str(export_pretrained(model, folder, {}))


def plan_of(name: str, sharded: bool, **changes: Any) -> Plan:
    return make_plan(load_config(case_config(name, sharded, **changes)))


def single(name: str, **changes: Any) -> dict[str, Any]:
    """Fragments, weights and states of one process with a whole model."""
    plan = plan_of(name, False, **changes)
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    weights, fragments, states, versions = learner.weights(0), [], [], []
    versions.append(weights)
    for update in range(UPDATES):
        made = sampler.collect([CollectRequest(Unit(update, 0), weights.version)], weights)
        fragments.append([pickle.loads(pickle.dumps(data)) for _, data in made])
        report, weights = learner.update(fragments[-1], Progress(update, 0))
        states.append(pack(learner.state()))
        versions.append(weights)
    return {"fragments": fragments, "versions": versions, "states": states, "metrics": report.metrics}


def broken(fragments: list[FragmentData]) -> list[FragmentData]:
    """The same answers, said with probabilities that are not numbers."""
    copies = pickle.loads(pickle.dumps(fragments))
    for fragment in copies:
        fragment.rollout.logp[:] = np.nan
    return copies


def sharded(name: str, given: dict[str, Any], rank: int, **changes: Any) -> dict[str, Any]:
    """The same updates in this process of a group of two, and what process 0 says of them."""
    from distrl.learning.process_group import GroupShards

    learner = plan_of(name, True, **changes).build_learner(GroupShards(2, rank, 2))
    flat = learner.algorithm.flat
    versions = [learner.weights(0)] if rank == 0 else []
    states, metrics = [], {}
    for update, fragments in enumerate(given["fragments"]):
        if update == 1 and learner.algorithm.schedules.old_logp != "recompute":
            kept = flat.data.clone()
            try:
                learner.update(broken(fragments), Progress(update, 0))
                raise AssertionError("a broken batch was learned from")
            except NonFiniteError:
                assert torch.equal(kept, flat.data)
        report, weights = learner.update(fragments, Progress(update, 0))
        versions.append(weights)
        if rank == 0:
            states.append(pack(learner.state()))
            metrics = report.metrics
    slots = sum(v.numel() for slot in learner.algorithm.trained.optimizer.state.values() for v in slot.values())
    held = {"parameters": flat.data.numel(), "gradients": flat.grad.numel(), "optimizer": slots}
    found = {"versions": versions, "states": states, "metrics": metrics, "held": held}

    learner.following.close()
    again = plan_of(name, True, **changes).build_learner(GroupShards(2, rank, 2))  # goes on where one process was
    again.load_state(unpack(*given["states"][UPDATES - 2]))
    found["resumed"] = again.update(given["fragments"][-1], Progress(UPDATES - 1, 0))[1]
    again.following.close()
    return found


def continued(name: str, state: Any, fragments: Any, **changes: Any) -> Weights:
    """One process goes on with the last update from a state of the group."""
    learner = plan_of(name, False, **changes).build_learner()
    learner.load_state(unpack(*state))
    return learner.update(fragments, Progress(UPDATES - 1, 0))[1]


def main(folder: Path, rank: int, rendezvous: str) -> None:
    from distrl.learning.process_group import join_group, leave_group

    torch.set_num_threads(1)
    join_group(rendezvous, rank, 2, torch.device("cpu"))
    for file in sorted(folder.glob("*.given")):
        given = pickle.loads(file.read_bytes())
        found = sharded(file.stem, given, rank, **given["changes"])
        (folder / f"{file.stem}.{rank}").write_bytes(pickle.dumps(found))
    dist.barrier()
    leave_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
