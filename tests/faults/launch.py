"""Runs the command line in forked processes, which need not import torch again, so that hundreds can be killed.

Reads one JSON request a line, ``{"argv": [...], "cwd": "...", "log": "...", "die": null}``, answers with the id of the
process and its group, and, on a line ``wait``, with its status. ``die`` is ``[call, moment, n]``: the process kills
itself ``before`` or ``after`` its n-th call of ``os.replace``; where n is 0, it prints its calls instead. With a call
of ``handles``, it may open n files more than it has; with ``memory``, its n-th loss finds the GPU's memory full.
"""

import json
import os
import resource
import signal
import sys
from importlib import import_module

import torch

from spiking_diffusion import cli
from spiking_diffusion.graph.stages import STAGES
from spiking_diffusion.training import loop

loop.SAVE_EVERY = 2
for stage in STAGES.values():
    for module in filter(None, [stage.module, stage.family, stage.draws]):
        import_module(f"spiking_diffusion.{module}")


def starved(n):
    """Let this process have n more files open than it has now."""
    highest = os.dup(0)  # all below it are in use, or nearly
    os.close(highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + n, 4096))


def out_of_memory(n):
    """Make backpropagation number n end as it does where the GPU's memory is full."""
    original, calls = torch.Tensor.backward, 0

    def backward(*args, **options):
        nonlocal calls
        calls += 1
        if calls == n:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")
        return original(*args, **options)

    torch.Tensor.backward = backward


def deadly(name, moment, n):
    """Replace ``os.name`` by one that kills this very process at its n-th call."""
    original, calls = getattr(os, name), 0

    def call(*args, **options):
        nonlocal calls
        calls += 1
        if calls == n and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == n and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        if n == 0:
            print(f"call of {name}", file=sys.stderr, flush=True)
        return result

    setattr(os, name, call)


def run(request):
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    match request["die"]:
        case ["handles", _, n]:
            starved(n)
        case ["memory", _, n]:
            out_of_memory(n)
        case [call, moment, n]:
            deadly(call, moment, n)
    status = 70
    try:
        sys.argv = ["spiking-diffusion", *request["argv"]]
        status = cli.main(request["argv"])
    finally:
        sys.stdout.flush()
        os._exit(status)


child = 0
for line in sys.stdin:
    if line == "wait\n":
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    elif child := os.fork():
        os.setpgid(child, child)
        print(child, flush=True)
    else:
        run(json.loads(line))
