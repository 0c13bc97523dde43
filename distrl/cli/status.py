"""`distrl status`: a run at a glance, again and again in a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distrl.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from distrl.runtime.jobs.runs import Json, Run

Address = Annotated[
    str | None,
    typer.Option(
        envvar="DISTRL_ADDRESS",
        help="Where the run is: local (a folder here), http://HEAD:8265 (job server), auto, HOST:PORT or ray://HOST:PORT.",
    ),
]
RunsDir = Annotated[Path, typer.Option(help="Where the run folders of this machine are.")]


def status(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    address: Address = None,
    runs_dir: RunsDir = Path("runs"),
    once: Annotated[bool, typer.Option("--once", help="Not again and again, as in a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole record, once, for programs.")] = False,
) -> None:
    """Show samplers, streams, versions, rates, staleness, and what limits a run."""
    from distrl.base.errors import UserError
    from distrl.runtime.jobs.runs import open_run

    found = open_run(run, address, runs_dir)
    if not (once or as_json) and sys.stdout.isatty():
        _live(found)
        return
    record = found.status()
    if record is None:
        raise UserError(f"the run {run} has no status yet, or has ended.", "See distrl ps and distrl logs.")
    if as_json:
        print_json(record)
    else:
        console().print(view(record))


def _live(run: Run) -> None:
    """Renew the table every second, until the run ends or Ctrl-C."""
    from contextlib import suppress

    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(console=console(), refresh_per_second=2) as live:
        for record in run.watch():
            live.update(view(record))


def view(record: Json) -> RenderableType:
    """Format a status record as tables."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name, value in lines(record):
        facts.add_row(Text(name, style="bold"), Text(value))
    samplers = Table("sampler", "state", "streams", "fragments", "steps/s", "busy for", "process", box=None)
    for sampler in record["samplers"]:
        samplers.add_row(
            str(sampler["sampler"]),
            sampler["state"],
            spans(sampler["streams"]),
            f"{sampler['fragments']:,}",
            f"{sampler['env_steps_per_s']:,.0f}",
            f"{sampler['busy_s']:.1f} s" if sampler["busy_s"] else "waits",
            f"{sampler['pid']} {sampler['node'][:8]}".strip(),
        )
    events = Text("\n".join(record["events"][-6:]), style="dim")
    return Group(facts, "", samplers, "", events)


def lines(record: Json) -> list[tuple[str, str]]:
    """Return names and words of what counts for the whole run."""
    goal = record["goal"]["env_steps"]
    steps = f"{record['env_steps']:,}" + (f" of {goal:,} ({record['env_steps'] / goal:.0%})" if goal else "")
    results = [f"training {record['return_mean']:.1f}"] if record["return_mean"] is not None else []
    results += [f"evaluation {record['eval_return_mean']:.1f}"] if record["eval_return_mean"] is not None else []
    ledger = record["ledger"]
    fates = [fate for fate in ("cut", "evicted", "lost", "rolled_back") if ledger[fate]]
    losses = [f"{ledger[fate]:,} {fate.replace('_', ' ')}" for fate in fates]
    shares = sorted(record["time_shares"].items(), key=lambda share: -share[1])[:5]
    waits = record.get("waits") or {"line": "", "problems": []}
    return [
        ("run", f"{record['name']}: {record['algorithm']} on {record['env']}, attempt {record['attempt']}"),
        ("state", f"{record['state']} ({record['host']}, process {record['pid']})"),
        ("env_steps", steps),
        ("version", f"{record['version']:,}" + (", updating" if record["updating"] else "")),
        ("rates", f"{record['env_steps_per_s']:,.0f} steps/s, {record['updates_per_s']:.2f} updates/s"),
        ("returns", ", ".join(results) or "no finished episodes yet"),
        (
            "staleness",
            f"{'-' if record['staleness'] is None else record['staleness']} now, {record['staleness_max']} at most, "
            f"bound {record['staleness_bound']}",
        ),
        ("fragments", ", ".join([f"{ledger['consumed']:,} consumed", f"{record['waiting']} waiting", *losses])),
        *(("waits", text) for text in [waits["line"]] if text),
        *(("problem", text) for text in waits["problems"]),
        ("limited by", record["limit"] or "not known yet"),
        ("learner", ", ".join(f"{name} {share:.0%}" for name, share in shares) or "-"),
        ("streams", _streams(record["streams"])),
        ("checkpoint", _checkpoint(record)),
    ]


def _streams(streams: list[Json]) -> str:
    """Return the slow stream, if any."""
    places = [stream["next_fragment"] for stream in streams]
    text = f"{len(streams)} streams, next fragments {min(places)} to {max(places)}"
    slowest = min(streams, key=lambda stream: stream["next_fragment"])
    if max(places) - min(places) > 2:
        text += f"; stream {slowest['stream']} on sampler {slowest['sampler']} is behind"
    return text


def _checkpoint(record: Json) -> str:
    if record["checkpoint_problem"]:
        return record["checkpoint_problem"]
    if not record["checkpoint"]:
        return "none yet"
    return f"{Path(record['checkpoint']).name}, {record['checkpoint_age_s']:.0f} s ago"


def spans(numbers: list[int]) -> str:
    """Format numbers as ranges.

    >>> spans([0, 1, 2, 5, 7, 8])
    '0-2 5 7-8'
    """
    words: list[list[int]] = []
    for number in sorted(numbers):
        if words and number == words[-1][-1] + 1:
            words[-1] = [words[-1][0], number]
        else:
            words.append([number])
    return " ".join("-".join(map(str, word)) for word in words) or "none"
