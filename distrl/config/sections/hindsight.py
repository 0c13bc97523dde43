"""Config of hindsight relabeling: `hindsight: {relabeled: 0.8, horizon: 50}`."""

from __future__ import annotations

from pydantic import Field

from distrl.config.sections.base import Section


class HindsightConfig(Section):
    """Hindsight relabeling of a part of each batch with goals reached later; `{}`: defaults."""

    relabeled: float = Field(0.8, ge=0, le=1)
    """Share of each batch that gets new goals: k / (k + 1) for k new goals per original one. Usual: 0.8."""
    horizon: int = Field(50, ge=1)
    """Largest distance of the new goal in steps. Usual: the length of an episode."""
