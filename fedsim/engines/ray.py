"""The ``ray`` engine: a Flower Grid over resident Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines import ENGINES
from fedsim.engines.ray_actor import ClientActor
from fedsim.engines.ray_cluster import check_room, connect, environment_variables, import_ray
from fedsim.engines.ray_crew import Actor, Crew
from fedsim.engines.simulated import ATTEMPTS, Answer, AppFactory, SimulatedGrid, failure, lighten
from fedsim.engines.turns import Turn
from fedsim.errors import FedsimError


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
            raise FedsimError("The engine 'ray' needs a function that makes the ClientApp: each actor makes its own.")
        super().__init__(clients, workers)
        self._ray = import_ray()
        errors = self._ray.exceptions
        self._losses = (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError)
        self._lock = threading.Lock()
        self._working: dict[str, Actor] = {}
        self._unwanted: set[str] = set()
        self._stored: dict[str, tuple[ArrayRecord, Any]] = {}
        self._crew: Crew | None = None
        self._owns_ray = connect(self._ray, address, workers * cpus, object_store_mb)
        try:
            check_room(self._ray, workers, cpus)
            actors = self._ray.remote(ClientActor).options(
                num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": environment_variables()}
            )
            self._crew = Crew(self._ray, lambda: actors.remote(app, clients), workers)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int | None]:
        """The actors' process ids, each on its node; ``None`` for one that has not started yet."""
        return self._crew.pids if self._crew else []

    def close(self) -> None:
        """End the actors, and Ray if it was started or joined for them."""
        if self._crew and self._ray.is_initialized():
            self._crew.close()
        self._crew = None
        super().close()
        if self._owns_ray:
            self._ray.shutdown()
            self._owns_ray = False

    def _deliver(self, turn: Turn[Answer]) -> Answer:
        for _ in range(ATTEMPTS):
            answer = self._ask(turn.message, turn.state)
            if answer is not None:
                return answer
        return failure(turn.message, f"the worker process died with this client in it, in each of {ATTEMPTS} attempts")

    def _ask(self, message: Message, state: RecordDict | None) -> Answer | None:
        """The client's answer; ``None`` if the actor was lost with it."""
        crew = self._crew
        if crew is None:
            raise CancelledError
        message_id = message.metadata.message_id
        actor, lost = crew.take(), False
        with self._lock:
            self._working[message_id] = actor
        try:
            if message_id in self._unwanted:
                raise CancelledError
            light, keys, arrays = lighten(message)
            stored = {key: self._store(key, record) for key, record in arrays.items()}
            answer: Answer = self._ray.get(actor.handle.answer.remote(light, keys, stored, state))
        except self._losses as error:
            lost = True
            if actor.abandoned or self._crew is None:
                raise CancelledError from error
            return None
        else:
            return answer
        finally:
            with self._lock:  # from here on _give_up cannot hit what the actor does next
                del self._working[message_id]
                self._unwanted.discard(message_id)
            if lost or actor.abandoned:
                crew.lose(actor)
            else:
                crew.give_back(actor)

    def _give_up(self, turn: Turn[Answer]) -> bool:
        message_id = turn.message.metadata.message_id
        with self._lock:
            self._unwanted.add(message_id)
            actor = self._working.get(message_id)
            if actor is not None:  # it may hang for ever, and the next round needs it
                actor.abandoned = True
                self._ray.kill(actor.handle)
        return True

    def _store(self, key: str, record: ArrayRecord) -> Any:
        """A reference to the record in the object store; the same record is put there once."""
        with self._lock:
            last = self._stored.get(key)
            if last is None or last[0] is not record:
                last = self._stored[key] = (record, self._ray.put(record))
            return last[1]
