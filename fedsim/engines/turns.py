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
        started: when a worker began with its bunch, in monotonic seconds; ``None`` as long as it is queued.
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
    """A fixed number of threads over a queue of turns, which come in bunches that a thread takes as one.

    Unlike a ``ThreadPoolExecutor`` it can do without a thread that hangs: the interpreter ends without it.

    Args:
        threads: how many work at the same time.
        serve: what a thread does: ``take`` bunches until there are no more.
    """

    def __init__(self, threads: int, serve: Callable[[Turns[T]], None]) -> None:
        self._run = serve
        self._queue: queue.SimpleQueue[list[Turn[T]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lost: set[threading.Thread] = set()
        self._at: dict[Turn[T], threading.Thread] = {}
        self._idle: set[threading.Thread] = set()
        self._closed = False
        for _ in range(threads):
            self._start()

    def put(self, bunch: list[Turn[T]]) -> None:
        """To be taken by the next thread that is free."""
        self._queue.put(bunch)

    def take(self, *, block: bool = True) -> list[Turn[T]] | None:
        """The next bunch, without those that are no longer wanted; ``None`` if this thread is to end.

        Args:
            block: wait for one. Else the bunch is empty where there is none beyond those that threads wait for.
        """
        me = threading.current_thread()
        while me not in self._lost:
            if not block and self._queue.qsize() <= len(self._idle):
                return []
            if block:
                self._idle.add(me)
            try:
                bunch = self._queue.get(block)
            except queue.Empty:
                return []
            finally:
                self._idle.discard(me)
            if me in self._lost:  # replaced meanwhile: it is for who replaces this thread
                self._queue.put(bunch)
                return None
            if bunch is None:
                return None
            if self._closed:
                for turn in bunch:
                    turn.answer.cancel()
            elif wanted := [turn for turn in bunch if turn.answer.set_running_or_notify_cancel()]:
                return wanted
        return None

    def work_at(self, turn: Turn[T], work: Callable[[Turn[T]], T]) -> None:
        """Make the answer in this thread, which may be replaced meanwhile; what is raised is raised to who waits."""
        self._at[turn] = threading.current_thread()
        turn.started = time.monotonic()
        try:
            turn.answer.set_result(work(turn))
        except BaseException as error:  # noqa: BLE001  (it is raised where the answer is received)
            turn.answer.set_exception(error)
        del self._at[turn]

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
        thread = threading.Thread(target=self._run, args=(self,), name="client", daemon=True)
        self._threads.append(thread)
        thread.start()


def one_by_one(
    work: Callable[[Turn[T]], T], initialise: Callable[[], None] | None = None
) -> Callable[[Turns[T]], None]:
    """A thread that makes one answer after the other itself.

    Args:
        work: makes the answer.
        initialise: called once in each thread.
    """

    def serve(turns: Turns[T]) -> None:
        if initialise:
            initialise()
        while (bunch := turns.take()) is not None:
            for turn in bunch:
                turns.work_at(turn, work)

    return serve
