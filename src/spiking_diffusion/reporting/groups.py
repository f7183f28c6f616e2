"""The rows of a suite as figures show them: with a title, and with what tells one from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.graph.suites import rows_of


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed; the first is shown where there is room for one.

    ``settings`` are those in which the suite's groups of this model and dataset differ.
    """

    runs: tuple[RunSettings, ...]
    settings: dict[str, Any]

    @property
    def first(self) -> RunSettings:
        return self.runs[0]

    @property
    def networks(self) -> Mapping[str, str]:
        """The networks that each of its runs trained, and their titles."""
        return self.first.family.networks

    @property
    def label(self) -> str:
        """``k = 0.5``; the run's name where settings differ in several keys, empty where in none."""
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
    """What tells a group from the others shown: its label, and its dataset where there are several."""
    several = len({other.first.dataset_name for other in shown}) > 1
    return ", ".join(filter(None, [group.first.dataset.title if several or not group.label else "", group.label]))


def with_codes(of_suite: list[Group]) -> list[Group]:
    """The groups whose models have a codebook."""
    return [group for group in of_suite if "vqsvae" in group.networks]


def ablated(of_suite: list[Group]) -> str | None:
    """The one key of the recipe in which groups with a codebook differ; None if they differ in none or several."""
    keys = {key for group in with_codes(of_suite) for key in group.settings}
    return keys.pop() if len(keys) == 1 else None
