"""Runs the command line in forked processes, which need not import torch again, so that hundreds can be killed.

Reads one JSON request a line, ``{"argv": [...], "cwd": "...", "log": "...", "die": null}``, answers with the id of the
process and its group, and, on a line ``wait``, with its status. ``die`` is ``[call, moment, n]``: the process kills
itself ``before`` or ``after`` its n-th call of ``os.replace``; where n is 0, it prints its calls instead.
"""

import json
import os
import signal
import sys

import torch  # noqa: F401

from spiking_diffusion import cli
from spiking_diffusion.metrics import classifier, evaluate  # noqa: F401
from spiking_diffusion.reporting import figures, tables  # noqa: F401
from spiking_diffusion.training import fsvae, loop, sample, sdid, vqsvae  # noqa: F401

loop.SAVE_EVERY = 2


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
    if request["die"]:
        deadly(*request["die"])
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
