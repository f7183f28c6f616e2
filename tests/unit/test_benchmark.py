"""Speed changes nothing: the package's networks, CPU kernels included, against the same networks written plainly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spiking_diffusion import config
from spiking_diffusion.benchmark import measure, plain
from spiking_diffusion.benchmark.rounding import compare, gradient
from spiking_diffusion.cli import main
from spiking_diffusion.config import load_params
from spiking_diffusion.data.images import ImageSet
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion
from spiking_diffusion.errors import UserError
from spiking_diffusion.fsvae import FSVAE, fsvae_loss
from spiking_diffusion.snn import layers, use_kernels
from spiking_diffusion.stages.fsvae import FSVAETask
from spiking_diffusion.stages.sdid import SDIDTask
from spiking_diffusion.stages.vqsvae import VQSVAETask
from spiking_diffusion.vqsvae import VQSVAE, vqsvae_loss
from spiking_diffusion.vqsvae.loading import TokenSet

TOLERANCE = 1e-5
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")


def gradients(loss, module):
    """Gradients of all parameters, in the order of the modules (names differ between the two)."""
    module.zero_grad()
    loss.backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert float((a - b).detach().abs().max()) <= TOLERANCE * max(1.0, float(b.detach().abs().max()))


def by_shape(tensors):
    return sorted(tensors, key=lambda t: (tuple(t.shape), float(t.detach().sum())))


@pytest.mark.parametrize("kernels", [False, True])
def test_vqsvae_is_the_plain_network(vqsvae_settings, codebook_settings, neuron, lively, kernels):
    settings = vqsvae_settings(T=4, codebook=codebook_settings(update="ema"))
    ours = lively(VQSVAE(settings, neuron, (1, 8, 8))).train()
    theirs = plain.PlainVQSVAE(ours).train()
    use_kernels(ours, kernels)
    images = torch.rand(6, 1, 8, 8)
    a, b = ours(images), theirs(images)
    assert torch.equal(a.tokens, b.tokens) and torch.equal(a.encoder_spikes, b.encoder_spikes)
    assert torch.equal(a.asg_spikes, b.asg_spikes) and a.asg_spikes.mean() > 0
    assert_close([a.images, a.z_e], [b.images, b.z_e])
    loss, plain_loss = vqsvae_loss(a, images, 0.1, settings)["loss"], plain.plain_vqsvae_loss(b, images, 0.1, settings)
    assert_close([loss], [plain_loss])
    assert_close(by_shape(gradients(loss, ours)), by_shape(gradients(plain_loss, theirs)))


@pytest.mark.parametrize("kernels", [False, True])
def test_sdid_is_the_plain_network(neuron, sdid_settings, lively, kernels):
    settings = sdid_settings(T=4, channels=[6, 8, 7], input="embedding")
    ours = lively(SDID(settings, neuron, 5, 16)).train()
    theirs = plain.PlainSDID(ours).train()
    use_kernels(ours, kernels)
    tokens, t = torch.randint(6, (4, 4, 4)), torch.tensor([1, 16, 7, 7])
    a, b = ours(tokens, t), theirs(tokens, t)
    assert_close([a], [b])
    weights = torch.randn_like(a)
    found, expected = gradients((a * weights).sum(), ours), gradients((b * weights).sum(), theirs)
    assert_close(by_shape(found), by_shape(expected))


@pytest.mark.parametrize("kernels", [False, True])
def test_fsvae_is_the_plain_network(neuron, train_settings, lively, rng, kernels):
    schedule = config.ScheduledSampling(start=0.5, end=0.5, from_step=1, guess="pick")
    base = {"T": 4, "channels": [4, 6], "code_dim": 3, "latent_dim": 4, "k": 5, "tau_syn": 2.0, "output_decay": 0.8}
    base["latent_norm"] = "batch"
    settings = config.FSVAE(architecture="shared", **base, scheduled_sampling=schedule, train=train_settings)
    ours = lively(FSVAE(settings, neuron, (1, 8, 8))).train()
    theirs = plain.PlainFSVAE(ours).train()
    use_kernels(ours, kernels)
    images = torch.rand(6, 1, 8, 8)
    a, b = ours(images, 0.5, rng()), theirs(images, 0.5, rng())
    assert torch.equal(a.z, b.z) and torch.equal(a.q, b.q) and torch.equal(a.p, b.p) and a.z.mean() > 0
    loss, plain_loss = fsvae_loss(a, images, settings)["loss"], plain.plain_fsvae_loss(b, images, settings)
    assert_close([loss], [plain_loss])
    assert_close(by_shape(gradients(loss, ours)), by_shape(gradients(plain_loss, theirs)))


def test_hoisting_changes_running_variance_by_the_unbiased_factor_alone(neuron, sdid_settings, lively):
    """T copies of a batch have its mean; their unbiased variance is smaller by T (n - 1) / (T n - 1)."""
    settings = sdid_settings(T=4, channels=[6], input="embedding")
    ours = lively(SDID(settings, neuron, 5, 16)).train()
    theirs = plain.PlainSDID(ours).train()
    before = ours.first.norm.running_var.clone()
    tokens, t = torch.randint(6, (4, 4, 4)), torch.tensor([1, 16, 7, 7])
    ours(tokens, t)
    theirs(tokens, t)
    n, steps = 4 * 4 * 4, 4
    norm = theirs.first[0][1]
    torch.testing.assert_close(norm.running_mean, ours.first.norm.running_mean)
    drawn = (ours.first.norm.running_var - 0.9 * before) / 0.1
    expected = 0.9 * before + 0.1 * drawn * steps * (n - 1) / (steps * n - 1)
    torch.testing.assert_close(norm.running_var, expected)


def test_plain_sampler_reveals_everything(neuron, sdid_settings, rng):
    settings = sdid_settings(T=2, channels=[6], input="embedding")
    model = plain.PlainSDID(SDID(settings, neuron, 5, 16)).eval()
    tokens = plain.plain_sample(model, AbsorbingDiffusion(5, 16), (3, 4, 4), rng())
    assert tokens.shape == (3, 4, 4) and tokens.max() < 5


@pytest.mark.parametrize("what", ["vqsvae", "sdid", "fsvae", "sample"])
def test_bench_prints_both_rates(what, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    command = ["bench", what, "--recipe", "quick", "--batch", "4", "--rounds", "1", "--threads", "1", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images_per_second"] > 0 and found["baseline_images_per_second"] > 0 and found["peak_memory_mib"] > 0
    assert found["ratio"] == pytest.approx(found["images_per_second"] / found["baseline_images_per_second"], rel=0.05)
    assert 0 <= found["firing_rate"] <= 1, "neurons that nobody looks at were counted"
    assert found["T"] == load_params("params.yaml").recipes["quick"].sdid.T and found["dtype"] == "float32"


def test_bench_says_that_a_process_died(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    params = load_params("params.yaml")
    run = params.resolve("digits")
    timer = measure._Timer(run, "sdid", 2, 1, torch.device("cpu"), "float32", 0.0, plainly=False)
    timer._process.kill()
    timer._process.join()
    with pytest.raises(UserError, match="has died"):
        timer.time()


THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize("model", ["vqsvae", "sdid", "fsvae"])
def test_bfloat16_rounds_gradients_and_nothing_else(model, request, monkeypatch):
    """What it costs is measured in docs/speed.md."""
    monkeypatch.chdir(request.config.rootpath)
    run = load_params("params.yaml").resolve("digits")
    device = torch.device("cpu")
    images = torch.randint(256, (8, 1, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    if model == "sdid":
        tokens = torch.randint(run.recipe.vqsvae.codebook.size, (8, 7, 7))
        task = SDIDTask(
            run, TokenSet({"train": tokens, "validation": tokens}, run.recipe.vqsvae.codebook.size, ""), device
        )
    else:
        task = (VQSVAETask if model == "vqsvae" else FSVAETask)(
            run, ImageSet({"train": images, "validation": images}, {}), device
        )
    for norm in task.module.modules():
        if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.bias, 0.5, 1.5)  # or FSVAE's latent neurons are silent
    found = compare(task, 4, 3)
    assert found["loss_differs"] == 0
    assert 0 < found["rounding"] < 0.01 < found["between_batches"]
    assert found["least_cosine"] > 0.999
    before = {key: value.clone() for key, value in task.module.state_dict().items()}
    index = torch.arange(4)
    assert torch.equal(gradient(task, index, 0, "float32")[1], gradient(task, index, 0, "float32")[1])
    assert all(torch.equal(value, before[key]) for key, value in task.module.state_dict().items())


def test_bfloat16_leaves_single_steps_alone(neuron):
    """FSVAE draws its latent spikes by them. Seen to fail when they rounded weights: trained, it had another loss."""
    layer = layers.linear(neuron, 64, 64).eval()
    x = torch.randint(2, (8, 64)).float()
    exact = layer.step(x, None)
    layers.set_precision(layer, "bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(exact, layer.step(x, None), strict=True))


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="this system has no huge pages to give")
def test_large_tensors_are_in_huge_pages():
    """Small pages are touched one by one: 8,000 for a tensor of 32 MB, a third of the time of a training step."""
    script = """
