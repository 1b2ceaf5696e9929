"""``ader sweep``: what became of sweeps, which ``ader -m`` runs."""

from __future__ import annotations

import importlib
from dataclasses import replace

from ader.commands._request import Request
from ader.system.errors import UserError, suggest

SUMMARY = """\
ader sweep status [NAME]       what became of the jobs of ader -m, also from another machine
ader sweep check NAME TABLE    whether a sweep's numbers are worse than expected
"""

USAGE = """\
ader sweep status [NAME] [paths.results=DIR]
ader sweep check NAME TABLE.csv [tolerance=0.01] [paths.results=DIR]
ader sweep try key=value ...
ader -m key=a,b key=c,d ...

ader -m runs every combination of the values: lists (seed=1,2,3), range(1,4), choice(a,b), and glob(*) over the
options of a group (method=glob(*,exclude=segad)). All jobs are composed, planned and their data and weights looked
for before the first begins; what is wrong with any is said at once. Each job is a process of its own; one that
fails, is killed or hangs is told with its reason, and the others go on. The same line again runs what is missing.
Ctrl-C: running jobs write checkpoints and end; again: at once. Exit status 0: every job has its result.

  dry_run=true                  say which jobs would run
  preflight=true                first two steps and two test batches of each job: memory, an estimate of its time
  retry=missing|failed|new      what is run again: all without a result, those that failed, or none of these
  sweep=NAME                    its name; else made from the jobs
  launcher=local|slurm|ray      where jobs run (ader -m launcher=NAME --help: see the documentation, Sweeps)
  launcher.slots=N              jobs at once; auto: one per GPU, without any one per four cores
  launcher.gpus=[0,1]           GPUs to use
  launcher.hours=H              time limit of a job, which then writes a checkpoint
  launcher.idle_minutes=M       after which a job that says and computes nothing is hung
  launcher.smaller_test_batch=false   a job out of memory is not tried again with a smaller test batch

status   a line for each sweep; with its name, a line for each of its jobs: where it is, and why it failed. The name
         may be left out where there is one sweep only.
check    compares the sweep's metrics.csv with another sweep's, of jobs with the same words; exit status 1 where a
         metric is worse by more than the tolerance (a fraction: 0.01 is one point), or a job has no result.
try      two steps and two test batches of one run: its memory, and an estimate of its time. Nothing is written.
"""

#: What follows ``ader sweep``: a module, whose ``main`` gets the request and returns the exit status.
ACTIONS = {"check": "check", "status": "status", "try": "attempt"}


def main(request: Request) -> int:
    """Does one of the things that can be done with sweeps."""
    name = request.words[0] if request.words else ""
    if name not in ACTIONS:
        raise UserError(
            f"{' '.join([request.command, *request.words[:1]])}: {suggest(name, ACTIONS)} (ader sweep --help; "
            "ader -m runs a sweep)"
        )
    action = importlib.import_module(f"{__name__}.{ACTIONS[name]}").main
    return int(action(replace(request, command=f"{request.command} {name}", words=request.words[1:])))
