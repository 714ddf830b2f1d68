from __future__ import annotations

import pytest

from heliodor.cluster.scheduler import End, Phase
from heliodor.cluster.slurm_states import Row, seconds_of, state_of, status_of


@pytest.mark.parametrize(
    ("word", "phase", "end"),
    [
        ("PENDING", Phase.QUEUED, None),
        ("REQUEUED", Phase.QUEUED, None),
        ("REQUEUE_HOLD", Phase.QUEUED, None),
        ("RUNNING", Phase.RUNNING, None),
        ("COMPLETING", Phase.RUNNING, None),
        ("SUSPENDED", Phase.RUNNING, None),
        ("COMPLETED", Phase.ENDED, End.COMPLETED),
        ("FAILED", Phase.ENDED, End.FAILED),
        ("TIMEOUT", Phase.ENDED, End.WALLTIME),
        ("DEADLINE", Phase.ENDED, End.WALLTIME),
        ("OUT_OF_MEMORY", Phase.ENDED, End.OUT_OF_MEMORY),
        ("NODE_FAIL", Phase.ENDED, End.NODE_FAILURE),
        ("BOOT_FAIL", Phase.ENDED, End.NODE_FAILURE),
        ("PREEMPTED", Phase.ENDED, End.PREEMPTED),
        ("CANCELLED", Phase.ENDED, End.CANCELLED),
        ("CANCELLED by 0", Phase.ENDED, End.CANCELLED),
    ],
)
def test_every_word_has_a_meaning(word, phase, end):
    state = state_of(Row(word))
    assert (state.phase, state.end) == (phase, end)


def test_details_are_for_people():
    assert state_of(Row("PENDING", reason="Priority")).detail == "waits (Priority)"
    assert state_of(Row("FAILED", status_of("3:0"), node="n1")).detail == "exit code 3 on n1"
    killed = state_of(Row("FAILED", status_of("137:0"), node="n1"))
    assert killed.detail == "killed by SIGKILL on n1, as when memory runs out"
    assert state_of(Row("FAILED", status_of("0:11"))).detail == "killed by SIGSEGV"
    assert state_of(Row("CANCELLED by 0", node="None assigned")).detail == "cancelled by 0"


def test_slurms_last_words_tell_that_memory_ran_out():
    words = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch."
    assert state_of(Row("FAILED", 9), words).end is End.OUT_OF_MEMORY
    assert state_of(Row("FAILED", 9), "slurmstepd: error: JOB 1 CANCELLED").end is End.FAILED


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:07", 7), ("1:02:03", 3723), ("2-01:00:00", 176400), ("INVALID", 0)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds
