"""The reference: the same networks with SpikingJelly's layers, with nothing moved out of the loop over time, fused or
skipped.

They use multi-step mode, repeat the input over T, apply every map at every step, and run eagerly in float32. Each class
takes a network of this package and copies its weights, so that tests can compare results and ``bench`` can compare
rates.
"""

from __future__ import annotations

import copy

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from spiking_diffusion import config
from spiking_diffusion.diffusion import SDID, AbsorbingDiffusion
from spiking_diffusion.fsvae import FSVAE, FSVAEOutput
from spiking_diffusion.fsvae.latent import draw_picks, pick
from spiking_diffusion.snn import SpikingDecoder, SpikingEncoder, SpikingLayer
from spiking_diffusion.vqsvae import VQSVAE, VQSVAEOutput


def plain_layer(ours: SpikingLayer) -> nn.Sequential:
    """Synapse, norm and LIF of a layer as SpikingJelly's, with copies of the weights."""
    settings = ours.lif.settings
    lif = neuron.LIFNode(
        tau=float(settings.tau),
        decay_input=True,
        v_threshold=float(settings.v_threshold),
        v_reset=float(settings.v_reset),
        surrogate_function=surrogate.ATan(alpha=float(settings.alpha)),
        detach_reset=settings.detach_reset,
        step_mode="m",
    )
    return nn.Sequential(layer.SeqToANNContainer(copy.deepcopy(ours.synapse), copy.deepcopy(ours.norm)), lif)


def plain_psp(spikes: Tensor, tau_syn: float) -> Tensor:
    """Eq. 5, one step after the other: (T, ...) -> (T, ...)."""
    trace, traces = torch.zeros_like(spikes[0]), []
    for spike in spikes:
        trace = (1 - 1 / tau_syn) * trace + spike / tau_syn
        traces.append(trace)
    return torch.stack(traces)


def plain_psp_distance(a: Tensor, b: Tensor, tau_syn: float) -> Tensor:
    """Mean squared difference of two PSPs."""
    return ((plain_psp(a, tau_syn) - plain_psp(b, tau_syn)) ** 2).mean()


class PlainEncoder(nn.Module):
    """``SpikingEncoder`` in plain code."""

    def __init__(self, ours: SpikingEncoder) -> None:
        super().__init__()
        self.steps = ours.steps
        self.layers = nn.Sequential(*map(plain_layer, (ours.first, ours.second, ours.third)))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers((images - 0.5).unsqueeze(0).repeat(self.steps, 1, 1, 1, 1))


class PlainDecoder(nn.Module):
    """``SpikingDecoder`` in plain code, with the last map at every step."""

    def __init__(self, ours: SpikingDecoder) -> None:
        super().__init__()
        self.decay = ours.decay
        self.layers = nn.Sequential(plain_layer(ours.first), plain_layer(ours.second))
        self.out = layer.SeqToANNContainer(copy.deepcopy(ours.out))

    def forward(self, spikes: Tensor) -> Tensor:
        membrane: Tensor | float = 0.0
        for current in self.out(self.layers(spikes)):
            membrane = membrane * self.decay + current
        assert isinstance(membrane, Tensor)
        return torch.tanh(membrane) + 0.5


class PlainVQSVAE(nn.Module):
    """``VQSVAE`` in training, in plain code."""

    def __init__(self, ours: VQSVAE) -> None:
        super().__init__()
        self.settings = ours.settings
        self.encoder = PlainEncoder(ours.encoder)
        self.asg = plain_layer(ours.asg)
        self.decoder = PlainDecoder(ours.decoder)
        self.codebook = copy.deepcopy(ours.codebook)
        self.k_parameter = copy.deepcopy(ours.k_parameter)
        self.squash = ours.settings.k == "learned" and ours.settings.k_range == "unit"

    def forward(self, images: Tensor) -> VQSVAEOutput:
        functional.reset_net(self)
        encoder_spikes = self.encoder(images)
        k = torch.sigmoid(self.k_parameter) if self.squash else self.k_parameter
        z_e = k * encoder_spikes.mean(0) + (1 - k) * plain_psp(encoder_spikes, self.settings.tau_syn)[-1]
        tokens = self.codebook.nearest(z_e)
        z_q = self.codebook(tokens)
        asg_spikes = self.asg(z_q.unsqueeze(0).repeat(self.settings.T, 1, 1, 1, 1))
        into_decoder = encoder_spikes + (asg_spikes - encoder_spikes).detach()
        return VQSVAEOutput(self.decoder(into_decoder), encoder_spikes, asg_spikes, z_e, z_q, tokens)


class PlainSDID(nn.Module):
    """``SDID`` in plain code: logits at every step, then their mean."""

    def __init__(self, ours: SDID) -> None:
        super().__init__()
        self.steps = ours.settings.T
        self.token_embedding = copy.deepcopy(ours.token_embedding)
        self.step_embedding = copy.deepcopy(ours.step_embedding)
        self.first = plain_layer(ours.first)
        self.rest = nn.Sequential(*map(plain_layer, _layers(ours.rest)))
        self.out = layer.SeqToANNContainer(copy.deepcopy(ours.out))

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        functional.reset_net(self)
        current = (self.token_embedding(tokens) + self.step_embedding(t)[:, None, None]).movedim(-1, 1)
        first = self.first(current.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1))
        return self.out(torch.cat([first, self.rest(first)], dim=2)).mean(0)