import resource
import spiking_diffusion
import torch
torch.ones(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert int(done.stdout) < 3000


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP here need not be GNU's")
def test_waiting_threads_leave_the_processor_to_others():
    """Seen to fail without the policy; set after PyTorch has been loaded, it would have no effect."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-c", "import spiking_diffusion; import torch"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment | {"OMP_DISPLAY_ENV": "verbose"}
    )
    assert "GOMP_SPINCOUNT = '0'" in done.stderr  # 300000 by default


def test_firing_rate_rises_with_excitation(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    params = load_params("params.yaml")
    run = params.resolve("digits")
    pairs = [measure._sdid(run, 4, torch.device("cpu"), x)[:2] for x in (-9, 0, 9)]
    rates = [measure._firing_rate(*pair) for pair in pairs]
    assert rates[0] == 0 and 0.01 < rates[1] < 0.2 and rates[2] > 0.9


@pytest.mark.parametrize(
    ("options", "clue"),
    [
        (["--recipe", "fast"], "no recipe 'fast'"),
        (
            ["--recipe", "released"],
            "'released' has no plain counterpart: bench one with vqsvae.straight_through: spikes, sdid",
        ),
        (["--batch", "0"], "at least 1"),
        pytest.param(["--device", "cuda"], "no CUDA device", marks=no_cuda),
    ],
)
def test_bench_refuses_what_it_cannot_time(options, clue, capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert main(["bench", "vqsvae", *options]) == 2
    assert clue in capsys.readouterr().err
