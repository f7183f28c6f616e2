"""A spiking layer on the CPU with a cost proportional to its spikes.

A synapse adds the outgoing weights of each spike. A dense convolution would multiply by 0 and 1 instead. The weight
gradient visits the same spikes. The gradient of the input is dense, and PyTorch computes it. Normalisation and LIF are
one pass forward and one backward. The backward pass computes the membranes again instead of storing them. Everything is
float32 (``kernels.cpp``) and as exact as the layers of PyTorch and SpikingJelly that it replaces.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spiking_diffusion import config
from spiking_diffusion.snn.kernels import library

Convolution = nn.Conv2d | nn.ConvTranspose2d
LANES, CACHE = 16, 600_000  # floats of a vector register; bytes of weights that fit in the cache


class _Events(ctypes.Structure):
    _fields_ = (("channel", ctypes.c_void_p), ("start", ctypes.c_void_p))


class _Synapse(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "positions_in", "positions_out")),
        *((name, ctypes.c_int64) for name in ("channels_in", "channels_out", "elements")),
        *((name, ctypes.c_void_p) for name in ("start", "source", "element")),
        ("batch", ctypes.c_int64),
        ("wanted", ctypes.c_void_p),
    )


class _Neurons(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "rows", "channels", "constant")),
        *((name, ctypes.c_float) for name in ("tau", "threshold", "reset", "alpha")),
        ("detach_reset", ctypes.c_int64),
        ("readout", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
    )


def _call(function: str, *args: Any) -> None:
    """Call a kernel. Tensors become pointers, None the null pointer, integers 64 bits. The number of threads comes
    last."""
    converted = [
        a if a is None
        else ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor)
        else ctypes.byref(a) if isinstance(a, ctypes.Structure)
        else ctypes.c_int64(a)
        for a in args
    ]  # fmt: skip
    kernels = library()
    assert kernels is not None
    getattr(kernels, function)(*converted, ctypes.c_int(torch.get_num_threads()))


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) as rows (N, H, W, C), contiguous; (N, C) stays. Copies only if the memory layout differs."""
    return (x.movedim(1, -1) if x.dim() > 2 else x).contiguous()


# --- synapses -------------------------------------------------------------------------------------------


class Geometry(NamedTuple):
    """For each output position, in order: the input positions that reach it, and their kernel elements."""

    shape: tuple[int, int]  # of the output
    start: Tensor
    source: Tensor
    element: Tensor


