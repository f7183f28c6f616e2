"""One writer at a time: a lock for each output. The system releases the lock when its process ends.

Snakemake's own lock covers a whole folder and ends with the first of several instances. DVC ignores it.
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from spiking_diffusion import artifacts
from spiking_diffusion.errors import UserError, refused

log = logging.getLogger(__name__)
LOCKS = Path("work/locks")


def holder_of(output: Path) -> Path:
    """The file that says who holds the lock of a job with this first output. It exists while the lock is held."""
    return LOCKS / f"{'-'.join(output.with_suffix('').parts[1:])}.holder"


@contextmanager
def alone(*outputs: Path, what: str = "") -> Iterator[bool]:
    """Hold the lock of ``outputs``; a second caller waits, and its log names the first.

    Yields whether there was a wait, because then the outputs may exist. Leftovers of killed writers are removed.
    """
    holder = holder_of(outputs[0])
    lock = FileLock(holder.with_suffix(".lock"))
    try:
        LOCKS.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
            waited = False
        except Timeout:
            log.warning("%s is locked by %s: waiting", what or outputs[0], _read(holder))
            lock.acquire(poll_interval=0.2)
            waited = True
    except OSError as error:
        raise refused(f"cannot lock {lock.lock_file}", error) from error
    try:
        artifacts.clear_leftovers(holder)
        artifacts.write_text(holder, f"process {os.getpid()} on {platform.node()} ({shlex.join(sys.argv)})")
        for path in outputs:
            artifacts.clear_leftovers(path)
        yield waited
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def one_snakemake() -> None:
    """Hold the folder's lock until this process ends.

    If another Snakemake held it, this one restarts after the other has ended, to plan with the current files.
    """
    lock = _pipeline()
    if lock.__enter__():
        os.execv(sys.executable, sys.orig_argv)
    atexit.register(lock.__exit__, None, None, None)


def check_notes(folder: Path = Path(".snakemake")) -> None:
    """Raise UserError if Snakemake cannot write its records. Without this, it would fail after hours of work."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        probe.touch()
        probe.chmod(0o644)
    except PermissionError as error:
        raise UserError(
            f"Snakemake cannot store its records in {folder} ({error.strerror}): make it a link to a folder on a disk "
            "that allows chmod, `ln -s FOLDER .snakemake`"
        ) from error
    except OSError as error:
        raise refused(f"cannot write {folder}", error) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def wait_for_snakemake() -> None:
    """Wait until no Snakemake works in this folder. Log the wait, because the child process would wait silently."""
    with _pipeline():
        pass


def _pipeline() -> AbstractContextManager[bool]:
    return alone(Path("work/snakemake"), what="this folder's pipeline")


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8")
    except OSError:  # it has only just started
        return "another process"
