"""README and docs: their configurations are accepted, their links lead somewhere, and no attack is left out."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adversary import ATTACKS
from clients.defences import DEFENCES
from experiments import Experiment, config
from experiments.campaigns import campaign_of
from fedsim.models import MODELS
from fedsim.registry import Registry

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> Iterator[tuple[str, str]]:
    fenced = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        for number, block in enumerate(fenced.findall(page.read_text())):
            yield f"{page.relative_to(ROOT)}-{number}", block


def _configurations() -> Iterator[tuple[str, str]]:
    for where, block in _blocks("toml"):
        lines = block.splitlines()
        alternatives = lines if all(line.startswith("defences = ") for line in lines) else [block]
        for number, text in enumerate(alternatives):
            yield f"{where}-{number}", text


CONFIGURATIONS = dict(_configurations())


@pytest.mark.parametrize("where", CONFIGURATIONS)
def test_configurations_are_accepted_and_their_parts_can_be_made(where: str) -> None:
    experiment = Experiment.of(tomllib.loads(CONFIGURATIONS[where]))
    assert len(experiment.defences) == len(experiment.config.defences)
    for table in experiment.config.attacks:
        needs = campaign_of(experiment.config, table).attack.needs
        assert needs.grants <= set(table.grants)
        assert needs.observations is None or table.observations <= needs.observations


def test_commands_with_a_configuration_can_be_given() -> None:
    commands = [line for _, block in _blocks("sh") for line in block.splitlines() if line.startswith("fedsim r")]
    assert commands
    for command in commands:
        _, _, path, *words = shlex.split(command, comments=True)
        changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert Experiment(config.load(ROOT / path, changes)).config


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_make_targets_named_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= targets, page.name


@pytest.mark.parametrize(
    ("registry", "page"),
    [(ATTACKS, "attacks.md"), (DEFENCES, "defences.md"), (MODELS, None)],
    ids=["attacks", "defences", "models"],
)
def test_every_part_is_named(registry: Registry[Any], page: str | None) -> None:
    texts = [README] if page is None else [README, (ROOT / "docs" / page).read_text()]
    for name in registry.names():
        for text in texts:
            assert f"`{name}`" in text, name
