"""Progress of a long loop: a bar on a terminal, otherwise one log line each minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 60.0
"""Seconds between two lines."""
log = logging.getLogger(__name__)


def watch(
    items: Iterable[T], what: str, total: int, first: int = 0, before: int = 0, whole: int | None = None
) -> Iterator[T]:
    """Iterate over ``items`` and show progress. ``total`` includes the ``first`` items, which are skipped.

    A loop can be part of a longer one, as an epoch is part of a training. Then ``before`` items came earlier and there
    are ``whole`` in all, and the remaining time is that of the whole.
    """
    bar = tqdm(items, what, total, leave=False, disable=None, initial=first)
    whole = total if whole is None else whole
    began = told = time.monotonic()
    for done, item in enumerate(bar, 1):
        yield item
        now = time.monotonic()
        if bar.disable and now - told >= EVERY and first + done < total:
            rate, told = done / (now - began), now
            left = (whole - before - first - done) / rate
            log.info("%s %s: %d of %d, %s left", time.strftime("%H:%M"), what, first + done, total, duration(left))


def duration(seconds: float) -> str:
    """Seconds in words: ``40 s``, ``14 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
