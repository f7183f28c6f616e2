"""``bench``: rates of training steps and of sampling, measured alternately with the plain networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spiking_diffusion.benchmark import plain
from spiking_diffusion.config import Params, RunSettings
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion, sample_ancestral
from spiking_diffusion.errors import UserError
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.randomness import generator, make_deterministic, seed_initialisation
from spiking_diffusion.snn import use_fused
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss

Step = Callable[[], Any]


def bench(params: Params, recipe: str, what: str, batch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Rates of ours and of the plain way for one recipe at 28x28, on the CPU, in float32.

    After a warm-up of both, each of ``rounds`` rounds times one step of either; the medians count.
    """
    if recipe not in params.recipes:
        raise UserError(f"there is no recipe {recipe!r}: there are {', '.join(params.recipes)}")
    if min(batch, rounds, threads) < 1:
        raise UserError("--batch, --rounds and --threads must be at least 1")
    chosen = params.recipes[recipe]
    if chosen.vqsvae.straight_through != "spikes" or chosen.sdid.input != "embedding":
        raise UserError(
            f"recipe {recipe!r} has no plain counterpart: bench one with straight_through: spikes and input: embedding"
        )
    make_deterministic(threads)
    name = next(iter(params.runs))
    run = params.resolve(name).model_copy(update={"recipe": chosen})
    ours, baseline = {"vqsvae": _vqsvae, "sdid": _sdid, "fsvae": _fsvae, "sample": _sample}[what](run, batch)
    start = time.perf_counter()
    ours()
    first = time.perf_counter() - start
    for step in (ours, baseline):
        step()
    seconds: dict[Step, list[float]] = {ours: [], baseline: []}
    memory: dict[Step, float] = {}
    for _ in range(rounds):
        for step, taken in seconds.items():
            _reset_peak_memory()
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
            memory[step] = max(memory.get(step, 0.0), _peak_memory_mib())
    mine, plainly = (statistics.median(taken) for taken in seconds.values())
    return {
        "what": what,
        "recipe": recipe,
        "batch": batch,
        "T": getattr(run.recipe, "sdid" if what == "sample" else what).T,
        "images_per_second": round(batch / mine, 2),
        "baseline_images_per_second": round(batch / plainly, 2),
        "ratio": round(plainly / mine, 2),
        "first_step_seconds": round(first, 2),
        "device": "cpu",
        "threads": threads,
        "dtype": "float32",
        "peak_memory_mib": round(memory[ours]),
        "baseline_peak_memory_mib": round(memory[baseline]),
        "torch": torch.__version__,
    }


def _training_step(module: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def _vqsvae(run: RunSettings, batch: int) -> tuple[Step, Step]:
    settings, images = run.recipe.vqsvae, torch.rand(batch, 1, 28, 28)
    seed_initialisation(0, "bench")
    model = VQSVAE(settings, run.recipe.neuron, (1, 28, 28))
    baseline = plain.PlainVQSVAE(model)
    use_fused(model)
    noise = generator("cpu", 0, "bench")

    def ours() -> torch.Tensor:
        out = model(images)
        model.codebook.update(out.z_e, out.tokens, noise)
        return vqsvae_loss(out, images, 0.1, settings)["loss"]

    def plainly() -> torch.Tensor:
        out = baseline(images)
        baseline.codebook.update(out.z_e, out.tokens, noise)
        return plain.plain_vqsvae_loss(out, images, 0.1, settings)

    return _training_step(model, ours), _training_step(baseline, plainly)


def _denoisers(run: RunSettings) -> tuple[SDID, plain.PlainSDID, AbsorbingDiffusion]:
    """SDID, the same written plainly, and the process of 7x7 tokens that they reverse."""
    diffusion = AbsorbingDiffusion(run.recipe.vqsvae.codebook.size, 49)
    seed_initialisation(0, "bench")
    model = SDID(run.recipe.sdid, run.recipe.neuron, diffusion.size, diffusion.steps)
    baseline = plain.PlainSDID(model)
    use_fused(model)
    return model, baseline, diffusion


def _sdid(run: RunSettings, batch: int) -> tuple[Step, Step]:
    model, baseline, diffusion = _denoisers(run)
    noise = generator("cpu", 0, "bench")
    tokens = torch.randint(diffusion.size, (batch, 7, 7), generator=noise)

    def loss_of(denoiser: torch.nn.Module) -> Callable[[], torch.Tensor]:
        def loss() -> torch.Tensor:
            t = diffusion.draw_t(batch, noise, torch.device("cpu"))
            noisy = diffusion.q_sample(tokens, t, noise)
            return diffusion.bound(denoiser(noisy, t), tokens, noisy, t).mean()

        return loss

    return _training_step(model, loss_of(model)), _training_step(baseline, loss_of(baseline))


def _fsvae(run: RunSettings, batch: int) -> tuple[Step, Step]:
    settings, images = run.recipe.fsvae, torch.rand(batch, 1, 28, 28)
    seed_initialisation(0, "bench")
    model = FSVAE(settings, run.recipe.neuron, (1, 28, 28))
    baseline = plain.PlainFSVAE(model)
    use_fused(model)
    noise = generator("cpu", 0, "bench")
    return (
        _training_step(model, lambda: fsvae_loss(model(images, 0.5, noise), images, settings)["loss"]),
        _training_step(baseline, lambda: plain.plain_fsvae_loss(baseline(images, 0.5, noise), images, settings)),
    )


def _sample(run: RunSettings, batch: int) -> tuple[Step, Step]:
    model, baseline, diffusion = _denoisers(run)
    model.eval()
    baseline.eval()
    noise = generator("cpu", 0, "bench")
    shape = (batch, 7, 7)
    return (
        lambda: sample_ancestral(model, diffusion, shape, 1.0, noise, torch.device("cpu")),
        lambda: plain.plain_sample(baseline, diffusion, shape, noise),
    )


def _reset_peak_memory() -> None:
    """Linux forgets a process's peak on request; elsewhere the peak is that of the whole run."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def _peak_memory_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
