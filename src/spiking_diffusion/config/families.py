"""The families of models: what everything but their own code needs to know of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Model = Literal["spiking-diffusion", "fsvae"]


@dataclass(frozen=True, eq=False)
class Family:
    """A kind of generative model.

    Its runs are in ``section`` of ``params.yaml``. Each run trains ``networks`` (name -> title), in this order, and
    ignores the sections ``unused`` of its recipe. ``module`` has its code (see ``families``).
    """

    name: Model
    title: str
    section: Literal["runs", "baselines"]
    networks: dict[str, str]
    unused: frozenset[str]
    module: str

    @property
    def last(self) -> str:
        """The network that was trained last, which images are drawn with."""
        return list(self.networks)[-1]


FAMILIES: dict[Model, Family] = {
    family.name: family
    for family in (
        Family(
            "spiking-diffusion",
            "Spiking-Diffusion",
            "runs",
            {"vqsvae": "VQ-SVAE", "sdid": "SDID"},
            frozenset({"fsvae"}),
            "families.spiking_diffusion",
        ),
        Family(
            "fsvae", "FSVAE", "baselines", {"fsvae": "FSVAE"}, frozenset({"vqsvae", "sdid", "tune"}), "families.fsvae"
        ),
    )
}
