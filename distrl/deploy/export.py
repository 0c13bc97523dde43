"""Export of policies to ONNX or torch.export, verified against the policy."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from distrl.base.errors import UserError
from distrl.base.files import to_json, write_atomic
from distrl.base.registry import import_user_code
from distrl.control.envs.spaces import space_to_json
from distrl.deploy.actor import Actor
from distrl.deploy.policy_file import SavedPolicy
from distrl.deploy.signature import Signature
from distrl.deploy.verify import Verification, gives_masks, verify

FORMATS = ("onnx", "torch")
#: Batch size of the example that is traced: not 1, which would be taken for a constant.
TRACED_BATCH = 3

Program = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def export(
    path: str | Path, out: str | Path, format: str = "onnx", *, masked: bool | None = None, observations: int = 1000
) -> Verification | None:
    """Export a policy as one file from raw observations to actions; see `Signature`.

    Args:
        path: As for `distrl.load`.
        format: `onnx`, or `torch` for `torch.export.load`.
        masked: The file takes an action mask; by default if the environment gives them.
        observations: Number to record and replay through the file; 0 writes it without verification.

    Raises:
        UserError: A package is missing, or the file does not act as the policy does (it is not written then).
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}.")
    if format == "onnx":
        _require_onnx()
    saved = SavedPolicy.read(path)
    import_user_code(saved.config.imports)
    actor = Actor(saved).eval()
    signature = Signature(actor, gives_masks(saved.config.environment) if masked is None else masked)
    program = trace(signature)
    facts = to_json(describe_file(saved, signature))
    data = _onnx_bytes(program, signature, facts) if format == "onnx" else _torch_bytes(program, facts)
    found = None
    if observations:
        run = onnx_program(data) if format == "onnx" else torch_program(data, signature)
        found = verify(saved, signature, run, observations)
        if not found.passed:
            raise UserError(f"the exported program does not act as the policy does: {found}.", "Nothing was written.")
    write_atomic(out, data)
    return found


def describe_file(saved: SavedPolicy, signature: Signature) -> dict[str, object]:
    """Make the metadata of an exported file (`distrl` in ONNX, `distrl.json` in torch.export)."""
    return {
        **saved.facts,
        "env": saved.config.environment.id,
        "algorithm": saved.config.algorithm["name"],
        "observation_space": space_to_json(signature.actor.space),
        "action_space": space_to_json(saved.action_space),
        "inputs": signature.input_names,
        "outputs": signature.output_names,
    }


def trace(signature: Signature) -> torch.export.ExportedProgram:
    """Trace the program of one step, for any batch size."""
    from distrl.base.columns import tree_leaves

    example = tuple(leaf.contiguous() for leaf in tree_leaves(signature.example(TRACED_BATCH)))
    batch = torch.export.Dim("batch", min=1)
    shapes = (tuple({0: batch} for _ in example),)
    with torch.no_grad():
        return torch.export.export(signature.eval(), example, dynamic_shapes=shapes, strict=False)


def _onnx_bytes(program: torch.export.ExportedProgram, signature: Signature, facts: str) -> bytes:
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            found = torch.onnx.export(
                program,
                input_names=signature.input_names,
                output_names=signature.output_names,
                dynamo=True,
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    assert found is not None
    for value in (*found.model.graph.inputs, *found.model.graph.outputs):
        if value.shape is not None:
            value.shape[0] = "batch"  # the tracer's own name for it is a number
    found.model.metadata_props["distrl"] = facts
    return found.model_proto.SerializeToString()


def _torch_bytes(program: torch.export.ExportedProgram, facts: str) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"distrl.json": facts})
    return buffer.getvalue()


def onnx_program(file: str | Path | bytes) -> Program:
    """Load an exported ONNX file as a function of named arrays."""
    _require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source = file if isinstance(file, bytes) else str(file)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    taken = {entry.name for entry in session.get_inputs()}

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: array for name, array in inputs.items() if name in taken}
        return dict(zip(names, session.run(None, given), strict=True))

    return run


def torch_program(file: str | Path | bytes, signature: Signature) -> Program:
    """Load an exported torch program as a function of named arrays."""
    program = torch.export.load(io.BytesIO(file) if isinstance(file, bytes) else str(file)).module()

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = program(*(torch.from_numpy(inputs[name]) for name in signature.input_names))
        return {name: leaf.numpy() for name, leaf in zip(signature.output_names, outputs, strict=True)}

    return run


def _require_onnx() -> None:
    from importlib.util import find_spec

    lacking = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise UserError(f"ONNX export needs {', '.join(lacking)}.", "Type: pip install 'distrl[export]'")
