"""The thread's side of a forked process: it feeds it bunches of messages, and replaces it when it is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import CancelledError

from flwr.clientapp import ClientApp

from fedsim.engines.child import Child
from fedsim.engines.simulated import ATTEMPTS, Answer, failure
from fedsim.engines.turns import Turn, Turns

AHEAD = 2
"""Bunches that a process has at a time: the next is there when it is done with one."""

Bunch = list[Turn[Answer]]


class Feeder:
    """Keeps a process busy.

    Clients that take little time come in bunches, since each time that this thread wakes up it takes the core from
    somebody who computes. A bunch that is lost, or in which somebody is too late, is done again client by client, so
    that whose fault it was is seen.

    Args:
        app: the client side.
        clients: number of simulated clients.

    Attributes:
        pace: seconds that a client took lately; ``None`` as long as none has.
    """

    def __init__(self, app: ClientApp, clients: int) -> None:
        self.pace: float | None = None
        self._app, self._clients = app, clients
        self._lock = threading.Lock()
        self._child = Child(app, clients)
        self._flying: deque[Bunch] = deque()
        self._attempts: dict[Turn[Answer], int] = {}
        self._closed = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._child.pid

    def serve(self, turns: Turns[Answer]) -> None:
        """Feed the process until there are no more turns; where that cannot go on, who waits is told."""
        try:
            self._serve(turns)
        except BaseException as error:  # noqa: BLE001  (it is raised where the answers are received)
            self._end_all(error)
            while (bunch := turns.take()) is not None:
                self._flying.append(bunch)
                self._end_all(error)

    def _serve(self, turns: Turns[Answer]) -> None:
        while True:
            while len(self._flying) < AHEAD:
                bunch = turns.take(block=not self._flying)
                if bunch is None:
                    self._end_all(CancelledError())
                    return
                if not bunch:
                    break
                self._flying.append(bunch)
                self._send(bunch)
            self._receive()

    def give_up(self, turn: Turn[Answer]) -> bool:
        """End the process if it is too late with this turn; false if it is not, or the turn is done again.

        What is done again is one of a bunch, of which nobody knows who is too late.
        """
        with self._lock:
            first = self._flying[0] if self._flying else []
            if turn.started is None or turn not in first:
                return False
            turn.abandoned = len(first) == 1
            for one in first:
                one.started = None
            self._child.end()
        return turn.abandoned

    def close(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._closed = True
            self._child.end()

    def _send(self, bunch: Bunch) -> None:
        if bunch is self._flying[0]:
            self._begin()
        with contextlib.suppress(OSError):  # it has ended, which is seen when its answer is awaited
            self._child.send(bunch)

    def _begin(self) -> None:
        """The process is with the first bunch now."""
        now = time.monotonic()
        for turn in self._flying[0]:
            turn.started = now

    def _receive(self) -> None:
        started = self._flying[0][0].started
        try:
            answers = self._child.receive()
        except (EOFError, OSError):
            self._recover()
            return
        with self._lock:  # from here on give_up cannot hit what the process does next
            bunch = self._flying.popleft()
            if self._flying:
                self._begin()
        if started is not None:
            self.pace = (time.monotonic() - started) / len(bunch)
        for turn, answer in zip(bunch, answers, strict=True):
            self._attempts.pop(turn, None)
            turn.answer.set_result(answer)

    def _recover(self) -> None:
        """Go on with a new process: the bunch that was lost one by one, and what was to come after it."""
        with self._lock:
            if self._closed:
                self._end_all(CancelledError())
                return
            lost, *others = self._flying
            for turn in lost:
                turn.started = None
            if len(lost) == 1:
                self._attempts[lost[0]] = self._attempts.get(lost[0], 0) + 1
                again = [] if self._done_with(lost[0]) else [lost]
            else:
                again = [[turn] for turn in lost]
            self._child.end()
            self._child = Child(self._app, self._clients)
            self._flying = deque([*again, *others])
        for bunch in list(self._flying):
            self._send(bunch)

    def _done_with(self, turn: Turn[Answer]) -> bool:
        """Whether a turn that was lost with its process is not tried again."""
        if not turn.abandoned and self._attempts[turn] < ATTEMPTS:
            return False
        del self._attempts[turn]
        reason = f"the worker process died with this client in it, in each of {ATTEMPTS} attempts"
        turn.answer.set_result(failure(turn.message, reason))
        return True

    def _end_all(self, error: BaseException) -> None:
        """Nobody gets an answer any more; why is raised where it is awaited."""
        for bunch in self._flying:
            for turn in bunch:
                if not turn.answer.done():
                    turn.answer.set_exception(error)
        self._flying.clear()
