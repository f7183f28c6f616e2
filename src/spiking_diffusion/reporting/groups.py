"""The rows of a suite for figures: with a title, and with a label that tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.graph.suites import rows_of


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed. Figures with room for one run show the first.

    ``settings`` are the settings in which the suite's groups of this model and dataset differ.
    """

    runs: tuple[RunSettings, ...]
    settings: dict[str, Any]

    @property
    def first(self) -> RunSettings:
        return self.runs[0]

    @property
    def networks(self) -> Mapping[str, str]:
        """The networks that each run of the group trained, and their titles."""
        return self.first.family.networks

    @property
    def label(self) -> str:
        """``k = 0.5``, or the run's name if settings differ in several keys, or empty if they do not differ."""
        if len(self.settings) > 1:
            return self.first.name
        return "".join(f"{key.rpartition('.')[2]} = {value}" for key, value in self.settings.items())

    @property
    def title(self) -> str:
        """The model's name, and the label if there is one."""
        return ", ".join(filter(None, [self.first.family.title, self.label]))


def groups(params: Params, suite: str) -> list[Group]:
    """The rows of a suite, in the suite's order."""
    return [Group(tuple(map(params.resolve, row.runs)), row.settings) for row in rows_of(params, suite)]


def legend(group: Group, shown: list[Group]) -> str:
    """What tells a group from the others in a figure: its label, and its dataset if there are several."""
    several = len({other.first.dataset_name for other in shown}) > 1
    return ", ".join(filter(None, [group.first.dataset.title if several or not group.label else "", group.label]))


def with_codes(of_suite: list[Group]) -> list[Group]:
    """The groups with models that have a codebook."""
    return [group for group in of_suite if "vqsvae" in group.networks]


def ablated(of_suite: list[Group]) -> str | None:
    """The one key of the recipe in which groups with a codebook differ; None if they differ in none or several."""
    keys = {key for group in with_codes(of_suite) for key in group.settings}
    return keys.pop() if len(keys) == 1 else None
