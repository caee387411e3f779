"""A forked process that answers for clients, and shares what its parent has loaded."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
from multiprocessing.connection import Connection

import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from fedsim.engines.simulated import Answer, complete, deliver, lighten
from fedsim.engines.turns import Turn

LOOK_AROUND = 5.0
"""Seconds between a child's looks whether its parent still lives."""

PROTOCOL = 5  # of pickle: arrays as they lie in memory

_forking = threading.Lock()


class Child:
    """The parent's side of the process.

    The arrays that the messages of a round share are sent once. (What is pickled here goes between a
    process and its own fork, over a pipe of theirs.)

    Args:
        app: the client side.
        clients: number of simulated clients.
    """

    def __init__(self, app: ClientApp, clients: int) -> None:
        fork = multiprocessing.get_context("fork")
        with _forking:
            self._pipe, theirs = fork.Pipe()
            self._process = fork.Process(target=_serve, args=(theirs, app, clients, os.getpid()), daemon=True)
            self._process.start()
            theirs.close()
        self._sent: dict[str, ArrayRecord] = {}
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._tickets = 0
        self._served = 0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def ask(self, turn: Turn[Answer]) -> Answer:
        """A client's answer; may be called while another is awaited, after which it then comes.

        Raises:
            EOFError, OSError: the process ended before it answered; ``turn.started`` is ``None`` if it had
                not begun.
        """
        turn.started = None
        with self._sending:
            light, keys, arrays = lighten(turn.message)
            news = {key: record for key, record in arrays.items() if self._sent.get(key) is not record}
            self._sent |= news
            self._pipe.send_bytes(pickle.dumps((light, keys, list(arrays), news, turn.state), PROTOCOL))
            ticket, self._tickets = self._tickets, self._tickets + 1
        with self._changed:
            self._changed.wait_for(lambda: self._served in (ticket, -1))
            if self._served < 0:
                raise EOFError
        turn.started = time.monotonic()
        try:
            packed = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._serve_next(-1)
            raise
        self._serve_next(ticket + 1)
        answer: Answer = pickle.loads(packed)  # noqa: S301  (from our own fork)
        return answer

    def _serve_next(self, ticket: int) -> None:
        with self._changed:
            self._served = ticket
            self._changed.notify_all()

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, app: ClientApp, clients: int, parent: int) -> None:
    """Answer as long as the parent lives; it alone is told to stop, and ends its children then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    gc.freeze()  # what the parent made is not looked through, and so not copied, either
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    known: dict[str, ArrayRecord] = {}
    while True:
        try:
            light, keys, held, news, state = pickle.loads(pipe.recv_bytes())  # noqa: S301  (from our own parent)
        except EOFError:
            os._exit(0)
        known |= news
        answer = deliver(app, complete(light, keys, {key: known[key] for key in held}), clients, state)
        pipe.send_bytes(pickle.dumps(answer, PROTOCOL))


def _watch(parent: int) -> None:
    """End with the parent. No end of file tells, as processes that were forked later hold its end of the pipe."""
    while os.getppid() == parent:
        time.sleep(LOOK_AROUND)
    os._exit(1)
