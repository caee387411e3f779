"""Random numbers depend on the seed and the path, and on nothing else."""

import threading

import torch

from fedsim import seeding


def test_same_path_same_numbers_and_another_path_others() -> None:
    first = torch.rand(5, generator=seeding.generator(3, "client", 7, "round", 1))
    assert torch.equal(first, torch.rand(5, generator=seeding.generator(3, "client", 7, "round", 1)))
    for seed, *path in [(4, "client", 7, "round", 1), (3, "client", 8, "round", 1), (3, "client", "7", "round", 1)]:
        assert not torch.equal(first, torch.rand(5, generator=seeding.generator(seed, *path)))


def test_paths_are_not_glued_together() -> None:
    assert seeding.derive(0, "a", "bc") != seeding.derive(0, "ab", "c")
    assert seeding.derive(0, "client", 12) != seeding.derive(0, "client", 1, 2)


def test_the_global_state_is_given_back_and_threads_do_not_mix() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    found: dict[int, torch.Tensor] = {}

    def build(number: int) -> None:
        with seeding.borrowed_global_state(number, "model"):
            found[number] = torch.rand(1000)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.rand(3), expected)
    for number, values in found.items():
        with seeding.borrowed_global_state(number, "model"):
            assert torch.equal(values, torch.rand(1000))
