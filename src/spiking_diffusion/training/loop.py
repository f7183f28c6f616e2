"""The training loop that all models share: epochs, checkpoints to resume from, a record of the losses."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from spiking_diffusion import artifacts, config
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn import use_fused

log = logging.getLogger(__name__)
History = list[dict[str, float]]


class Task(Protocol):
    """What the loop needs to know of a model in training."""

    @property
    def module(self) -> nn.Module:
        """The network."""
        ...

    @property
    def size(self) -> int:
        """Number of training examples."""
        ...

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Terms of the loss, their sum under ``loss``, for the examples ``index`` (B,).

        ``progress`` in [0, 1) is the share of the training done.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Numbers to watch, taken in evaluation mode after each epoch on images held out of training."""
        ...


def fit(
    task: Task, settings: config.Train, seed: int, identity: dict[str, Any], work: Path, device: torch.device
) -> History:
    """Train ``task`` and return one row of numbers per epoch.

    A checkpoint is left in ``work`` after each epoch. Where one with the same ``identity`` is there, training
    goes on from it; order and noise of an epoch depend on (seed, epoch) alone, so the result is the same as
    without the interruption. Raises UserError if the loss is not finite, before the update.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and stages that only load models come by here

    name = f"{identity['stage']} {identity['name']}"
    use_fused(task.module)
    optimiser = torch.optim.AdamW(
        task.module.parameters(),
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    history = _resume(task.module, optimiser, artifacts.canonical_json(identity), work, device)
    if history:
        log.info("%s: going on after epoch %d", name, len(history))
    per_epoch = -(-task.size // settings.batch_size)
    board = SummaryWriter(str(work / "tensorboard"), purge_step=len(history) + 1)
    for epoch in range(len(history) + 1, settings.epochs + 1):
        order = torch.randperm(task.size, generator=generator("cpu", seed, name, "order", epoch))
        noise = generator(device, seed, name, "noise", epoch)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        task.module.train()
        steps = tqdm(
            order.split(settings.batch_size), desc=f"{name} {epoch}/{settings.epochs}", leave=False, disable=None
        )
        for step, index in enumerate(steps):
            progress = ((epoch - 1) * per_epoch + step) / (settings.epochs * per_epoch)
            terms = task.loss(index, noise, progress)
            if not torch.isfinite(terms["loss"]):
                last = f"{history[-1]['loss']:.4g} after epoch {len(history)}" if history else "none yet"
                raise UserError(
                    f"{name}: the loss is {terms['loss'].item()} at epoch {epoch}, "
                    f"step {step} (lr {settings.lr}, last finite epoch loss {last}): "
                    "the update was not made; lower train.lr and run again"
                )
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, progress)
            optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            optimiser.step()
            for key, value in terms.items():
                sums[key] += value.detach() * len(index)
        task.module.eval()
        with torch.no_grad():
            row = {"epoch": epoch, **{k: float(v) / task.size for k, v in sums.items()}, **task.validate()}
        history.append(row)
        _save(task.module, optimiser, artifacts.canonical_json(identity), history, work)
        for key, number in row.items():
            board.add_scalar(key, number, epoch)
        log.info("%s: %s", name, ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    board.close()
    task.module.eval()
    return history


def learning_rate(settings: config.Train, progress: float) -> float:
    """The rate when ``progress`` in [0, 1) of the training is done; ``cosine`` falls from ``lr`` to 0."""
    return settings.lr * (0.5 + 0.5 * math.cos(math.pi * progress) if settings.schedule == "cosine" else 1.0)


def _checkpoints(work: Path) -> list[Path]:
    return sorted(work.glob("epoch-*.pt"), reverse=True)


def _save(module: nn.Module, optimiser: torch.optim.Optimizer, identity: str, history: History, work: Path) -> None:
    """Keep the two newest checkpoints, in case the newest is found damaged. Each begins with its own SHA-256."""
    content = io.BytesIO()
    state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "history": history}
    torch.save({"identity": identity, **state}, content)
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    artifacts.write_bytes(work / f"epoch-{len(history):06d}.pt", digest.encode() + b"\n" + content.getvalue())
    for old in _checkpoints(work)[2:]:
        old.unlink()


def _resume(
    module: nn.Module, optimiser: torch.optim.Optimizer, identity: str, work: Path, device: torch.device
) -> History:
    """Load the newest undamaged checkpoint of this very training; remove those of another."""
    for path in _checkpoints(work):
        try:
            digest, _, content = path.read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != digest:
                raise ValueError("its checksum does not match")
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        except Exception as error:  # unpickling refused content can raise anything
            log.warning("%s is damaged (%s): trying the one before", path, " ".join(str(error).split())[:200])
        else:
            if state["identity"] == identity:
                module.load_state_dict(state["module"])
                optimiser.load_state_dict(state["optimiser"])
                return list(state["history"])
            log.warning("%s was made with other settings, data or code: not used", path)
        path.unlink()
    return []


def save_history(path: Path, history: History) -> None:
    """Write the rows of a training as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    artifacts.write_text(path, text.getvalue())