@functools.cache
def geometry(
    height: int, width: int, kernel: int, stride: int, padding: int, output_padding: int, transposed: bool
) -> Geometry:
    """Geometry of a square convolution on (height, width)."""
    size = height, width
    if transposed:
        out = [(n - 1) * stride - 2 * padding + kernel + output_padding for n in size]
    else:
        out = [(n + 2 * padding - kernel) // stride + 1 for n in size]
    start, source, element = [0], [], []
    for y in range(out[0]):
        for x in range(out[1]):
            for i in range(kernel):
                for j in range(kernel):
                    if transposed:
                        (row, above), (column, left) = divmod(y + padding - i, stride), divmod(x + padding - j, stride)
                        hit = not above and not left
                    else:
                        row, column, hit = y * stride + i - padding, x * stride + j - padding, True
                    if hit and 0 <= row < height and 0 <= column < width:
                        source.append(row * width + column)
                        element.append(i * kernel + j)
            start.append(len(source))
    return Geometry((out[0], out[1]), *(torch.tensor(table, dtype=torch.int32) for table in (start, source, element)))


def supports(synapse: nn.Module) -> bool:
    """Whether the synapse is a convolution that ``apply_synapse`` supports."""
    return (
        isinstance(synapse, Convolution)
        and synapse.bias is None
        and synapse.groups == 1
        and synapse.dilation == (1, 1)
        and all(len(set(pair)) == 1 for pair in (synapse.kernel_size, synapse.stride, synapse.padding))
        and synapse.in_channels < 2**16
    )


def _lanes(channels: int, size: int) -> int:
    """How many vectors of output channels are processed together: 4, 2 or 1. It is at most the number of vectors, and
    small enough that their ``size`` weights fit in the cache."""
    lanes = 4
    while lanes > 1 and (lanes * LANES > channels or lanes * LANES * size * 4 > CACHE):
        lanes //= 2
    return lanes


class _ApplySynapse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, spikes: Tensor, weight: Tensor, synapse: Convolution, precision: str, where: Tensor | None
    ) -> Tensor:
        transposed = isinstance(synapse, nn.ConvTranspose2d)
        images, channels_in, height, width = spikes.shape
        kernel, stride, padding = synapse.kernel_size[0], synapse.stride[0], synapse.padding[0]
        extra = synapse.output_padding[0] if transposed else 0
        table = geometry(height, width, kernel, stride, int(padding), extra, transposed)

        rows = channels_last(spikes.detach())
        counts = torch.empty(images * height * width, dtype=torch.int64)
        batch, reads = (images, None) if where is None else (len(where), reached(where, kernel))
        _call("count_spikes", rows, len(counts), channels_in, batch * height * width, reads, counts)
        start = F.pad(counts.cumsum(0), (1, 0))
        channel = torch.empty(int(start[-1]), dtype=torch.uint16)
        _call("list_spikes", rows, len(counts), channels_in, start, channel)

        weights = weight.detach().movedim((0, 1), (2, 3) if transposed else (3, 2)).flatten(0, 1)  # (element, in, out)
        channels_out = weights.shape[2]
        lanes = _lanes(channels_out, weights.shape[0] * channels_in)
        block = lanes * LANES
        blocked = F.pad(weights, (0, -channels_out % block)).unflatten(2, (-1, block)).movedim(2, 0).contiguous()
        shape = _Synapse(
            images, height * width, table.shape[0] * table.shape[1], channels_in, channels_out, weights.shape[0],
            table.start.data_ptr(), table.source.data_ptr(), table.element.data_ptr(),
            batch, where.data_ptr() if where is not None else None,
        )  # fmt: skip
        assert where is None or (where.is_contiguous() and where.shape[1:] == table.shape == (height, width))
        out = torch.empty(images, *table.shape, channels_out)
        _call("synapse_apply", _Events(channel.data_ptr(), start.data_ptr()), shape, lanes, blocked, out)
        ctx.save_for_backward(channel, start, weight)
        ctx.shape, ctx.kernel = shape, kernel
        ctx.stride, ctx.padding, ctx.transposed, ctx.precision = stride, int(padding), transposed, precision
        ctx.extra = [(n + 2 * int(padding) - kernel) % stride for n in (height, width)]
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        channel, start, weight = ctx.saved_tensors
        rows = channels_last(grads[0])
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            dtype = getattr(torch, ctx.precision)
            grad, w = rows.movedim(-1, 1).to(dtype), weight.to(dtype, memory_format=torch.channels_last)
            if ctx.transposed:
                grad_input = F.conv2d(grad, w, None, ctx.stride, ctx.padding).float()
            else:
                grad_input = F.conv_transpose2d(grad, w, None, ctx.stride, ctx.padding, ctx.extra).float()
        if ctx.needs_input_grad[1]:
            shape, threads = ctx.shape, torch.get_num_threads()
            size = shape.elements * shape.channels_in
            lanes = _lanes(shape.channels_out // threads, size)  # each thread has the weights of its own channels
            blocks = -(-shape.channels_out // (lanes * LANES))
            found = torch.zeros(blocks, shape.elements, shape.channels_in, lanes * LANES)
            events = _Events(channel.data_ptr(), start.data_ptr())
            _call("synapse_weight_gradient", events, shape, lanes, rows, found)
            found = found.movedim(0, 2).flatten(2)[:, :, : shape.channels_out].unflatten(0, (ctx.kernel, -1))
            grad_weight = found.movedim((2, 3), (0, 1) if ctx.transposed else (1, 0)).contiguous()
        return grad_input, grad_weight, None, None, None


def reached(where: Tensor, kernel: int) -> Tensor:
    """Positions (B, H, W) that a convolution of stride 1 reads for the outputs ``where`` (B, H, W), both bool."""
    return F.max_pool2d(where.float(), kernel, 1, kernel // 2).bool()


def apply_synapse(
    spikes: Tensor, synapse: Convolution, precision: str = "float32", where: Tensor | None = None
) -> Tensor:
    """``synapse(spikes)`` for spikes (N, C_in, H, W) in {0, 1}: (N, C_out, H', W').

    ``precision`` is that of the input's gradient: ``float32`` or ``bfloat16``. With ``where`` (B, H, W) bool, for a
    synapse of stride 1 and N = T B, only these outputs are computed. The other outputs are undefined and have no
    gradient.
    """
    out = _ApplySynapse.apply(spikes, synapse.weight, synapse, precision, where)
    assert isinstance(out, Tensor)
    return out


# --- normalisation and LIF ------------------------------------------------------------------------------


def covers(settings: config.Neuron) -> bool:
    """Whether ``norm_lif`` has neurons of these settings."""
    return settings.decay_input and settings.surrogate == "atan"


class _NormLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        rstd: Tensor,
        neurons: _Neurons,
        readout: Tensor | None,
        batch: bool,
    ) -> Tensor:
        """x (rows of all steps, C), contiguous -> spikes (steps, rows, C), or their weighted sum (1, rows, C)."""
        scale = gamma.detach() * rstd
        shift = beta.detach() - mean * scale
        spikes = x.new_empty(1 if readout is not None else neurons.steps, neurons.rows, neurons.channels)
        _call("lif", neurons, x.detach(), scale, shift, spikes)
        ctx.save_for_backward(x, mean, rstd, scale, shift)
        ctx.neurons, ctx.readout, ctx.batch = neurons, readout, batch  # neurons contain a pointer to the readout
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, scale, shift = ctx.saved_tensors
        rows, channels = x.shape
        grad = torch.empty_like(x)
        sums = torch.empty(2, channels, dtype=torch.float64)
        _call("lif_backward", ctx.neurons, x, mean, scale, shift, grads[0].contiguous(), grad, sums[0], sums[1])
        grad_beta, grad_gamma = sums[0], sums[1] * rstd
        if ctx.batch:  # the mean and the variance depend on x too
            b = -(scale * rstd * grad_gamma / rows).float()
            c = -(scale * grad_beta / rows).float() - b * mean
        else:
            b = c = torch.zeros(channels)
        _call("affine", grad, x, rows, channels, scale, b, c)
        return grad, grad_gamma.float(), grad_beta.float(), None, None, None, None, None


def norm_lif(
    x: Tensor,
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
    settings: config.Neuron,
    steps: int,
    constant: bool = False,
    readout: Tensor | None = None,
    where: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Batch normalisation and LIF: currents (steps * B, C, ...) -> spikes (steps, B, C, ...).

    With ``constant``, currents are (B, C, ...) and the same at every step. With ``readout`` (steps,) the result is the
    sum of the spikes (B, C, ...) with these weights. Outside ``where`` (B, ...) bool, for evaluation mode, spikes are
    undefined. ``scale`` multiplies the norm's weights. Running statistics change as in ``norm``.
    """
    flat = channels_last(x)
    shape, rows = flat.shape, flat.view(-1, x.shape[1])
    neurons = _Neurons(
        steps, len(rows) if constant else len(rows) // steps, rows.shape[1], constant,
        settings.tau, settings.v_threshold, settings.v_reset, settings.alpha, settings.detach_reset,
        *(option.data_ptr() if option is not None else None for option in (readout, where)),
    )  # fmt: skip
    assert where is None or not norm.training
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    if norm.training:
        assert norm.momentum is not None
        mean, variance = torch.empty_like(norm.running_mean), torch.empty_like(norm.running_var)
        _call("moments", rows.detach(), *rows.shape, mean, variance)
        with torch.no_grad():
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * (len(rows) / (len(rows) - 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)
    else:
        mean, variance = norm.running_mean, norm.running_var
    rstd = (variance + norm.eps).rsqrt()
    weight = norm.weight if scale == 1 else scale * norm.weight
    spikes = _NormLIF.apply(rows, weight, norm.bias, mean, rstd, neurons, readout, norm.training)
    spikes = spikes.view(len(spikes), -1, *shape[1:]).movedim(-1, 2)
    return spikes if readout is None else spikes[0]
