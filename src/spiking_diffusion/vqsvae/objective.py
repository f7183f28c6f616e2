"""The training loss of VQ-SVAE (Eq. 9), term by term."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn import psp_distance
from spiking_diffusion.vqsvae.model import VQSVAEOutput


def vqsvae_loss(out: VQSVAEOutput, images: Tensor, variance: float, settings: config.VQSVAE) -> dict[str, Tensor]:
    """The terms of Eq. 9 and their sum under ``loss``; ``images`` (B, C, H, W) in [0, 1].

    ``reconstruction``  MSE over the variance of the training images
    ``codebook``        |sg[z^E] - z^Q|^2; absent with ``update: ema``, where running means do its work
    ``commitment``      beta |z^E - sg[z^Q]|^2
    ``asg``             PSP distance of sg[z^E_1:T] and z^Q_1:T, which trains the spike generator
    ``asg_commitment``  beta times the PSP distance of z^E_1:T and sg[z^Q_1:T]; this and ``asg`` are absent with
                        ``coding: poisson``, which has nothing to learn

    Squares are averaged over units and time, not summed, so that weights do not depend on the image's size.
    """
    tau_syn, beta = settings.tau_syn, settings.beta
    terms = {
        "reconstruction": F.mse_loss(out.images, images) / variance,
        "commitment": beta * F.mse_loss(out.z_e, out.z_q.detach()),
    }
    if settings.coding == "asg":
        terms["asg"] = psp_distance(out.encoder_spikes.detach(), out.asg_spikes, tau_syn)
        terms["asg_commitment"] = beta * psp_distance(out.encoder_spikes, out.asg_spikes.detach(), tau_syn)
    if settings.codebook.update == "gradient":
        terms["codebook"] = F.mse_loss(out.z_q, out.z_e.detach())
    return {"loss": sum(terms.values(), start=images.new_zeros(())), **terms}
