"""Stands in for the runs of a sweep's jobs where tests put this folder on PYTHONPATH.

What happens is said by the job's last word, ``planted=KIND``, within milliseconds: neither torch nor ader is
imported.
"""

import ctypes
import json
import os
import signal
import sys
import time

words = sys.orig_argv[1:]
if "ader.sweeps.task" in words and words[-1].startswith("planted="):
    file, kind = os.environ["PLANTED_FILE"], words[-1].removeprefix("planted=")
    mark = file + ".checkpoint"

    def leave(status, kind=None, message=""):
        if kind is not None:
            with open(os.environ["ADER_WHY"], "w") as why:
                json.dump({"kind": kind, "message": message}, why)
        os._exit(status)

    def stop(number, frame):
        open(mark, "w").close()
        leave(1, "stopped", f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)
    with open(file + ".starts", "a") as starts:
        print(os.getpid(), os.getppid(), repr(os.environ.get("CUDA_VISIBLE_DEVICES")), file=starts)
    if kind == "raise":
        print("a word before the end", flush=True)
        leave(1, "raised", "unexpected ZeroDivisionError: planted")
    if kind == "input":
        leave(2, "input", "error: there is no such thing")
    if kind == "exit":
        leave(0)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # as ader.sweeps.task.live does
    if kind == "orphan" and not os.path.exists(mark):
        os.kill(os.getppid(), signal.SIGKILL)  # its watcher
        time.sleep(20)
    if kind.startswith("hang"):
        time.sleep(60)
    with open(file + ".starts") as starts:
        first = len(starts.readlines()) == 1
    if kind == "again" and first:
        time.sleep(60)
    if kind == "long" and not os.path.exists(mark):
        time.sleep(60)
    open(file, "w").close()
    leave(0)
