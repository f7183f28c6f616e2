"""The training loop of all models: epochs, checkpoints to resume from, a record of the losses."""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cpu import get_cpu_capability
from torch.optim.swa_utils import AveragedModel

from spiking_diffusion import artifacts, config, paths
from spiking_diffusion.errors import UserError
from spiking_diffusion.progress import watch
from spiking_diffusion.randomness import generator
from spiking_diffusion.snn import set_precision
from spiking_diffusion.training.checkpoints import Checkpoints, Done, History
from spiking_diffusion.training.step import Step, Task

log = logging.getLogger(__name__)
CHECK_EVERY = 50
SAVE_EVERY = 500
"""Steps between two checkpoints inside an epoch, a multiple of CHECK_EVERY."""
SAVE_SECONDS = 30
"""Seconds between two such checkpoints on a GPU."""


def fit(
    task: Task, settings: config.Train, seed: int, identity: dict[str, Any], work: Path, device: torch.device
) -> History:
    """Train ``task`` and return one row of numbers per epoch.

    Writes a checkpoint to ``work`` after each epoch and each SAVE_EVERY steps. Training continues from a checkpoint
    with the same ``identity``. Order and noise of an epoch depend only on (seed, stage, epoch). The result is therefore
    the same as without the interruption, and variants of a run with the same seed see the same order and noise. Raises
    UserError if the batch is larger than the data, if all checkpoints are damaged, and if loss or gradient are not
    finite. On the CPU this is checked before each update. On a GPU it is checked every CHECK_EVERY steps and before
    each checkpoint, because a check at each step would make the GPU wait.

    ``training.json`` in ``work`` then has the processor seconds of the training, over all threads and interruptions.
    Steps lost in an interruption do not count.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow, and stages that only load models don't need it

    stage = identity["stage"]
    name = f"{stage} {identity['name']}"
    if settings.batch_size > task.size:
        raise UserError(
            f"{name}: train.batch_size is {settings.batch_size}, but there are only {task.size} training examples: "
            "take a smaller batch"
        )
    precision = settings.precision
    if precision == "bfloat16" and device.type == "cpu" and "AVX512" not in get_cpu_capability():
        log.warning("%s: this processor multiplies bfloat16 slowly: float32 is used", name)
        precision = "float32"
    set_precision(task.module, precision)
    noise = generator(device, seed, stage, "noise")
    stepper = Step(task, settings, noise, device)
    average = stepper.average
    checkpoints = Checkpoints(work, artifacts.canonical_json(identity), task.module, stepper.optimiser, average)
    done = checkpoints.resume(name, device)
    stepper.resumed()
    history, began = done.history, time.process_time() - done.seconds
    if history or done.step:
        log.info("%s: continuing after epoch %d, step %d of the next", name, len(history), done.step)
    good = f"{history[-1]['loss']:.4g} after epoch {len(history)}" if history else "none yet"
    per_epoch = -(-task.size // settings.batch_size)
    board = SummaryWriter(str(work / "tensorboard"), purge_step=len(history) + 1)
    saved = time.monotonic()
    for epoch in range(len(history) + 1, settings.epochs + 1):
        order = torch.randperm(task.size, generator=generator("cpu", seed, stage, "order", epoch)).to(device)
        noise.set_state(generator(device, seed, stage, "noise", epoch).get_state())
        stepper.begin_epoch(done.sums)
        if done.noise is not None and len(done.noise) == len(noise.get_state()):
            noise.set_state(done.noise.cpu())
        elif done.noise is not None:
            log.warning("%s: the checkpoint is of another device, noise of epoch %d starts again", name, epoch)
        first, done = done.step, Done(history)
        task.module.train()
        parts = order.split(settings.batch_size)
        place = f"{name}, epoch {epoch} of {settings.epochs}, step"
        steps = watch(
            parts[first:], place, len(parts), first, before=(epoch - 1) * per_epoch, whole=settings.epochs * per_epoch
        )
        for step, index in enumerate(steps, first):
            progress = ((epoch - 1) * per_epoch + step) / (settings.epochs * per_epoch)
            stepper.set_rate(learning_rate(settings, progress))
            seen = stepper.replay(index)
            loss, gradient = seen or stepper.backward(index, progress)
            if device.type == "cpu" or (step + 1) % CHECK_EVERY == 0 or step + 1 == len(parts):
                where = f"epoch {epoch}, step {step}"
                _check_finite(f"{name}: {where}", loss, gradient, stepper.sums, learning_rate(settings, progress), good)
                good = f"{loss.item():.4g} at {where}"
            if seen is None:
                stepper.update()
            if (step + 1) % SAVE_EVERY == 0 and step + 1 < len(parts) and _is_due(device, saved):
                spent, saved = time.process_time() - began, time.monotonic()
                checkpoints.save(Done(history, step + 1, dict(stepper.sums), noise.get_state(), spent))
        task.module.eval()
        with torch.no_grad(), _averages(task.module, average):
            row = {"epoch": epoch, **{k: float(v) / task.size for k, v in stepper.sums.items()}, **task.validate()}
        history.append(row)
        done.seconds = time.process_time() - began
        checkpoints.save(done)
        for key, number in row.items():
            board.add_scalar(key, number, epoch)
        said = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
        log.info("%s %s, epoch %d of %d: %s", time.strftime("%H:%M"), name, epoch, settings.epochs, said)
    board.close()
    artifacts.clear_leftovers(paths.cost_path(work))
    artifacts.write_json(paths.cost_path(work), {"device": device.type, "processor_seconds": done.seconds})
    if average is not None:
        task.module.load_state_dict(average.module.state_dict())
    task.module.eval()
    return history


def _is_due(device: torch.device, saved: float) -> bool:
    """Whether to save now. A GPU takes hundreds of steps a second, so there checkpoints within an epoch follow the
    clock."""
    return device.type == "cpu" or time.monotonic() - saved > SAVE_SECONDS


@contextmanager
def _averages(module: nn.Module, average: AveragedModel | None) -> Iterator[None]:
    """Use the averages instead of the weights of ``module``, if there are any."""
    if average is None:
        yield
        return
    own = copy.deepcopy(module.state_dict())
    module.load_state_dict(average.module.state_dict())
    try:
        yield
    finally:
        module.load_state_dict(own)


def _check_finite(where: str, loss: Tensor, gradient: Tensor, sums: dict[str, Tensor], lr: float, good: str) -> None:
    """Raise UserError if loss or gradient are not finite. The sums cover every step since the last check."""
    if torch.isfinite(sums["loss"] + sums["gradient_norm"]):
        return
    raise UserError(
        f"{where}: the loss is {loss.item()} and its gradient {gradient.item()} (lr {lr:.4g}, last good loss {good}): "
        "nothing of this step is kept; lower train.lr and run again"
    )


def learning_rate(settings: config.Train, progress: float) -> float:
    """The learning rate at ``progress`` in [0, 1) of the training. ``cosine`` falls from ``lr`` to 0."""
    return settings.lr * (0.5 + 0.5 * math.cos(math.pi * progress) if settings.schedule == "cosine" else 1.0)


def save_history(path: Path, history: History) -> None:
    """Write the rows of a training as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    artifacts.write_text(path, text.getvalue())
