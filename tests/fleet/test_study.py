"""The study of what a fleet costs: which part of the overhead is Slurm's own waiting."""

from __future__ import annotations

import pytest
from benchmark_scripts import script

LOG = """[2026-01-01T10:00:00.250] _slurm_rpc_submit_batch_job: JobId=1 InitPrio=1 usec=1
[2026-01-01T10:00:00.270] _slurm_rpc_submit_batch_job: JobId=2 InitPrio=1 usec=1
[2026-01-01T10:00:01.000] sched/backfill: _start_job: Started JobId=1_0(3) in bench on n1
[2026-01-01T10:00:01.000] sched/backfill: _start_job: Started JobId=1_1(4) in bench on n2
[2026-01-01T10:00:05.000] _job_complete: JobId=1_0(3) WEXITSTATUS 0
[2026-01-01T10:00:05.000] _job_complete: JobId=1_0(3) done
[2026-01-01T10:00:05.020] sched: Allocate JobId=1_2(1) NodeList=n1 #CPUs=2 Partition=bench
[2026-01-01T10:00:05.010] _job_complete: JobId=1_1(4) done
[2026-01-01T10:00:09.000] _job_complete: JobId=1_2(1) done
[2026-01-01T10:00:09.400] sched: Allocate JobId=2 NodeList=n2 #CPUs=2 Partition=bench
[2026-01-01T10:00:10.000] _job_complete: JobId=2 done
"""


@pytest.mark.parametrize(("node", "waited_s"), [("n1", 0.75 + 0.02 + 0.4), ("n2", 0.75 + 0.4)])
def test_the_scheduler_s_waiting_is_told_from_ours(node, waited_s):
    """From the submission to the first task, from each end to the next start on the same node, from the last end to the merge."""
    assert script("fleet").scheduler_wait_s(LOG, node) == pytest.approx(waited_s)
