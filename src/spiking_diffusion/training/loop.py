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
from torch.backends.cpu import get_cpu_capability
from tqdm import tqdm

from spiking_diffusion import artifacts, config
from spiking_diffusion.errors import UserError
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn import set_precision

log = logging.getLogger(__name__)
History = list[dict[str, float]]
CHECK_EVERY = 50


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
    without the interruption. Raises UserError if the batch is larger than the data, and if loss or gradient are not
    finite: before the update on the CPU, within CHECK_EVERY steps and before the checkpoint on a GPU, where looking
    at each step would keep it waiting.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and stages that only load models come by here

    name = f"{identity['stage']} {identity['name']}"
    if settings.batch_size > task.size:
        raise UserError(
            f"{name}: train.batch_size is {settings.batch_size}, but there are only {task.size} training examples: "
            "take a smaller batch"
        )
    set_precision(task.module, settings.precision)
    if settings.precision == "bfloat16" and device.type == "cpu" and "AVX512" not in get_cpu_capability():
        log.warning("%s: this processor multiplies bfloat16 slowly: precision: float32 is faster here", name)
    parameters = list(task.module.parameters())
    optimiser = torch.optim.AdamW(
        parameters,
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
        parts = order.split(settings.batch_size)
        for step, index in enumerate(tqdm(parts, desc=f"{name} {epoch}/{settings.epochs}", leave=False, disable=None)):
            progress = ((epoch - 1) * per_epoch + step) / (settings.epochs * per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, progress)
            optimiser.zero_grad(set_to_none=True)
            terms = task.loss(index, noise, progress)
            terms["loss"].backward()
            gradient = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            for key, value in {**terms, "gradient_norm": gradient}.items():
                sums[key] += value.detach() * len(index)
            if device.type == "cpu" or (step + 1) % CHECK_EVERY == 0 or step + 1 == len(parts):
                _check_finite(f"{name}: epoch {epoch}, step {step}", terms["loss"], gradient, sums, history, settings)
            optimiser.step()
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


def _check_finite(
    where: str, loss: Tensor, gradient: Tensor, sums: dict[str, Tensor], history: History, settings: config.Train
) -> None:
    if torch.isfinite(sums["loss"] + sums["gradient_norm"]):
        return
    last = f"{history[-1]['loss']:.4g} after epoch {len(history)}" if history else "none yet"
    raise UserError(
        f"{where}: the loss is {loss.item()} and its gradient {gradient.item()} (lr {settings.lr}, last finite epoch "
        f"loss {last}): nothing of this epoch is kept; lower train.lr and run again"
    )


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
