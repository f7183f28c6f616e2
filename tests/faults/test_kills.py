"""Killed at any moment, the same command leaves the bytes that it would have left undisturbed, and nothing else.

``make test`` kills a few dozen processes, ``make faults`` hundreds: KILLS is the number of random ones per stage.
"""

import os
import random
import signal
import time

import pytest

PER_STAGE = int(os.environ.get("KILLS", "2"))
MANY = "KILLS" in os.environ
EXIT = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 130}


def test_killed_at_random_moments(project, stage, killed):
    """Each process goes on from where the one before was killed; one that ends is compared, and all begins anew.

    Seen to fail for a training without the state of the optimiser.
    """
    draw = random.Random(stage)
    project.undo(stage)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    made, longest = 0, project.seconds[stage]
    while made < PER_STAGE:
        number = signals[made % 3]
        process = project.start(stage)
        time.sleep(draw.uniform(0.02, longest))
        os.killpg(process, number)  # not waited for yet: the id is no other's
        status = project.launcher.wait()
        said = project.launcher.log.read_text()
        if status == 0:  # it had ended
            project.assert_as_undisturbed()
            project.undo(stage)
            longest *= 0.8
            continue
        if status == 70:  # interrupted before the command itself had begun
            continue
        assert status == EXIT[number], said
        assert "Traceback" not in said
        if number == signal.SIGINT:
            assert said.splitlines()[-1].startswith("interrupted: "), said
        made += 1
        killed[stage] += 1
    status, said = project.command(stage)
    assert status == 0, said
    project.assert_as_undisturbed()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_a_rename(project, stage_renaming, moment, killed):
    """At every rename of the stage, or every fifth: of checkpoints, weights, histories and settings.

    Seen to fail where temporary files of the killed are not cleared up.
    """
    stage = stage_renaming
    project.undo(stage)
    status, said = project.command(stage, ["replace", moment, 0])
    assert status == 0, said
    renames = said.count("call of replace")
    assert renames >= 3
    project.assert_as_undisturbed()
    project.undo(stage)
    for n in range(1, renames + 1, 1 if MANY else 5):
        # what was done is done: a training that goes on has fewer renames left
        at = n if stage not in ("vqsvae", "sdid", "fsvae") else 2 + n % 3
        status, said = project.command(stage, ["replace", moment, at])
        if status == 0:
            break
        assert status == -signal.SIGKILL, said
        killed[stage] += 1
    status, said = project.command(stage)
    assert status == 0, said
    project.assert_as_undisturbed()
