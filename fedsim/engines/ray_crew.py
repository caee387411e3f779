"""A crew of Ray actors that stand ready; one that is lost is replaced in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from fedsim.errors import FedsimError

ATTEMPTS = 6
"""How often a replacement is tried that dies before it has started, after 1, 2, 4, ... seconds.

It takes Ray half a minute to notice that a node is gone, and till then it may send replacements there.
"""


@dataclass(eq=False)
class Actor:
    """One of the crew.

    Attributes:
        handle: Ray's.
        pid: of its process, on its node; ``None`` until it has started.
        attempts: how often actors in its place have died before they had started.
        retry_at: when to try a replacement, of one that died before it had started; monotonic seconds.
        abandoned: whether it was killed because nobody waits for its answer any more.
    """

    handle: Any
    pid: int | None = None
    attempts: int = 0
    retry_at: float = 0.0
    abandoned: bool = False


class Crew:
    """Actors to take, give back and lose.

    A replacement joins when it has started. While a cluster has no room for it, or where it cannot start, the
    others go on without it.

    Args:
        ray: the package.
        make: makes an actor, whose method ``start`` returns its process id.
        size: number of actors.
        seconds: how long they may take to start, imports and data set included.

    Raises:
        FedsimError: not all of them can start.
    """

    def __init__(self, ray: Any, make: Callable[[], Any], size: int, seconds: float = 600) -> None:
        self._ray = ray
        self._make = make
        self._changed = threading.Condition()
        self._all: list[Actor] = []
        self._idle: list[Actor] = []
        self._dead: list[Actor] = []  # before they had started
        self._error: FedsimError | None = None
        self._closed = False
        try:
            for _ in range(size):
                self._hire()
            self._await_all(size, seconds)
        except BaseException:
            self.close()
            raise

    def _await_all(self, size: int, seconds: float) -> None:
        with self._changed:
            settled = self._changed.wait_for(lambda: len(self._idle) == size or self._error or self._dead, seconds)
        if self._error is not None:
            raise self._error
        if self._dead:
            raise FedsimError("A Ray actor died while it started. Is there memory enough for all of them?")
        if not settled:
            raise FedsimError(f"Ray actors did not start in {seconds} seconds. Is the cluster busy otherwise?")

    @property
    def pids(self) -> list[int | None]:
        """Process ids, each on its node; ``None`` for an actor that has not started yet."""
        with self._changed:
            return [actor.pid for actor in self._all]

    def take(self) -> Actor:
        """An idle actor; waits for one.

        Raises:
            FedsimError: none is left, and none can start.
            CancelledError: the crew was closed.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for actor in [dead for dead in self._dead if dead.retry_at <= now]:
                    self._dead.remove(actor)
                    self.lose(actor)
                if self._idle:
                    return self._idle.pop(0)
                if not self._all:
                    raise self._error or FedsimError("No Ray actor is left, and none can be started.")
                self._changed.wait(min((dead.retry_at - now for dead in self._dead), default=None))
        raise CancelledError

    def give_back(self, actor: Actor) -> None:
        """The actor has done its work."""
        with self._changed:
            self._idle.append(actor)
            self._changed.notify_all()

    def lose(self, actor: Actor) -> None:
        """The actor died or was killed: replace it, unless actors in its place do nothing but die."""
        self._ray.kill(actor.handle)  # where it is but out of reach
        attempts = actor.attempts + 1 if actor.pid is None else 0
        if attempts < ATTEMPTS and not self._closed:
            self._hire(attempts)
        with self._changed:
            self._all.remove(actor)  # after its replacement has come, or the crew would look empty
            self._changed.notify_all()

    def close(self) -> None:
        """Kill all actors."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for actor in self._all:
                self._ray.kill(actor.handle)

    def _hire(self, attempts: int = 0) -> None:
        actor = Actor(self._make(), attempts=attempts)
        with self._changed:
            self._all.append(actor)
        actor.handle.start.remote().future().add_done_callback(partial(self._started, actor))

    def _started(self, actor: Actor, start: Future[int]) -> None:
        """Called in a thread of Ray's, which must not be held up."""
        error = start.exception()
        with self._changed:
            if error is None:
                actor.pid = start.result()
                self._idle.append(actor)
            elif self._is_final(error):
                self._error = FedsimError(f"A Ray actor cannot work on its node: {_reason(error)}")
                self._all.remove(actor)
            else:
                actor.retry_at = time.monotonic() + 2**actor.attempts
                self._dead.append(actor)
            self._changed.notify_all()

    def _is_final(self, error: BaseException) -> bool:
        """Whether the actor raised, rather than died: so would another."""
        died = isinstance(error, self._ray.exceptions.RayActorError | self._ray.exceptions.OutOfMemoryError)
        return not died or getattr(error, "actor_init_failed", False)


def _reason(error: BaseException) -> str:
    cause = getattr(error, "cause", None)  # of Ray's error
    if isinstance(cause, FedsimError):
        return str(cause)
    line = str(error).strip().splitlines()[-1]
    return f"{line}. Is all that the configuration names installed there?"
