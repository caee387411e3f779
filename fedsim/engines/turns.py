"""Threads that take turns at messages, and are replaced when a turn never ends."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flwr.app import Message, RecordDict

T = TypeVar("T")


@dataclass(eq=False)
class Turn(Generic[T]):
    """A message and what becomes of it.

    Attributes:
        message: what the client is sent.
        state: what the client left behind before.
        answer: to come.
        started: when a worker began with it, in monotonic seconds; ``None`` as long as it is queued.
        abandoned: whether nobody waits for the answer any more.
    """

    message: Message
    state: RecordDict | None
    answer: Future[T] = field(default_factory=Future)
    started: float | None = None
    abandoned: bool = False

    def age(self, now: float) -> float:
        """Seconds since it was taken; 0 for one that is queued."""
        return 0.0 if self.started is None else now - self.started


class Turns(Generic[T]):
    """A fixed number of threads over a queue of turns.

    Unlike a ``ThreadPoolExecutor`` it can do without a thread that hangs: the interpreter ends without it.

    Args:
        threads: how many work at the same time.
        work: makes the answer.
        initialise: called once in each thread.
    """

    def __init__(
        self,
        threads: int,
        work: Callable[[Turn[T]], T],
        initialise: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._initialise = initialise
        self._queue: queue.SimpleQueue[Turn[T] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lost: set[threading.Thread] = set()
        self._at: dict[Turn[T], threading.Thread] = {}
        self._closed = False
        for _ in range(threads):
            self._start()

    def queue(self, message: Message, state: RecordDict | None) -> Turn[T]:
        """To be taken by the next thread that is free."""
        turn: Turn[T] = Turn(message, state)
        self._queue.put(turn)
        return turn

    def replace(self, turn: Turn[T]) -> None:
        """Go on without the thread that is busy with this turn; it ends by itself if the turn ever does."""
        turn.abandoned = True
        thread = self._at.get(turn)
        if thread in self._threads:
            self._threads.remove(thread)
            self._lost.add(thread)
            self._start()

    def close(self) -> None:
        """End the threads after what they do; what is queued is cancelled, who was replaced is left behind."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="client", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        if self._initialise:
            self._initialise()
        me = threading.current_thread()
        while (turn := self._queue.get()) is not None and me not in self._lost:
            if self._closed or not turn.answer.set_running_or_notify_cancel():
                turn.answer.cancel()
                continue
            self._at[turn] = me
            turn.started = time.monotonic()
            try:
                turn.answer.set_result(self._work(turn))
            except BaseException as error:  # noqa: BLE001  (it is raised where the answer is received)
                turn.answer.set_exception(error)
            del self._at[turn]
            if me in self._lost:
                return
