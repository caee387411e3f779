"""A crew of actors over a Ray of paper: who stands ready when actors start, die young, or cannot start."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.engines.ray_crew import ATTEMPTS, Actor, Crew
from fedsim.errors import FedsimError


class DiedError(Exception):
    pass


class PaperRay:
    """Actors that start, or do not, as the plan says: a process id, or what ``start`` raises, or ``None`` for later."""

    exceptions = SimpleNamespace(RayActorError=DiedError, OutOfMemoryError=MemoryError)

    def __init__(self, *plan: int | Exception | None) -> None:
        self.plan = list(plan)
        self.made: list[Future[int]] = []
        self.killed: list[Any] = []

    def make(self) -> Any:
        start: Future[int] = Future()
        self.made.append(start)
        outcome = self.plan.pop(0)
        if isinstance(outcome, int):
            start.set_result(outcome)
        elif outcome is not None:
            start.set_exception(outcome)
        return SimpleNamespace(start=SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: start)))

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when somebody waits for it."""
    now = SimpleNamespace(seconds=0.0)

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        assert timeout is not None, "would wait for ever"
        now.seconds += timeout
        return False

    monkeypatch.setattr("fedsim.engines.ray_crew.time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(threading.Condition, "wait", wait)
    monkeypatch.setattr("threading._time", lambda: now.seconds)  # what wait_for counts
    return now


def started(ray: PaperRay, size: int) -> tuple[Crew, list[Actor]]:
    crew = Crew(ray, ray.make, size)
    return crew, [crew.take() for _ in range(size)]


def test_a_lost_actor_is_replaced_and_the_others_go_on_meanwhile() -> None:
    ray = PaperRay(1, 2, None)
    crew, (one, two) = started(ray, 2)
    crew.lose(one)
    crew.give_back(two)
    assert crew.take() is two
    assert sorted(crew.pids, key=str) == [2, None]
    ray.made[-1].set_result(3)
    assert crew.take().pid == 3
    assert ray.killed == [one.handle]


def test_a_replacement_that_dies_young_is_tried_again_ever_later(clock: SimpleNamespace) -> None:
    crew, (only,) = started(PaperRay(1, *[DiedError()] * 3, 5), 1)
    crew.lose(only)
    assert crew.take().pid == 5
    assert clock.seconds == 1 + 2 + 4


def test_replacements_that_only_die_are_an_error_in_the_end(clock: SimpleNamespace) -> None:
    crew, (only,) = started(PaperRay(1, *[DiedError()] * ATTEMPTS), 1)
    crew.lose(only)
    with pytest.raises(FedsimError, match="No Ray actor is left"):
        crew.take()
    assert clock.seconds == 2**ATTEMPTS - 1


def test_a_replacement_that_cannot_work_is_done_without_while_others_can(clock: SimpleNamespace) -> None:
    crew, (one, two) = started(PaperRay(1, 2, ImportError("No module named 'torch'"), ImportError("no")), 2)
    crew.lose(one)
    crew.give_back(two)
    assert crew.take() is two
    assert crew.pids == [2]
    crew.lose(two)
    with pytest.raises(FedsimError, match="cannot work on its node: no"):
        crew.take()
    assert clock.seconds == 0


@pytest.mark.parametrize(
    ("outcome", "words"),
    [(DiedError(), "memory"), (ImportError("No module named 'flwr'"), "'flwr'"), (None, "600 seconds")],
)
def test_a_crew_is_complete_or_not_at_all(outcome: Exception | None, words: str) -> None:
    ray = PaperRay(1, outcome)
    with pytest.raises(FedsimError, match=words):
        Crew(ray, ray.make, 2)
    assert ray.killed
