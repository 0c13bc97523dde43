"""FlowRL: balance at the start, the partition network and its input, resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distrl.language.algorithms.value_based.flowrl import prompt_mean
from distrl.runtime.train import train
from tests.helpers import merged, parameter_hash
from tests.runtime.test_text_runs import text_config
from tests.support.tiny_worlds import TinyWorld

WORDS = {"name": "flowrl", "group_size": 4, "reward": {"components": {"placed": {}}}}


def test_at_the_reference_equal_rewards_teach_nothing() -> None:
    made = TinyWorld(WORDS)
    batch = made.prepared()
    assert torch.equal(batch.ref_logp, made.algorithm.scored(batch))
    rest = made.gradient(batch.with_(advantage=torch.zeros_like(batch.advantage)))
    assert float(rest.norm()) < 1e-4  # the reference was computed packed, the present distribution is not
    found = made.gradient(batch)
    logp = made.algorithm.token_logp_and_entropy(batch)[0]
    mean = (logp * batch.mask).sum(1) / batch.mask.sum(1)
    # at log Z = 0 the imbalance is -beta A: 2 w delta grad of (log Z + mean log pi)
    log_z = made.algorithm.language.partition(prompt_mean(made.algorithm.language.hidden(batch.tokens), batch.mask))
    assert not bool(log_z.any())
    expected = made.slow_gradient((-2 * 15.0 * batch.advantage.float() * (mean + log_z)).mean())
    assert float(expected.norm()) > 1e-3
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_partition_reads_the_prompt_alone() -> None:
    made = TinyWorld(WORDS)
    batch = made.batch()
    language = made.algorithm.language
    hidden = language.hidden(batch.tokens)
    found = prompt_mean(hidden, batch.mask)
    for row in range(len(batch.tokens)):
        first = int(batch.mask[row].nonzero()[0])
        assert first >= 3
        assert torch.allclose(found[row], language.hidden(batch.tokens[row : row + 1, :first])[0].mean(0), atol=1e-5)
    assert torch.equal(prompt_mean(hidden, torch.zeros_like(batch.mask)), torch.zeros_like(found))


@pytest.mark.parametrize("trunk", [True, False])
def test_the_partitions_gradient_may_stop_before_the_trunk(trunk: bool) -> None:
    made = TinyWorld({**WORDS, "partition_trunk": trunk})
    made.move()
    batch = made.algorithm.add_loss_weights(made.prepared())
    made.slow_gradient(made.algorithm.forward(batch).log_z.sum())
    views = made.algorithm.flat.views(made.algorithm.flat.grad)
    reached = {name.split(".")[0] for name, view in views.items() if bool(view.any())}
    assert reached == ({"network", "partition"} if trunk else {"partition"})


def test_the_policy_and_its_partition_come_to_balance() -> None:
    """Many steps on one batch: the imbalance goes to 0, so log Z and the shares of the answers fit their rewards."""
    made = TinyWorld({**WORDS, "objective": {"name": "flowrl", "beta": 1.0}})
    batch = made.algorithm.add_loss_weights(made.prepared())
    optimizer = torch.optim.Adam([made.algorithm.flat.parameter()], lr=3e-3)
    losses = []
    for _ in range(120):
        loss, _ = made.algorithm.text_gradient(batch)
        losses.append(float(loss))
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]


def test_a_resumed_run_ends_with_the_same_hash(tmp_runs: Path) -> None:
    run = text_config("flow", algorithm={"name": "flowrl"})
    whole = parameter_hash(run, tmp_runs)
    first = merged(run, {"name": "parts", "stop": {"updates": 2}})
    parameter_hash(first, tmp_runs)
    again = train(merged(first, {"stop": {"updates": 4}}), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == whole
