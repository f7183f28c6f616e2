"""Checkpoints of a training, to resume from."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiking_diffusion import artifacts
from spiking_diffusion.errors import UserError

log = logging.getLogger(__name__)
History = list[dict[str, float]]


@dataclass
class Done:
    """The progress of a training: the rows of its complete epochs, and the steps, sums and noise of the current epoch.

    ``seconds`` is the processor time spent so far.
    """

    history: History
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    seconds: float = 0.0


class Checkpoints:
    """The two newest checkpoints of a training in ``work``. The older one is used if the newer one is damaged.

    Each file begins with its own SHA-256 and contains ``identity``: the settings, data and code it belongs to.
    """

    def __init__(
        self,
        work: Path,
        identity: str,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: nn.Module | None = None,
    ) -> None:
        self.work, self.identity = work, identity
        self.parts: dict[str, Any] = {"module": module, "optimiser": optimiser}
        if average is not None:
            self.parts["average"] = average

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted(artifacts.listed(self.work, "epoch-*.pt"), key=lambda path: path.stem, reverse=True)

    def save(self, done: Done) -> None:
        """Write a checkpoint, and remove all but the two newest."""
        content = io.BytesIO()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"identity": self.identity, **state, "done": vars(done)}, content)
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        inside = f"-{done.step:06d}" if done.step else ""
        path = self.work / f"epoch-{len(done.history):06d}{inside}.pt"
        artifacts.write_atomic(path, lambda file: file.writelines([digest.encode(), b"\n", content.getbuffer()]))
        for old in self._paths()[2:]:
            old.unlink()

    def resume(self, name: str, device: torch.device) -> Done:
        """Load the newest undamaged checkpoint of this training, and remove those of another.

        Raises UserError if all checkpoints are damaged, because the user should decide whether to start again.
        """
        found, useless, damaged = None, [], []
        for left in artifacts.listed(self.work, ".epoch-*"):  # left by a killed save
            left.unlink()
        for path in self._paths():
            try:
                state = self._read(path, device)
                if state["identity"] == self.identity:
                    for name, part in self.parts.items():
                        part.load_state_dict(state[name])
                    found = Done(**state["done"])
                    break
            except Exception as error:  # unpickling refused content can raise anything
                log.warning("%s is damaged (%s): trying the one before", path, " ".join(str(error).split())[:200])
                damaged.append(path)
            else:
                log.warning("%s was made with other settings, data or code: not used", path)
                useless.append(path)
        if damaged and found is None:
            raise UserError(
                f"{name}: all checkpoints are damaged ({', '.join(map(str, damaged))}): put a copy "
                f"back, or delete {self.work} to train from the start"
            )
        for path in [*useless, *damaged]:
            path.unlink()
        return found or Done([])

    @staticmethod
    def _read(path: Path, device: torch.device) -> dict[str, Any]:
        digest, _, content = path.read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise ValueError("its checksum does not match")
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
