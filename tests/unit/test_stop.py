"""A run that is asked to stop by signals."""

import signal
import threading

import pytest

from sd_scratch.stop import Stop


def handlers() -> list[object]:
    return [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_a_ctrl_c_after_it_interrupts(first: signal.Signals) -> None:
    before, told = handlers(), []
    stop = Stop()
    with (
        pytest.raises(KeyboardInterrupt),
        stop.on_signals(signal.SIGINT, signal.SIGTERM, tell=lambda: told.append(stop.asked)),
    ):
        assert not stop.asked
        signal.raise_signal(first)
        assert stop.asked and told == [True]
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_other_signals_stay_as_they_were() -> None:
    before = handlers()
    with Stop().on_signals(signal.SIGINT):
        assert handlers()[0] != before[0]
        assert handlers()[1] == before[1]


def test_a_thread_cannot_be_asked_by_signals_but_runs() -> None:
    ran = []

    def work() -> None:
        with Stop().on_signals(signal.SIGINT) as stop:
            ran.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [False]
