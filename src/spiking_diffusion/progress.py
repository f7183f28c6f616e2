"""How far a long loop is: a bar on a terminal, and elsewhere a line of the log each minute."""

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
    """The ``items``, of which there are ``total`` together with the ``first`` ones, which are skipped.

    A loop that is part of a longer one, such as an epoch of a training, says how many came ``before`` it and how many
    there are in the ``whole``: the time that is left is that of the whole.
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
    """For people: ``40 s``, ``14 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
