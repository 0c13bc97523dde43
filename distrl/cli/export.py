"""`distrl export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distrl.cli.output import say


class Format(StrEnum):
    """Export formats."""

    onnx = "onnx"
    torch = "torch"
    hf = "hf"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, a checkpoint folder or a policy.safetensors.")],
    out: Annotated[Path, typer.Option(help="The file to write; with hf the folder.")],
    format: Annotated[
        Format, typer.Option(help="onnx; torch for torch.export.load; hf: a folder for transformers.")
    ] = Format.onnx,
    mask: Annotated[
        bool | None, typer.Option("--mask/--no-mask", help="An action-mask input; by default if the environment has.")
    ] = None,
    observations: Annotated[int, typer.Option(min=0, help="Observations to verify with; 0 verifies nothing.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Export a policy as a file from raw observations to actions; a language model as folder."""
    from distrl.base.errors import UserError

    if out.exists() and not force:
        raise UserError(f"{out} exists.", "Give another --out, or --force.")
    if format is Format.hf:
        from distrl.deploy.language.export import export_text

        export_text(checkpoint, out)
        say(f"wrote {out}; transformers loads it: AutoModelForCausalLM.from_pretrained({str(out)!r})")
        return
    from distrl.deploy.export import export as write

    found = write(checkpoint, out, format.value, masked=mask, observations=observations)
    say(f"wrote {out} ({out.stat().st_size:,} bytes)")
    say(f"verified: {found}" if found else "not verified")