@torch.no_grad()
def plain_sample(
    denoiser: PlainSDID, diffusion: AbsorbingDiffusion, shape: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    """The paper's sampler by its definition: a network call at each of the T_d steps for every sample."""
    device = generator.device
    tokens = torch.full(shape, diffusion.mask, device=device)
    for t in range(diffusion.steps, 0, -1):
        logits = denoiser(tokens, torch.full((shape[0],), t, device=device))
        drawn = torch.multinomial(logits.movedim(1, -1).flatten(0, -2).softmax(-1), 1, generator=generator).view(shape)
        reveal = (tokens == diffusion.mask) & (torch.rand(shape, generator=generator, device=device) < 1 / t)
        tokens = torch.where(reveal, drawn, tokens)
    return tokens


class PlainFSVAE(nn.Module):
    """``FSVAE`` in training, in plain code: prior and posterior rerun the growing prefix at every step, as
    published."""

    def __init__(self, ours: FSVAE) -> None:
        super().__init__()
        self.settings = ours.settings
        self.feature_shape = ours.feature_shape
        assert isinstance(ours.encoder, SpikingEncoder) and isinstance(ours.decoder, SpikingDecoder)
        self.encoder = PlainEncoder(ours.encoder)
        self.into_latent = plain_layer(ours.into_latent)
        self.posterior = nn.Sequential(*map(plain_layer, _layers(ours.posterior.layers)))
        self.prior = nn.Sequential(*map(plain_layer, _layers(ours.prior.layers)))
        self.out_of_latent = plain_layer(ours.out_of_latent)
        self.decoder = PlainDecoder(ours.decoder)

    def forward(self, images: Tensor, progress: float, generator: torch.Generator) -> FSVAEOutput:
        functional.reset_net(self)
        schedule, k = self.settings.scheduled_sampling, self.settings.k
        p = schedule.start + (schedule.end - schedule.start) * progress
        x = self.into_latent(self.encoder(images).flatten(2))

        picks = draw_picks(x.shape, k, generator, x.device)
        before = torch.zeros_like(x[:1])
        for t in range(len(x) - 1):
            drawn = self._last(self.posterior, torch.cat([x[: t + 1], before], -1))
            before = torch.cat([before, pick(drawn, picks[t])[None]])
        q = self._candidates(self.posterior, torch.cat([x, before], -1))
        z = pick(q, picks)

        own = torch.rand(z.shape[:2], generator=generator, device=z.device) < p
        own[: schedule.from_step] = False
        picks = draw_picks(z.shape, k, generator, z.device)
        seen = torch.zeros_like(z[:1])
        for t in range(len(z) - 1):
            guess = pick(self._last(self.prior, seen), picks[t])
            seen = torch.cat([seen, torch.where(own[t, :, None], guess, z[t].detach())[None]])
        prior = self._candidates(self.prior, seen)
        functional.reset_net(self.out_of_latent)
        images = self.decoder(self.out_of_latent(z).unflatten(2, self.feature_shape))
        return FSVAEOutput(images, z, q, prior)

    def _candidates(self, net: nn.Sequential, train: Tensor) -> Tensor:
        functional.reset_net(net)
        return net(train).unflatten(-1, (self.settings.latent_dim, self.settings.k))

    @torch.no_grad()
    def _last(self, net: nn.Sequential, prefix: Tensor) -> Tensor:
        """Candidates of the newest step, drawn in evaluation mode from rest over the whole prefix."""
        net.eval()
        last = self._candidates(net, prefix)[-1]
        net.train()
        return last


def _layers(modules: nn.ModuleList) -> list[SpikingLayer]:
    return [module for module in modules if isinstance(module, SpikingLayer)]


def plain_vqsvae_loss(out: VQSVAEOutput, images: Tensor, variance: float, settings: config.VQSVAE) -> Tensor:
    """Eq. 9 with PSPs step by step, for ``update: ema``."""
    e, q, tau, beta = out.encoder_spikes, out.asg_spikes, settings.tau_syn, settings.beta
    reconstruction = ((out.images - images) ** 2).mean() / variance
    commitment = beta * ((out.z_e - out.z_q.detach()) ** 2).mean()
    asg = plain_psp_distance(e.detach(), q, tau) + beta * plain_psp_distance(e, q.detach(), tau)
    return reconstruction + commitment + asg


def plain_fsvae_loss(out: FSVAEOutput, images: Tensor, settings: config.FSVAE) -> Tensor:
    """MSE and the distance of prior and posterior with PSPs step by step."""
    return ((out.images - images) ** 2).mean() + plain_psp_distance(out.q.mean(-1), out.p.mean(-1), settings.tau_syn)
