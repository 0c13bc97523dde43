"""Checks of a node's packages for a submitted run; nothing is installed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from distrl.base.errors import ResourceError
from distrl.runtime.run.folder import versions


def missing(requirements: Iterable[str], find: Callable[[str], str] = version) -> list[str]:
    """Describe the requirements that this interpreter does not meet; those of extras are ignored.

    >>> missing(["torch>=2.4", "numpy>=1.26"], {"torch": "2.1", "numpy": "2.0"}.__getitem__)
    ['torch 2.1, but torch>=2.4 is needed']
    """
    from packaging.requirements import Requirement

    problems = []
    for text in requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = find(needed.name)
        except PackageNotFoundError:
            problems.append(f"no {needed.name}, but {needed.name}{needed.specifier} is needed")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            problems.append(f"{needed.name} {found}, but {needed.name}{needed.specifier} is needed")
    return problems


def require_node(what: Iterable[str] | None = None) -> None:
    """Check this node for the requirements of the package."""
    problems = missing(requires("distrl") or [] if what is None else what)
    if problems:
        raise ResourceError(
            f"the node {platform.node()} has {'; '.join(problems)}.",
            "Install it on every node, or use an image that has it (cluster/Containerfile); a job installs nothing.",
        )


def differences(submitter: Mapping[str, str], node: Mapping[str, str] | None = None) -> list[str]:
    """Describe the versions that differ between the submitting machine and this node.

    >>> differences({"torch": "2.4", "ray": "2.60"}, {"torch": "2.5", "ray": "2.60"})
    ['torch 2.5 (submitted with 2.4)']
    """
    here = versions() if node is None else node
    other = {name: theirs for name, theirs in submitter.items() if here.get(name) != theirs}
    return [f"{name} {here.get(name, 'none')} (submitted with {theirs})" for name, theirs in other.items()]
