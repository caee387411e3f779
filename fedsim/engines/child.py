"""A forked process that answers for clients, and shares what its parent has loaded."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from fedsim.engines.simulated import Answer, complete, deliver, lighten
from fedsim.engines.turns import Turn

LOOK_AROUND = 5.0
"""Seconds between a child's looks whether its parent still lives."""

PROTOCOL = 5  # of pickle: arrays as they lie in memory

BUFFER = 1 << 20
"""Bytes on their way that nobody needs to wait for, as far as the system allows."""

_forking = threading.Lock()


class Child:
    """The parent's side of the process; one thread at a time may use it.

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
            for end in (self._pipe, theirs):
                _widen(end)
            self._process = fork.Process(target=_serve, args=(theirs, app, clients, os.getpid()), daemon=True)
            self._process.start()
            theirs.close()
        self._held: dict[int, ArrayRecord] = {}
        self._serials = itertools.count()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid or 0

    def send(self, bunch: Sequence[Turn[Answer]]) -> None:
        """Give it messages to answer, after those that it has already.

        Raises:
            OSError: the process has ended.
        """
        held: dict[int, ArrayRecord] = {}
        news: dict[int, ArrayRecord] = {}
        parcels = []
        for turn in bunch:
            light, keys, arrays = lighten(turn.message)
            serials = {key: self._serial(record, held, news) for key, record in arrays.items()}
            parcels.append((light, keys, serials, turn.state))
        self._held = held
        self._pipe.send_bytes(pickle.dumps((news, parcels), PROTOCOL))

    def receive(self) -> list[Answer]:
        """The answers to the bunch sent first of those that are not answered yet; waits for them.

        Raises:
            EOFError, OSError: the process ended before.
        """
        answers: list[Answer] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301  (from our own fork)
        return answers

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self._process.kill()
        self._process.join()

    def _serial(self, record: ArrayRecord, held: dict[int, ArrayRecord], news: dict[int, ArrayRecord]) -> int:
        """The number under which the process has these arrays, or gets them now; the others it forgets."""
        for serial, known in itertools.chain(held.items(), self._held.items()):
            if known is record:
                held[serial] = record
                return serial
        serial = next(self._serials)
        held[serial] = news[serial] = record
        return serial


def _serve(pipe: Connection, app: ClientApp, clients: int, parent: int) -> None:
    """Answer as long as the parent lives; it alone is told to stop, and ends its children then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    gc.freeze()  # what the parent made is not looked through, and so not copied, either
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, inbox), daemon=True).start()
    known: dict[int, ArrayRecord] = {}
    while True:
        news, parcels = pickle.loads(inbox.get())  # noqa: S301  (from our own parent)
        known |= news
        known = {serial: known[serial] for _, _, serials, _ in parcels for serial in serials.values()}
        answers = []
        for light, keys, serials, state in parcels:
            message = complete(light, keys, {key: known[serial] for key, serial in serials.items()})
            answers.append(deliver(app, message, clients, state))
        pipe.send_bytes(pickle.dumps(answers, PROTOCOL))


def _read(pipe: Connection, inbox: queue.SimpleQueue[bytes]) -> None:
    """Take what comes at once, whoever computes: the parent, busy with a long message, would not read the answers."""
    while True:
        try:
            inbox.put(pipe.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _watch(parent: int) -> None:
    """End with the parent. No end of file tells, as processes that were forked later hold its end of the pipe."""
    while os.getppid() == parent:
        time.sleep(LOOK_AROUND)
    os._exit(1)


def _widen(end: Connection) -> None:
    with socket.socket(fileno=os.dup(end.fileno())) as widened:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            widened.setsockopt(socket.SOL_SOCKET, option, BUFFER)
