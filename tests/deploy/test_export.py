"""Exported programs: every kind of policy, replayed; and that the replay would notice a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distrl
from distrl.base.errors import UserError
from distrl.base.registry import import_user_code
from distrl.deploy import export as export_module
from distrl.deploy.actor import Actor
from distrl.deploy.export import export, onnx_program, torch_program
from distrl.deploy.policy_file import SavedPolicy
from distrl.deploy.signature import Signature
from distrl.deploy.verify import verify
from tests.deploy.conftest import MakePolicy
from tests.support.cases import CASES

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")


def signature_of(path: Path, masked: bool = False) -> Signature:
    return Signature(Actor(SavedPolicy.read(path)).eval(), masked)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_policy_acts_alike_after_export(
    case: str, format: str, make_policy: MakePolicy, tmp_path: Path
) -> None:
    env_id, overrides = CASES[case]
    found = export(make_policy(env_id, *overrides), tmp_path / "policy.bin", format, observations=1000)
    assert found is not None
    assert found.passed, found
    assert found.observations == 1000
    assert found.clear > 900 or found.choices == 0, found


def test_the_interface_of_an_onnx_file(make_policy: MakePolicy, tmp_path: Path) -> None:
    """Named inputs and outputs, any batch size, actions that the environment takes, facts inside."""
    import onnx

    path = make_policy(CASES["nested frames, lstm"][0], *CASES["nested frames, lstm"][1])
    export(path, tmp_path / "p.onnx", observations=0)
    model = onnx.load(tmp_path / "p.onnx")
    names = ["obs.gray", "obs.speed", "first", "frames.gray", "frames.speed", "memory.0", "memory.1"]
    assert [entry.name for entry in model.graph.input] == names
    assert [entry.name for entry in model.graph.output][:2] == ["action", "params"]
    for entry in (*model.graph.input, *model.graph.output):
        assert entry.type.tensor_type.shape.dim[0].dim_param == "batch"
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["distrl"])
    assert facts["update"] == 7
    assert facts["inputs"] == names
    run = onnx_program(tmp_path / "p.onnx")
    for batch in (1, 2, 9):
        signature = signature_of(path)
        example = dict(zip(names, _leaves(signature, batch), strict=True))
        assert run(example)["action"].shape == (batch,)


def _leaves(signature: Signature, batch: int) -> list[np.ndarray]:
    from distrl.base.columns import tree_leaves

    return [leaf.numpy() for leaf in tree_leaves(signature.example(batch))]


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_torch_programs_take_any_batch_size(batch: int, make_policy: MakePolicy, tmp_path: Path) -> None:
    path = make_policy(CASES["gru"][0], *CASES["gru"][1])
    export(path, tmp_path / "p.pt2", "torch", observations=0)
    signature = signature_of(path)
    run = torch_program(tmp_path / "p.pt2", signature)
    assert run(dict(zip(signature.input_names, _leaves(signature, batch), strict=True)))["action"].shape == (batch,)


def test_first_resets_memory_and_frames(make_policy: MakePolicy, tmp_path: Path) -> None:
    """A row that begins an episode does not depend on what its state was."""
    path = make_policy(CASES["nested frames, lstm"][0], *CASES["nested frames, lstm"][1])
    export(path, tmp_path / "p.onnx", observations=0)
    run, signature = onnx_program(tmp_path / "p.onnx"), signature_of(path)
    clean = dict(zip(signature.input_names, _leaves(signature, 2), strict=True))
    rng = np.random.default_rng(0)
    used = {
        name: rng.normal(size=array.shape).astype(array.dtype) if name.startswith(("memory", "frames.speed")) else array
        for name, array in clean.items()
    }
    used["first"] = np.array([True, False])
    np.testing.assert_array_equal(run(used)["params"][0], run(clean)["params"][0])
    assert np.abs(run(used)["params"][1] - run(clean)["params"][1]).max() > 1e-3


def test_real_valued_actions_are_clipped_inside(make_policy: MakePolicy, tmp_path: Path) -> None:
    path = make_policy(CASES["normalized"][0])
    export(path, tmp_path / "p.onnx", observations=0)
    obs = np.random.default_rng(0).normal(scale=50.0, size=(200, 2))
    out = onnx_program(tmp_path / "p.onnx")({"obs": obs})
    mean = out["params"][:, :4].reshape(-1, 2, 2)
    assert (mean > 0.5).any()
    assert (mean < -0.25).any()
    np.testing.assert_array_equal(out["action"], np.clip(mean, -0.25, 0.5))


def test_a_mask_can_be_asked_for_and_left_out(make_policy: MakePolicy, tmp_path: Path) -> None:
    path = make_policy(CASES["plain"][0])
    export(path, tmp_path / "p.onnx", masked=True, observations=40)
    obs = np.zeros((4, 5), np.float32)
    found = onnx_program(tmp_path / "p.onnx")({"obs": obs, "mask": np.eye(4, dtype=bool)})
    np.testing.assert_array_equal(found["action"], [-2, -1, 0, 1])
    with pytest.raises(UserError, match="cannot be masked"):
        export(make_policy(CASES["normalized"][0]), tmp_path / "q.onnx", masked=True)


@pytest.mark.parametrize("case", ["plain", "normalized", "nested"])
def test_the_replay_notices_a_wrong_program(case: str, make_policy: MakePolicy) -> None:
    path = make_policy(CASES[case][0], *CASES[case][1])
    saved = SavedPolicy.read(path)
    import_user_code(saved.config.imports)
    signature = signature_of(path)

    def run(inputs: dict[str, np.ndarray], shift: float, turn: bool) -> dict[str, np.ndarray]:
        import torch

        with torch.no_grad():
            leaves = signature(*(torch.from_numpy(inputs[name]) for name in signature.input_names))
        out = {name: leaf.numpy().copy() for name, leaf in zip(signature.output_names, leaves, strict=True)}
        out["params"] += shift
        for name in out:
            if turn and name.startswith("action"):
                out[name] = out[name][::-1]
        return out

    assert verify(saved, signature, lambda inputs: run(inputs, 0.0, False), 40).passed
    assert not verify(saved, signature, lambda inputs: run(inputs, 2e-5, False), 40).passed
    assert not verify(saved, signature, lambda inputs: run(inputs, 0.0, True), 40).passed


def test_a_wrong_program_is_not_written(
    make_policy: MakePolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = export_module.onnx_program

    def wrong(data: Any) -> Any:
        run = right(data)
        return lambda inputs: {name: array + 1 for name, array in run(inputs).items()}

    monkeypatch.setattr(export_module, "onnx_program", wrong)
    with pytest.raises(UserError, match="does not act as the policy does"):
        export(make_policy(CASES["plain"][0]), tmp_path / "p.onnx", observations=8)
    assert not (tmp_path / "p.onnx").exists()


def test_agent_and_program_choose_the_same(make_policy: MakePolicy, tmp_path: Path) -> None:
    path = make_policy(CASES["plain"][0])
    export(path, tmp_path / "p.onnx", observations=0)
    obs = np.random.default_rng(1).normal(size=(500, 5)).astype(np.float32)
    agent = distrl.load(path)
    best = np.sort(agent.params(obs), -1)
    clear = best[:, -1] - best[:, -2] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(
        onnx_program(tmp_path / "p.onnx")({"obs": obs})["action"][clear], agent.act(obs)[clear]
    )
