"""``bench``: rates of training steps and of sampling, measured in turn with the plain networks.

Ours and the plain way run in a process each. Ours is as in the pipeline, deterministic and with huge pages. The plain
one has PyTorch's defaults, except that its waiting threads also sleep.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiking_diffusion.benchmark import plain
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.devices import pick_device
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion, sample_tokens
from spiking_diffusion.errors import UserError
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.randomness import generator, make_deterministic, seed_initialisation
from spiking_diffusion.snn import SpikingLayer, set_precision
from spiking_diffusion.snn.layers import Precision
from spiking_diffusion.training import step as training
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss

GPU_SECONDS = 0.5
"""The least duration of the steps of a round on a GPU."""
GPU_QUEUE = 10
"""The most steps that a GPU may be behind. Starting steps takes no time, so without a limit the clock would say
nothing."""
Step = Callable[[], Any]
Pair = tuple[nn.Module, Step, Step]
PLAIN = {
    "neuron.decay_input": True,
    "neuron.v_threshold": 1.0,
    "neuron.surrogate": "atan",
    "vqsvae.straight_through": "spikes",
    "vqsvae.k_gradient": "straight-through",
    "vqsvae.coding": "asg",
    "sdid.architecture": "stack",
    "sdid.input": "embedding",
    "fsvae.architecture": "shared",
    "fsvae.latent_norm": "batch",
    "fsvae.scheduled_sampling.guess": "pick",
}
"""Settings that ``benchmark.plain`` writes out."""


def bench(
    params: Params,
    recipe: str,
    what: str,
    batch: int = 32,
    rounds: int = 5,
    threads: int = 2,
    device: str = "cpu",
    precision: Precision = "float32",
    excitation: float = 0.0,
) -> dict[str, Any]:
    """Rates of ours and of the plain way for one recipe at 28x28; the plain way always computes in float32.

    After a warm-up of both, each of ``rounds`` rounds times one step of each. The result has medians. With fresh
    weights neurons fire rarely. ``excitation`` is added to the bias of every batch normalisation to make them fire more
    often. ``firing_rate`` of the result is their rate.
    """
    if recipe not in params.recipes:
        raise UserError(f"there is no recipe {recipe!r}: there are {', '.join(params.recipes)}")
    if min(batch, rounds, threads) < 1:
        raise UserError("--batch, --rounds and --threads must be at least 1")
    chosen = params.recipes[recipe]
    if others := [key for key, value in PLAIN.items() if attrgetter(key)(chosen) != value]:
        wanted = ", ".join(f"{key}: {PLAIN[key]}" for key in others)
        raise UserError(f"recipe {recipe!r} has no plain counterpart: bench one with {wanted}")
    place = pick_device(device)
    run = params.resolve(next(iter(params.runs))).model_copy(update={"recipe": chosen})
    asked = run, what, batch, threads, place, precision, excitation
    with closing(_Timer(*asked, plainly=False)) as ours, closing(_Timer(*asked, plainly=True)) as baseline:
        rate, first = ours.about
        measured = [(ours.time(), baseline.time()) for _ in range(rounds)]
    mine, plainly = (statistics.median(pair[at][0] for pair in measured) for at in (0, 1))
    memory, plain_memory = (max(pair[at][1] for pair in measured) for at in (0, 1))
    return {
        "what": what,
        "recipe": recipe,
        "batch": batch,
        "T": getattr(run.recipe, "sdid" if what == "sample" else what).T,
        "images_per_second": round(batch / mine, 2),
        "baseline_images_per_second": round(batch / plainly, 2),
        "ratio": round(plainly / mine, 2),
        "first_step_seconds": round(first, 2),
        "firing_rate": round(rate, 4),
        "device": torch.cuda.get_device_name() if place.type == "cuda" else "cpu",
        "threads": threads,
        "dtype": precision,
        "peak_memory_mib": round(memory),
        "baseline_peak_memory_mib": round(plain_memory),
        "torch": torch.__version__,
    }


class _Timer:
    """One of the two ways in a process of its own, warmed up, that takes a step on request."""

    def __init__(self, *asked: Any, plainly: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *asked, plainly), daemon=True)
        self._process.start()
        other.close()
        self.about = self._receive()
        """Spikes per neuron and step, and seconds of the first step."""

    def time(self) -> tuple[float, float]:
        """Seconds of a step, and the peak of memory in MiB."""
        with suppress(BrokenPipeError):  # the missing answer is reported below
            self._pipe.send(True)
        return self._receive()

    def _receive(self) -> tuple[float, float]:
        try:
            answer: tuple[float, float] = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise UserError("a timed process has died, usually because memory was full: lower --batch") from error
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(
    pipe: Connection,
    run: RunSettings,
    what: str,
    batch: int,
    threads: int,
    device: torch.device,
    precision: Precision,
    excitation: float,
    plainly: bool,
) -> None:
    if plainly:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "0"  # PyTorch reads it when it makes the first tensor
        torch.set_num_threads(threads)
    else:
        make_deterministic(threads)
    make = {"vqsvae": _vqsvae, "sdid": _sdid, "fsvae": _fsvae, "sample": _sample}[what]
    model, ours, baseline = make(run, batch, device, excitation)
    if not plainly:
        set_precision(model, precision)
    step = baseline if plainly else ours
    start = time.perf_counter()
    _timed(step, device)
    first = time.perf_counter() - start
    rate = 0.0 if plainly else _firing_rate(model, step)
    pipe.send((rate, first))
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        _reset_peak_memory(device)
        pipe.send((_timed(step, device), _peak_memory_mib(device)))


def _timed(step: Step, device: torch.device) -> float:
    """Seconds of a step. On a GPU it is the mean over many steps, because the GPU works while the next steps are
    prepared."""
    return mean_seconds(step, GPU_SECONDS if device.type == "cuda" else 0.0, device)


def mean_seconds(step: Step, least: float, device: torch.device) -> float:
    """Mean seconds over as many steps as fit into ``least`` seconds, at least one."""
    _wait(device)
    start, steps, passed = time.perf_counter(), 0, 0.0
    while not steps or passed < least:
        step()
        steps += 1
        if steps % GPU_QUEUE == 0:
            _wait(device)
        passed = time.perf_counter() - start
    _wait(device)
    return (time.perf_counter() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _firing_rate(model: nn.Module, step: Step) -> float:
    """Spikes per neuron and time step over one step, without last layers, because their spikes are only summed."""
    rates: list[tuple[float, int]] = []

    def count(layer: nn.Module, args: Any, options: dict[str, Any], spikes: Tensor) -> None:
        where = options.get("where")
        if where is not None:  # other positions were not computed
            spikes = spikes.movedim(-3, -1)[..., where, :]
        if options.get("readout") is None:
            rates.append((float(spikes.detach().double().mean()), spikes.numel()))

    layers = [module for module in model.modules() if isinstance(module, SpikingLayer)]
    hooks = [layer.register_forward_hook(count, with_kwargs=True) for layer in layers]
    step()
    for hook in hooks:
        hook.remove()
    return sum(rate * n for rate, n in rates) / sum(n for _, n in rates)


@dataclass
class _Bare:
    """The parts of a task that ``Step`` needs."""

    module: nn.Module
    of: Callable[[], Tensor]
    size: int
    uniform: bool

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        return {"loss": self.of()}

    def validate(self) -> dict[str, float]:
        return {}


def _gpu_step(
    run: RunSettings, what: str, module: nn.Module, loss: Callable[[], Tensor], noise: torch.Generator, batch: int
) -> Step:
    """A step as in the pipeline on a GPU: by a CUDA graph if possible."""
    module.train()
    settings = getattr(run.recipe, what).train.model_copy(update={"batch_size": batch})
    device = noise.device
    step = training.Step(_Bare(module, loss, batch, what != "fsvae"), settings, noise, device)
    index = torch.zeros(batch, dtype=torch.int64, device=device)

    def one() -> None:
        if step.replay(index) is None:
            step.backward(index, 0.5)
            step.update()

    return one


def _training_step(module: nn.Module, loss: Callable[[], Tensor]) -> Step:
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def _prepare(model: nn.Module, device: torch.device, excitation: float) -> None:
    model.to(device)
    for layer in model.modules():
        if isinstance(layer, SpikingLayer):
            assert layer.norm is not None
            nn.init.constant_(layer.norm.bias, excitation)


def _vqsvae(run: RunSettings, batch: int, device: torch.device, excitation: float) -> Pair:
    settings, images = run.recipe.vqsvae, torch.rand(batch, 1, 28, 28, device=device)
    seed_initialisation(0, "bench")
    model = VQSVAE(settings, run.recipe.neuron, (1, 28, 28))
    _prepare(model, device, excitation)
    baseline = plain.PlainVQSVAE(model)
    noise = generator(device, 0, "bench")

    def ours() -> Tensor:
        out = model(images)
        model.codebook.update(out.z_e, out.tokens, noise)
        return vqsvae_loss(out, images, 0.1, settings)["loss"]

    def plainly() -> Tensor:
        out = baseline(images)
        baseline.codebook.update(out.z_e, out.tokens, noise)
        return plain.plain_vqsvae_loss(out, images, 0.1, settings)

    mine = _gpu_step(run, "vqsvae", model, ours, noise, batch) if device.type == "cuda" else _training_step(model, ours)
    return model, mine, _training_step(baseline, plainly)


def _denoisers(
    run: RunSettings, device: torch.device, excitation: float
) -> tuple[SDID, plain.PlainSDID, AbsorbingDiffusion]:
    """SDID, the plain SDID, and the diffusion process of 7x7 tokens that they reverse."""
    diffusion = AbsorbingDiffusion(run.recipe.vqsvae.codebook.size, 49)
    seed_initialisation(0, "bench")
    model = SDID(run.recipe.sdid, run.recipe.neuron, diffusion.size, diffusion.steps)
    _prepare(model, device, excitation)
    return model, plain.PlainSDID(model), diffusion


def _sdid(run: RunSettings, batch: int, device: torch.device, excitation: float) -> Pair:
    model, baseline, diffusion = _denoisers(run, device, excitation)
    noise = generator(device, 0, "bench")
    tokens = torch.randint(diffusion.size, (batch, 7, 7), generator=noise, device=device)

    def loss_of(denoiser: nn.Module) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            t = diffusion.draw_t(batch, noise, device)
            noisy = diffusion.q_sample(tokens, t, noise)
            return diffusion.bound(denoiser(noisy, t), tokens, noisy, t).mean()

        return loss

    ours = loss_of(model)
    mine = _gpu_step(run, "sdid", model, ours, noise, batch) if device.type == "cuda" else _training_step(model, ours)
    return model, mine, _training_step(baseline, loss_of(baseline))


def _fsvae(run: RunSettings, batch: int, device: torch.device, excitation: float) -> Pair:
    settings, images = run.recipe.fsvae, torch.rand(batch, 1, 28, 28, device=device)
    seed_initialisation(0, "bench")
    model = FSVAE(settings, run.recipe.neuron, (1, 28, 28))
    _prepare(model, device, excitation)
    baseline = plain.PlainFSVAE(model)
    noise = generator(device, 0, "bench")
    return (
        model,
        _training_step(model, lambda: fsvae_loss(model(images, 0.5, noise), images, settings)["loss"]),
        _training_step(baseline, lambda: plain.plain_fsvae_loss(baseline(images, 0.5, noise), images, settings)),
    )


def _sample(run: RunSettings, batch: int, device: torch.device, excitation: float) -> Pair:
    model, _, diffusion = _denoisers(run, device, excitation)
    noise = generator(device, 0, "bench")
    shape = (batch, 7, 7)
    with torch.no_grad():  # without running statistics of real passes, hardly any neuron would fire
        for _ in range(20):
            t = diffusion.draw_t(batch, noise, device)
            model(diffusion.q_sample(torch.randint(diffusion.size, shape, generator=noise, device=device), t, noise), t)
    model.eval()
    baseline = plain.PlainSDID(model).eval()
    return (
        model,
        lambda: sample_tokens(model, diffusion, shape, 1.0, noise, device),
        lambda: plain.plain_sample(baseline, diffusion, shape, noise),
    )


def _reset_peak_memory(device: torch.device) -> None:
    """Reset the peak of memory. Only Linux can do this. Elsewhere the peak is that of the whole run."""
    path = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif path.exists():
        path.write_text("5")


def _peak_memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
