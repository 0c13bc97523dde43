"""Fingerprints of short runs, to compare the numbers of two versions of the code.

    python benchmarks/fingerprints.py --out before.json                          # all, about five minutes on one core
    python benchmarks/fingerprints.py --out after.json --compare before.json     # exit code 1: something differs
    python benchmarks/fingerprints.py --only 'cell/learning/*' --out some.json
    python benchmarks/fingerprints.py --list

A fingerprint is the hash of the weights after a few updates in one process. There is one for every example, every cell
that has records, every algorithm with every head, and many switches (`fingerprint_settings.py`,
`fingerprint_cases.py`). They hold on one machine and for one version of torch: take them before a change and after it.
Names of parameters are hashed with their values: an attribute of a network that is renamed changes a fingerprint, too.
In place of a hash: `refused`, a config error where a head may be refused; `error: ...`; and `unchanged: HASH` where the
last updates learned nothing, so that the hash says little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatch
from pathlib import Path

import torch
from code_hash import REPOSITORY
from fingerprint_cases import algorithm_settings, link_settings, risk_settings, variant_settings
from fingerprint_settings import Setting, cell_settings, example_settings
from fingerprint_worlds import Watch

from distrl.runtime.train import train

REFUSED = "refused"


def main(words: Sequence[str] | None = None) -> int:
    """Take fingerprints and compare them; returns the exit code."""
    args = parse(words)
    os.chdir(REPOSITORY)  # some cells name files in it
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    settings = chosen(args.only, args.sample)
    if args.list:
        print("\n".join(setting.name for setting in settings))
        return 0
    begun = time.monotonic()
    found = fingerprints(settings, args.jobs)
    print(f"{len(found)} settings, {time.monotonic() - begun:.0f} s")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    if not args.compare:
        return 0
    wanted = {name: value for name, value in json.loads(args.compare.read_text()).items() if fits(name, args.only)}
    if args.sample:
        wanted = {name: value for name, value in wanted.items() if name in found}
    lines = differences(wanted, found)
    print("\n".join(lines) or "no differences")
    return int(bool(lines))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=lambda path: Path(path).absolute(), help="JSON file to write: {setting: hash}")
    parser.add_argument("--compare", type=lambda path: Path(path).absolute(), help="a file of an earlier --out")
    parser.add_argument("--only", help="names, with * and ?, such as 'algorithm/*'")
    parser.add_argument("--sample", type=int, help="that many settings, drawn at random, in random order")
    parser.add_argument("--list", action="store_true", help="show the settings and stop")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser.parse_args(words)


def fits(name: str, only: str | None) -> bool:
    """True if a setting is selected."""
    return not only or fnmatch(name, only)


def chosen(only: str | None, sample: int | None = None) -> list[Setting]:
    """Collect the selected settings."""
    kinds: Iterable[Iterable[Setting]] = (
        *(example_settings(), cell_settings(), algorithm_settings()),
        *(risk_settings(), link_settings(), variant_settings()),
    )
    settings = [setting for kind in kinds for setting in kind if fits(setting.name, only)]
    names = [setting.name for setting in settings]
    assert len(set(names)) == len(names), "two settings have one name"
    return random.sample(settings, min(sample, len(settings))) if sample else settings


def fingerprints(settings: Sequence[Setting], jobs: int) -> dict[str, str]:
    """Take all fingerprints, by name. Settings that are the same run are run once."""
    runs = list({setting.identity: setting for setting in reversed(settings)}.values())[::-1]
    if jobs == 1:
        values = [fingerprint(run) for run in runs]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            values = list(pool.map(fingerprint, runs))
    found = {run.identity: value for run, value in zip(runs, values, strict=True)}
    return {setting.name: found[setting.identity] for setting in settings}


def fingerprint(setting: Setting) -> str:
    """Run one setting; returns the hash, or the kind of failure."""
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fingerprint-") as folder:
        try:
            value = train(setting.config, runs_dir=folder)["parameter_hash"]
        except Exception as error:
            refused = setting.may_refuse and type(error).__name__ == "ConfigError"
            first = (str(error).splitlines() or [""])[0]
            value = REFUSED if refused else f"error: {type(error).__name__}: {first}"
        else:
            value = value if Watch.changed else f"unchanged: {value}"
    shown = value[:12] if value.isalnum() else value[:150]
    print(f"{setting.name}  {shown}  {time.monotonic() - begun:.1f} s", flush=True)
    return value


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """List missing, extra and different settings."""
    lines = [f"missing: {name}" for name in wanted if name not in found]
    lines += [f"extra: {name}" for name in found if name not in wanted]
    both = [name for name in wanted if name in found]
    return lines + [f"different: {n}: {wanted[n]} -> {found[n]}" for n in both if wanted[n] != found[n]]


if __name__ == "__main__":
    sys.exit(main())
