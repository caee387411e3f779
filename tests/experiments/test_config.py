"""The configuration: every mistake is named, with the remedy."""

from pathlib import Path

import pytest

from experiments import config
from fedsim.errors import FedsimError

TEXT = """
name = "one"
[data]
clients = 5
partition = { name = "dirichlet", alpha = 0.5 }
[training]
rounds = 3
[[attacks]]
name = "dlg"
rounds = ["first", 3]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "one.toml").write_text(TEXT)
    return tmp_path / "one.toml"


def test_overrides_reach_tables_parts_and_lists(path: Path) -> None:
    found = config.load(
        path, ["training.rounds=20", "attacks.0.iterations=7", "model.name=lenet", "selection.clients_per_round=2"]
    )
    assert (found.training.rounds, found.model.name, found.selection.clients_per_round) == (20, "lenet", 2)
    assert found.attacks[0].parameters == {"iterations": 7}
    assert found.data.partition.parameters == {"alpha": 0.5}


def test_a_written_configuration_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    found = config.load(path, ["training.local_steps=3", 'training.batch_size="full"'])
    (tmp_path / "again.toml").write_text(found.to_toml())
    assert config.load(tmp_path / "again.toml") == found


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.ronds=3", ["training.ronds", "'rounds'"]),
        ("trainin.rounds=3", ["trainin", "'training'"]),
        ("training.rounds=abc", ["training.rounds = 'abc'", "integer"]),
        ('training.rounds="3"', ["training.rounds = '3'", "integer"]),
        ("training.rounds=0", ["training.rounds = 0", "greater than or equal to 1"]),
        ("training.algorithm=fedsdg", ["training.algorithm = 'fedsdg'", "fedsgd"]),
        ("attacks.0.grants=['label']", ["attacks.0.grants.0 = 'label'", "labels"]),
        ("attacks.3.iterations=1", ["no entry 3 of 1"]),
        ("rounds", ["KEY=VALUE"]),
        ("seed=0.5", ["seed = 0.5"]),
    ],
)
def test_mistakes_are_named(path: Path, override: str, words: list[str]) -> None:
    with pytest.raises(FedsimError) as error:
        config.load(path, [override])
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no such file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[data\nname=1")
    with pytest.raises(FedsimError, match="not TOML"):
        config.load(tmp_path / "bad.toml")


def test_two_attacks_of_one_label_are_refused(path: Path) -> None:
    path.write_text(TEXT + '\n[[attacks]]\nname = "dlg"\n')
    with pytest.raises(FedsimError, match="two attacks are called 'dlg'"):
        config.load(path)
