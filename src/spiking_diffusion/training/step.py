"""One update of the weights. On a GPU the whole update is one CUDA graph, if possible."""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from spiking_diffusion import config

log = logging.getLogger(__name__)
EAGER = 5
"""Updates before a graph is recorded. In these, kernels are compiled and memory is allocated."""


class Task(Protocol):
    """The interface of a model for training."""

    @property
    def module(self) -> nn.Module:
        """The network."""
        ...

    @property
    def size(self) -> int:
        """Number of training examples."""
        ...

    @property
    def uniform(self) -> bool:
        """Whether ``loss`` does the same at every ``progress`` except 0, so that it can be recorded once."""
        ...

    def loss(self, index: Tensor, noise: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Terms of the loss, their sum under ``loss``, for the examples ``index`` (B,).

        ``progress`` in [0, 1) is the finished share of the training.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Numbers to watch, measured in evaluation mode after each epoch on validation images."""
        ...


class Step:
    """Loss, gradient, AdamW and running means of ``task``.

    ``sums`` are the terms of the loss and the gradient's norm, summed over the examples of an epoch.

    A small network keeps a GPU waiting for Python, so on CUDA an update on a full batch is recorded once as a CUDA
    graph and replayed from then on. The kernels are the same, and so are the results.
    """

    def __init__(self, task: Task, settings: config.Train, noise: torch.Generator, device: torch.device) -> None:
        self.task, self.noise, self.batch_size = task, noise, settings.batch_size
        self.cuda = device.type == "cuda"
        self.graphs = self.cuda and task.uniform
        self.parameters = list(task.module.parameters())
        # a tensor, because a graph would keep the number from the time of recording
        self.rate = torch.tensor(settings.lr, device=device) if self.cuda else None
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=settings.lr if self.rate is None else self.rate,
            betas=(settings.betas[0], settings.betas[1]),
            weight_decay=settings.weight_decay,
            fused=True,
            capturable=self.cuda,
        )
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(task.module, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
            theirs = task.module.state_dict().values()
            self._pairs = list(zip(self.average.module.state_dict().values(), theirs, strict=True))
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        self._averaging = False
        self._done = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._index = torch.zeros(settings.batch_size, dtype=torch.int64, device=device)
        self._seen: tuple[Tensor, Tensor] | None = None

    def resumed(self) -> None:
        """Adapt loaded state to this device. A checkpoint may be from another device."""
        for group in self.optimiser.param_groups:
            group["capturable"] = self.cuda
            if self.rate is not None:
                group["lr"] = self.rate
        self._averaging = self.average is not None and bool(self.average.n_averaged > 0)

    def begin_epoch(self, sums: dict[str, Tensor]) -> None:
        """Start from these sums. The tensors that a graph adds to stay in place."""
        for value in self.sums.values():
            value.zero_()
        for key, value in sums.items():
            self.sums[key] += value

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def backward(self, index: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Take the gradient on the examples ``index`` (B,). Returns the loss and the gradient's norm."""
        self.optimiser.zero_grad(set_to_none=True)
        terms = self.task.loss(index, self.noise, progress)
        terms["loss"].backward()
        gradient = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        for key, value in {**terms, "gradient_norm": gradient}.items():
            self.sums[key] += value.detach() * len(index)
        return terms["loss"].detach(), gradient

    def update(self) -> None:
        """Update the weights with the current gradient, and then their running means."""
        self.optimiser.step()
        if self.average is not None:
            self._follow(self.average)
        self._done += 1

    @torch.no_grad()
    def _follow(self, average: AveragedModel) -> None:
        """Like ``AveragedModel.update_parameters``, which would wait for a number from the GPU at each step."""
        means = [pair for pair in self._pairs if self._averaging and pair[0].is_floating_point()]
        for mean, value in self._pairs:
            if not (self._averaging and mean.is_floating_point()):
                mean.copy_(value)
        if means:
            assert average.multi_avg_fn is not None
            average.multi_avg_fn([a for a, _ in means], [b for _, b in means], average.n_averaged)
        average.n_averaged += 1
        self._averaging = True

    def replay(self, index: Tensor) -> tuple[Tensor, Tensor] | None:
        """The whole update by the graph, which is recorded first if necessary. None if the update must be done by
        hand."""
        if not self.graphs or len(index) != self.batch_size or self._done < EAGER:
            return None
        self._index.copy_(index)
        if self._graph is None:
            self._record()
        if self._graph is None:
            return None
        self._graph.replay()
        return self._seen

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.noise)
        self.optimiser.zero_grad(set_to_none=True)
        try:
            with torch.cuda.graph(graph):
                self._seen = self.backward(self._index, 0.5)
                self.update()
        except RuntimeError as error:
            log.warning("no CUDA graph, training is slower: %s", " ".join(str(error).split())[:300])
            self.graphs = False
            return
        self._graph = graph
