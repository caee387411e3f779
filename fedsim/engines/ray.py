"""The ``ray`` engine: a Flower Grid over resident Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.ray_actor import ClientActor, lighten
from fedsim.engines.ray_cluster import check_room, connect, environment_variables, import_ray
from fedsim.engines.simulated import Answer, AppFactory, SimulatedGrid, failure
from fedsim.errors import FedsimError

ATTEMPTS = 3
"""How often a message is delivered when each time the actor is lost with it: its client may be the cause."""

START_SECONDS = 600
"""How long an actor may take to start, imports and data set included."""


@dataclass
class _Actor:
    """One of the engine's actors, and after it is lost, its replacement.

    Attributes:
        handle: Ray's.
        starting: reference to what the actor's ``start`` returns.
        pid: of its process, on its node; ``None`` until it has started.
        abandoned: whether it was killed because nobody waits for its answer any more.
    """

    handle: Any
    starting: Any
    pid: int | None = None
    abandoned: bool = False


@ENGINES.register("ray")
class RayGrid(SimulatedGrid):
    """Resident Ray actors over the clients, on this machine or on a cluster.

    Each actor takes the next client of the cohort when it is done with the one before. The arrays of a
    round are put into Ray's object store once and fetched once by each actor; data sets are opened by the
    actors on their own nodes. An actor that is lost is replaced, and its client is done again from the
    state it had: the results are those of ``local``, whatever the number of actors. Clients' states live
    here, not in the actors. (Between this process and its actors Ray pickles; nothing from elsewhere does.)

    Args:
        app: makes the client side; it is pickled and called in each actor.
        clients: number of simulated clients.
        workers: actors.
        address: of a Ray cluster, such as ``"10.0.0.1:6379"`` or ``"auto"``; by default Ray is started here.
            A Ray that this process uses already is used as it is.
        cpus: cores that Ray reserves for an actor; an actor computes with one thread in any case.
        gpus: GPUs that Ray reserves for an actor; with 0.5 two actors share one.
        object_store_mb: size of the object store of a Ray that is started here; more goes to disk.

    Raises:
        FedsimError: Ray is not installed, the cluster cannot be reached or has no room for the actors, or
            the app cannot be made on a node.
    """

    def __init__(
        self,
        app: AppFactory,
        clients: int,
        workers: int = 1,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        object_store_mb: int = 200,
    ) -> None:
        if isinstance(app, ClientApp):
            raise FedsimError(
                "The engine 'ray' needs a function that makes the ClientApp, as each actor makes its own."
            )
        super().__init__(clients, workers)
        self._ray = import_ray()
        self._make_app = app
        self._lock = threading.Lock()
        self._working: dict[str, _Actor] = {}
        self._stored: dict[str, tuple[ArrayRecord, Any]] = {}
        self._closed = False
        self._owns_ray = connect(self._ray, address, workers * cpus, object_store_mb)
        self._actors: list[_Actor] = []
        try:
            check_room(self._ray, workers, cpus)
            self._remote = self._ray.remote(ClientActor).options(
                num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": environment_variables()}
            )
            self._actors = [self._spawn() for _ in range(workers)]
            for actor in self._actors:
                self._await_start(actor)
        except self._ray.exceptions.RayActorError as error:
            self.close()
            raise FedsimError(f"A Ray actor was lost while it started: {_last_line(error)}") from error
        except BaseException:
            self.close()
            raise
        self._idle: queue.SimpleQueue[_Actor] = queue.SimpleQueue()
        for actor in self._actors:
            self._idle.put(actor)

    @property
    def pids(self) -> list[int | None]:
        """The actors' process ids, each on its node; ``None`` for one that is being replaced."""
        return [actor.pid for actor in self._actors]

    def close(self) -> None:
        """End the actors, and Ray if it was started or joined for them."""
        if self._closed:
            return
        self._closed = True
        if self._ray.is_initialized():
            for actor in self._actors:
                self._ray.kill(actor.handle)
        super().close()
        if self._owns_ray:
            self._ray.shutdown()

    def _deliver(self, message: Message, state: RecordDict | None) -> Answer:
        for _ in range(ATTEMPTS):
            actor = self._idle.get()
            try:
                answer = self._ask(actor, message, state)
            finally:
                self._idle.put(actor)
            if answer is not None:
                return answer
        return failure(message, f"the worker process was lost {ATTEMPTS} times while it worked for this client")

    def _ask(self, actor: _Actor, message: Message, state: RecordDict | None) -> Answer | None:
        """The client's answer; ``None`` if the actor was lost, which is then replaced."""
        errors = self._ray.exceptions
        message_id = message.metadata.message_id
        with self._lock:
            self._working[message_id] = actor
        try:
            self._await_start(actor)
            light, keys, arrays = lighten(message)
            stored = {key: self._store(key, record) for key, record in arrays.items()}
            answer: Answer = self._ray.get(actor.handle.answer.remote(light, keys, stored, state))
        except (errors.RayActorError, errors.ObjectLostError) as error:
            with self._lock:  # a late _abandon must not hit the replacement
                del self._working[message_id]
            if self._closed:
                raise CancelledError from error
            abandoned = actor.abandoned
            self._replace(actor)
            if abandoned:
                raise CancelledError from error
            return None
        finally:
            with self._lock:
                self._working.pop(message_id, None)
        return answer

    def _store(self, key: str, record: ArrayRecord) -> Any:
        """A reference to the record in the object store; the same record is put there once."""
        with self._lock:
            last = self._stored.get(key)
            if last is None or last[0] is not record:
                last = self._stored[key] = (record, self._ray.put(record))
            return last[1]

    def _abandon(self, message_id: str) -> None:
        super()._abandon(message_id)
        with self._lock:
            actor = self._working.get(message_id)
            if actor is not None:  # it may hang for ever, and the next round needs it
                actor.abandoned = True
                self._ray.kill(actor.handle)

    def _spawn(self) -> _Actor:
        handle = self._remote.remote(self._make_app, self._clients)
        return _Actor(handle, handle.start.remote())

    def _replace(self, actor: _Actor) -> None:
        """Put a new actor in the place of a lost one; it starts in the background."""
        self._ray.kill(actor.handle)
        new = self._spawn()
        actor.handle, actor.starting, actor.pid, actor.abandoned = new.handle, new.starting, None, False

    def _await_start(self, actor: _Actor) -> None:
        if actor.pid is not None:
            return
        errors = self._ray.exceptions
        try:
            actor.pid = self._ray.get(actor.starting, timeout=START_SECONDS)
        except errors.GetTimeoutError as error:
            raise FedsimError(
                f"A Ray actor did not start within {START_SECONDS} seconds. Is the cluster busy with other work?"
            ) from error
        except errors.RayTaskError as error:
            problem = error.cause if isinstance(error.cause, FedsimError) else _last_line(error)
            raise FedsimError(f"A Ray actor cannot work on its node: {problem}") from error
        except errors.RayActorError as error:
            if not error.actor_init_failed:
                raise
            raise FedsimError(
                f"A Ray actor cannot work on its node: {_last_line(error)}. Is fedsim, with everything that the "
                "configuration names, installed on every node?"
            ) from error


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
