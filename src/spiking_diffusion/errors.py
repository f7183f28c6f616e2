"""The only exception that users see, and one-sentence messages for other errors."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


class UserError(Exception):
    """An error that the user can fix: one sentence that says what is wrong, where, and what to do.

    The command line prints it after ``error:`` on stderr and exits with 2; no traceback.
    """


CURES = {
    "free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "get the permission, or take another folder": (errno.EACCES, errno.EPERM),
    "the disk is mounted to be read only: take another folder": (errno.EROFS,),
    "the disk has no file locks: put the project's folder on another": (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),
    "raise the limit of open files (`ulimit -n`)": (errno.EMFILE, errno.ENFILE),
    "give the run or dataset a shorter name, or take a folder nearer to the root": (errno.ENAMETOOLONG,),
    "something of that name is in the way: move it": (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    "the disk or the network in between fails": (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT),
}
"""Advice for errors of the system, by their numbers."""


def refused(what: str, error: OSError) -> UserError:
    """The error for ``what``, such as "cannot write FILE", after the system raised ``error``."""
    cure = next((text for text, numbers in CURES.items() if error.errno in numbers), "fix the problem")
    return UserError(f"{what} ({error.strerror or error}): {cure}; then run the same command again")


def unknown(kind: str, name: str, known: Mapping[str, Any]) -> str:
    """A clause with the nearest known name, or all known names, for a user who gave an unknown one."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"no such {kind}; there are: {', '.join(sorted(known)) or 'none'}"


def sentence(error: ValidationError, where: str) -> str:
    """The first pydantic error as a sentence: the key, its value, what was expected."""
    found: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_key(detail["loc"], where), []).append(detail)
    key, details = next(iter(found.items()))
    first, value = details[0], details[0]["input"]
    match first["type"]:
        case "extra_forbidden":
            text = f"{key} is an unknown key: remove it or correct its spelling"
        case "missing":
            text = f"{key} is missing: add it, nothing has a hidden default"
        case "value_error":
            text = f"{key}: {first['ctx']['error']}"
        case "model_type" | "dict_type":
            text = f"{key} is {value!r}: it must be a mapping of keys to values"
        case _:
            expected = " or ".join(f"{d['msg'][0].lower()}{d['msg'][1:]}" for d in details)
            text = f"{key} is {value!r}: {expected}"
    return " ".join(text.split()) + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


def _key(location: tuple[int | str, ...], where: str) -> str:
    """The key in the file that a pydantic error is about, without pydantic's names for the branches of a union."""
    parts = [str(part) for part in location if part != "[key]" and not _BRANCH.match(str(part))]
    return ".".join(([where] if where else []) + parts) or "the file"


_BRANCH = re.compile(r"^(literal\[|constrained-|function-|file to download$|file on disk$|float$|int$)")
