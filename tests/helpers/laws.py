"""Denoisers that are tables, and counts of what samplers draw from them, on grids small enough for exact laws."""

import itertools

import numpy as np
import torch


class TableDenoiser:
    """Logits (N, K) looked up by (t, tokens) in a table (steps + 1, (K+1)^n, n, K); remembers its calls."""

    def __init__(self, table, size):
        self.table = torch.as_tensor(table)
        self.size = size
        self.calls = []

    def __call__(self, tokens, t, where):
        self.calls.append((tokens.clone(), t.clone()))
        flat = tokens.flatten(1)
        index = (flat * (self.size + 1) ** torch.arange(flat.shape[1])).sum(1)
        return self.table[t, index].unflatten(1, tokens.shape[1:])[where]


def index_of(state, base):
    return sum(token * base**i for i, token in enumerate(state))


def counts_of(tokens, size):
    """How often each of the K^n grids was drawn, in the order of ``itertools.product``."""
    flat = tokens.flatten(1)
    n = flat.shape[1]
    return np.bincount((flat * size ** torch.arange(n - 1, -1, -1)).sum(1).numpy(), minlength=size**n)


def exact_conditionals(joint, size, n):
    """Logits ((K+1)^n, n, K) of p(token i | tokens that show) under a joint law with the shape (K,) * n."""
    logits = np.zeros(((size + 1) ** n, n, size))
    for state in itertools.product(range(size + 1), repeat=n):
        given = joint[tuple(slice(None) if token == size else slice(token, token + 1) for token in state)]
        for i, token in enumerate(state):
            if token == size:
                marginal = given.sum(tuple(axis for axis in range(n) if axis != i))
                logits[index_of(state, size + 1), i] = np.log(marginal / marginal.sum())
    return logits
