"""docs/results.md: every study and example that has records, with its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pretrained_cells
import pretrained_page
import risk_page
from common import FOLDER, RESULTS
from pretrained_cells import records_of
from records import Places, read_record
from risk_page import Found
from risk_studies import STUDIES, Study
from tables import machine_line

from distrl.base.files import write_atomic

RISK = Places(RESULTS / "risk", FOLDER / ".cache" / "risk", pretrained_cells.PLACES.table)
HEAD = """# Results

Made by `python benchmarks/risk_results.py` and `python benchmarks/pretrained.py`; every run is a record in
`benchmarks/results/risk/` or `benchmarks/results/pretrained/`. Ranges are the lowest and highest seed.
"""


def write_results(path: Path, risk: Places = RISK, pretrained: Places = pretrained_cells.PLACES) -> None:
    """Page and plots of all that is there; a study without all its records is left out.

    Args:
        path: The page; plots go into `plots/` beside it.
        risk, pretrained: Where the records are.
    """
    plots = path.parent / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    sections, records = list[str](), list[Mapping[str, Any]]()
    for study, found in complete_studies(risk):
        risk_page.save(risk_page.draw(study, found), plots / f"{study.name}.svg")
        sections.append(risk_page.section(study, found))
        records += [record for own in found.values() for record in own]
    for cell in pretrained_cells.CELLS:
        if own := records_of(pretrained, cell):
            risk_page.save(pretrained_page.draw(cell, own), plots / f"{cell.name}.svg")
            sections.append(pretrained_page.section(cell, own))
            records += own
    write_atomic(path, "\n\n".join([HEAD.rstrip("\n"), *sections, machines(records)]))


def complete_studies(places: Places) -> list[tuple[Study, Found]]:
    """Studies with a record of every run, by label; stale records are shown too."""
    found = {
        study.name: {
            label: [read_record(places, cell, seed)[1] for seed in cell.seeds] for label, cell in study.cells.items()
        }
        for study in STUDIES
    }
    whole = [study for study in STUDIES if None not in [one for own in found[study.name].values() for one in own]]
    return [(study, found[study.name]) for study in whole]  # type: ignore[misc]


def machines(records: Sequence[Mapping[str, Any]]) -> str:
    """List the machines of the runs."""
    lines = sorted({machine_line(record["machine"]).rsplit(";", 1)[0] for record in records})
    return "".join(f"- {line}\n" for line in lines)
