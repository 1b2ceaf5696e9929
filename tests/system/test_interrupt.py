"""Signals while a checkpoint is due: schedulers repeat theirs, a person insists with Ctrl-C."""

from __future__ import annotations

import os
import signal

import pytest

from ader.system.interrupt import Halted, Interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_that_comes_again_ends_nothing(number):
    with Interrupt().listening() as interrupt:
        with interrupt.patiently():
            for _ in range(3):
                os.kill(os.getpid(), number)
            assert interrupt.name == signal.Signals(number).name
        with pytest.raises(Halted, match=interrupt.name):
            interrupt.check()


def test_ctrl_c_after_a_signal_ends_it_at_once():
    with Interrupt().listening() as interrupt, interrupt.patiently():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
