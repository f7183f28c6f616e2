"""The families of models: what everything but their own code needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Model = Literal["spiking-diffusion", "fsvae"]


@dataclass(frozen=True, eq=False)
class Family:
    """A kind of generative model.

    Its runs are in ``section`` of ``params.yaml``. Each run trains ``networks`` (name -> title), in this order, and
    ignores the sections ``ignores`` of its recipe. ``module`` has its code (see ``families``).
    """

    name: Model
    title: str
    section: str
    networks: dict[str, str]
    module: str
    ignores: frozenset[str] = frozenset()

    @property
    def last(self) -> str:
        """The network that was trained last, which images are drawn with."""
        return list(self.networks)[-1]

    @property
    def unused(self) -> frozenset[str]:
        """Sections of a recipe that its runs do not read: those of other families' networks, and what it ignores."""
        others = {network for family in FAMILIES.values() for network in family.networks}
        return self.ignores | (others - self.networks.keys())


FAMILIES: dict[Model, Family] = {
    family.name: family
    for family in (
        Family(
            name="spiking-diffusion",
            title="Spiking-Diffusion",
            section="runs",
            networks={"vqsvae": "VQ-SVAE", "sdid": "SDID"},
            module="families.spiking_diffusion",
        ),
        Family(
            name="fsvae",
            title="FSVAE",
            section="baselines",
            networks={"fsvae": "FSVAE"},
            module="families.fsvae",
            ignores=frozenset({"tune", "condition"}),
        ),
    )
}
