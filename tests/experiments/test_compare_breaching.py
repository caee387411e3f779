"""What the comparison with breaching hands over, and what its page claims."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from experiments.reproduce import compare_breaching
from experiments.reproduce.breaching_page import write
from experiments.reproduce.breaching_side import network
from experiments.reproduce.compare_breaching import MODELS, _layers
from fedsim import models
from fedsim.errors import FedsimError


@pytest.mark.parametrize("model", MODELS)
def test_the_network_built_from_its_description_is_the_same_function(model: str) -> None:
    """Breaching copies parameters and buffers by position, as here."""
    own = models.builder(model, (3, 32, 32), 10, seed=1)()
    other = network(_layers(own))
    with torch.no_grad():
        for mine, theirs in ((own.parameters(), other.parameters()), (own.buffers(), other.buffers())):
            for source, copy in zip(mine, theirs, strict=True):
                copy.copy_(source)
    images = torch.rand(2, 3, 32, 32)
    assert other.eval()(images).equal(own.eval()(images))


def test_a_layer_without_description_is_refused() -> None:
    with pytest.raises(FedsimError, match="Tanh"):
        _layers(nn.Sequential(nn.Flatten(), nn.Tanh()))


@pytest.mark.parametrize(
    ("psnr", "seconds", "verdict"), [(30.0, 5.0, "seconds: reached"), (30.0, 20.0, "not reached"), (10.0, 5.0, "not")]
)
def test_the_page_says_whether_the_quality_came_in_a_tenth_of_the_time(
    tmp_path: Path, psnr: float, seconds: float, verdict: str
) -> None:
    theirs: dict[str, Any] = {"psnr": 25.0, "cpu_seconds": 100.0, "seconds": 100.0}
    tried = [{"psnr": psnr, "cpu_seconds": seconds, "seconds": seconds, "iterations": 50}]
    record = {"part": "quality", "model": "cnn", "victim": 0, "iterations": 24_000, "breaching": theirs, "tried": tried}
    write([record], tmp_path / "page.md")
    (target,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("Target")]
    assert verdict in target
    assert "so far" in target
    assert "1 of 10 victims" in target


def test_what_has_a_line_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two victims one is there already; each result is a line and on the page before the next is begun."""
    run = {"psnr": 20.0, "cpu_seconds": 1.0, "seconds": 1.0, "iterations": 3}
    key = {"part": "same", "model": "lenet", "victim": 0, "iterations": 3}
    (tmp_path / "compare-breaching.jsonl").write_text(json.dumps(key | {"breaching": run, "fedsim": run}) + "\n")
    asked = []

    def measure(_: Path, model: str, victim: int, iterations: int) -> dict[str, Any]:
        asked.append((model, victim, iterations))
        assert (tmp_path / "compare-breaching.jsonl").read_text().count("\n") == victim
        return {"breaching": run, "fedsim": run | {"psnr": 31.0}}

    monkeypatch.setattr(compare_breaching, "same_iterations", measure)
    options = ["--out", str(tmp_path), "--breaching", sys.executable, "--parts", "same", "--models", "lenet"]
    monkeypatch.setattr(sys, "argv", ["compare", *options, "--victims", "3", "--iterations", "3"])
    compare_breaching.main()
    assert asked == [("lenet", 1, 3), ("lenet", 2, 3)]
    assert (tmp_path / "compare-breaching.md").read_text().count("| 31.0 |") == 2
    compare_breaching.main()
    assert len(asked) == 2


def test_a_rate_without_the_compiled_step_is_completed_by_a_call_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that is not there yet; a call without it is content with a line that has it."""
    asked = []

    def measure(_: Path, iterations: int, *, compiled: bool) -> dict[str, Any]:
        asked.append(compiled)
        ways = ["breaching", "one by one", "together", *(compare_breaching.COMPILED if compiled else ())]
        return {way: {"iterations": iterations, "seconds": 2.0, "cpu_seconds": 1.0} for way in ways}

    monkeypatch.setattr(compare_breaching, "rate", measure)
    out = tmp_path / "new" / "folder"
    options = ["compare", "--out", str(out), "--breaching", sys.executable, "--parts", "rate"]
    for more, expected in (([], 1), ([], 1), (["--compiled"], 2), (["--compiled"], 2), ([], 2)):
        monkeypatch.setattr(sys, "argv", [*options, *more])
        compare_breaching.main()
        assert len(asked) == expected
        assert (out / "compare-breaching.jsonl").read_text().count("\n") == 1
    assert asked == [False, True]
    assert (out / "compare-breaching.md").read_text().count("| compiled, again |") == 1


def test_networks_take_turns_so_that_a_run_broken_off_has_some_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--breaching", sys.executable, "--parts", "quality", "--victims", "2"])
    keys = [(job.key[1], job.key[3]) for job in compare_breaching._jobs(compare_breaching._options())]
    assert keys == [("cnn", 0), ("convnet", 0), ("cnn", 1), ("convnet", 1)]


def test_the_page_has_medians_by_the_weight_of_the_prior(tmp_path: Path) -> None:
    psnr = {"breaching": {"0.2": [10.0, 11.0, 15.0]}, "fedsim": {"0.1": [17.0, 12.0, 19.0]}}
    write([{"part": "prior", "model": "lenet", "victim": 3, "iterations": 400, **psnr}], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "400 iterations, 3 victims" in text
    assert "| breaching | 0.2 | 11.0 | 10.0 | 15.0 |" in text
    assert "| fedsim | 0.1 | 17.0 | 12.0 | 19.0 |" in text
