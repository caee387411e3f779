"""The report: complete, self-contained, safe against what is written in it, and the same every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experiments.report import charts, story, strip, write_report
from experiments.report.page import MOST_CARDS, render
from experiments.report.records import read_run
from experiments.run_folder import RunFolder
from experiments.scoring import score
from fedsim import seeding
from fedsim.errors import FedsimError

CLASSES = ["Trouser", "Bag", "Coat"]
SCRIPT = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The tags, attributes and text of a page, and whether tags are closed as they were opened."""

    VOID = ("meta", "link", "img", "circle", "rect", "path", "line", "polyline")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def images(batch: int, *path: str | int, channels: int = 1) -> Tensor:
    return torch.rand((batch, channels, 12, 12), generator=seeding.generator(0, "test", *path))


def make_run(
    path: Path,
    *,
    rounds: int = 10,
    attacked: Sequence[int] = (1, 5, 10),
    attacks: Sequence[str] = ("dlg",),
    victims: int = 3,
    batch: int = 2,
    **experiment: Any,
) -> RunFolder:
    """A run whose reconstructions get worse with the rounds."""
    folder = RunFolder.create(path)
    tables: dict[str, Any] = {
        "name": "a run",
        "seed": 3,
        "data": {"name": "fashion_mnist_small", "clients": 5},
        "model": {"name": "cnn"},
        "training": {"algorithm": "fedsgd", "batch_size": batch, "rounds": rounds, "learning_rate": 0.1},
        "attacks": [{"name": attack, "grants": ["labels"] if i else []} for i, attack in enumerate(attacks)],
        "data_set": {"classes": CLASSES},
        "versions": {"fedsim": "0.1.0"},
    }
    folder.write_experiment(tables | experiment)
    for when in range(rounds + 1):
        accuracy = 0.1 + 0.07 * when
        folder.append_metrics(
            {"round": when, "test_accuracy": accuracy, "test_loss": 2 - 0.1 * when, "train_loss": None}
        )
        folder.append_client(
            *({"round": when, "client": c, "examples": 9, "label_counts": [c, 9 - c, 0]} for c in range(4) if when)
        )
        for attack in attacks if when in attacked else ():
            for client in range(victims):
                truth = images(batch, attack, when, client)
                noise = images(batch, attack, when, client, "noise") - 0.5
                append_victim(folder, attack, when, client, truth, truth + 0.05 * when * noise)
    return folder


def append_victim(folder: RunFolder, attack: str, round: int, client: int, truth: Tensor, found: Tensor) -> None:
    labels = torch.arange(len(truth)) % 3
    scores = score(found, labels, truth, labels, lpips=False)
    picture = folder.save_picture(f"{attack}-{round}-{client}", strip(truth, truth))
    record = {"attack": attack, "round": round, "client": client, "examples": len(truth), "picture": picture}
    folder.append_attack(record | scores.record() | {"iterations": 7, "seconds": 0.5, "stopped_by": "iterations"})


def read_page(folder: RunFolder) -> Page:
    return Page(write_report(folder.path).read_text(encoding="utf-8"))


def test_the_page_tells_the_story_and_shows_every_victim(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", attacks=("dlg", "inverting_gradients"))
    page = read_page(folder)
    records = folder.read_attacks()
    first = [r["psnr"] for r in records if r["round"] == 1 and r["attack"] == "dlg"]
    assert f"nearly exact in round 1 (median {np.median(first):.1f}\u00a0dB)" in page.text
    assert "from 10.0\u00a0% to 80.0\u00a0%" in page.text
    assert f"{np.median([r['baseline_psnr'] for r in records]):.1f}" in page.text
    assert len(page.named("img")) == len(records) + 2 * 3  # the gallery, and the film of each attack
    run = read_run(folder.path)
    assert len(run.victims) == len(records) == 18
    figure = charts.draw(run)[0]
    assert sum(mark.style == "victim" for panel in figure.panels for mark in panel.marks) == 18
    assert {mark.series for panel in figure.panels for mark in panel.marks if mark.style == "victim"} == {0, 1}


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = read_page(make_run(tmp_path / "run"))
    assert not page.named("script")
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    html = (tmp_path / "run" / "report.html").read_text()
    assert "@import" not in html
    assert "url(" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_whatever_is_written_in_a_run_is_shown_as_text(tmp_path: Path) -> None:
    quote = '" onload="alert(1)'
    folder = make_run(
        tmp_path / "run",
        attacks=(SCRIPT, quote),
        name=SCRIPT,
        seed=SCRIPT,
        model={"name": SCRIPT, SCRIPT: quote},
        data_set={"classes": [SCRIPT, quote, "x"]},
        defences=[{"name": SCRIPT}],
        versions={SCRIPT: SCRIPT},
    )
    folder.append_attack({"attack": SCRIPT, "round": 5, "client": 1, "stopped_by": SCRIPT, "labels_true": [SCRIPT]})
    page = read_page(folder)
    assert not page.named("script")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(SCRIPT) > 20


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    first = write_report(folder.path).read_bytes()
    assert write_report(folder.path).read_bytes() == first
    assert make_run(tmp_path / "other" / "run").path.name == "run"
    assert write_report(tmp_path / "other" / "run").read_bytes() == first


@pytest.mark.parametrize("what", ["nothing but a configuration", "round 0", "no configuration", "no attacks"])
def test_a_run_that_has_little_yet_is_reported(tmp_path: Path, what: str) -> None:
    folder = RunFolder.create(tmp_path / "run")
    if what != "no configuration":
        folder.write_experiment({"name": "a run of little"})
    if what != "nothing but a configuration":
        folder.append_metrics({"round": 0, "test_accuracy": 0.1, "train_loss": None})
    if what == "no attacks":
        folder.append_metrics({"round": 1, "test_accuracy": 0.2, "train_loss": float("nan")})
    page = read_page(folder)
    assert "attacked nobody" in page.text
    assert ("a run of little" in page.text) == (what != "no configuration")
    assert bool(page.named("svg")) == (what != "nothing but a configuration")


def test_an_attack_that_gave_nothing_counts_as_the_grey_guess(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", attacked=(1,), victims=1)
    good = folder.read_attacks()[0]["psnr"]
    for client in (7, 8):
        folder.append_attack(
            {
                "attack": "dlg",
                "round": 1,
                "client": client,
                "psnr": float("nan"),
                "baseline_psnr": 8.0,
                "stopped_by": "diverged",
            }
        )
    run = read_run(folder.path)
    (row,) = story.rows(run)
    assert (row.victims, row.failed, row.psnr, row.highest) == (3, 2, 8.0, pytest.approx(good))
    assert row.recovered == pytest.approx(1 / 3)
    assert Page(render(run)).text.count("diverged") >= 2


def test_pictures_hold_originals_above_reconstructions_pixel_for_pixel() -> None:
    above, below = images(10, "above", channels=3), images(10, "below", channels=3)
    picture = np.asarray(Image.open(io.BytesIO(strip(above, below, columns=8))))
    side, pair = 12, 2 * 12 + 1
    for i in range(10):
        left, top = (i % 8) * (side + 1), (i // 8) * (pair + 4)
        for expected, y in ((above[i], top), (below[i], top + side + 1)):
            shown = picture[y : y + side, left : left + side, :3].transpose(2, 0, 1)
            assert np.abs(shown / 255 - expected.numpy()).max() <= 0.5 / 255 + 1e-6
    assert picture.shape == (2 * pair + 4, 8 * 13 - 1, 4)
    assert picture[side, 0, 3] == 0  # the gap is transparent


def test_a_strip_shows_what_is_not_finite_as_grey_and_refuses_unequal_batches() -> None:
    truth = torch.zeros(1, 1, 4, 4)
    picture = np.asarray(Image.open(io.BytesIO(strip(truth, truth * float("nan")))))
    assert (picture[5:, :, 0] == 128).all()
    with pytest.raises(ValueError, match="cannot pair"):
        strip(truth, truth[:, :, :3])


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "text.png", "link.png", "absent.png", 7, None])
def test_only_pictures_of_the_run_are_embedded(tmp_path: Path, name: object) -> None:
    folder = make_run(tmp_path / "run", attacked=())
    png = strip(images(1, "a"), images(1, "b"))
    (folder.path / "secret.png").write_bytes(png)
    (folder.pictures / "text.png").write_text("not a picture, whatever it is called")
    (folder.pictures / "link.png").symlink_to(folder.path / "secret.png")
    folder.append_attack({"attack": "dlg", "round": 1, "client": 0, "psnr": 20.0, "picture": name})
    page = read_page(folder)
    assert not page.named("img")
    assert "no picture" in page.text


def test_learning_and_leaking_stand_above_one_another_on_one_axis(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run").path)
    for figure in charts.draw(run):
        accuracy, leakage = figure.panels[:2]
        assert accuracy.bottom < leakage.top
        places = {mark.tip.split(":")[0]: mark.x for mark in accuracy.marks}
        for x, when in figure.attacked:
            assert places[f"round {when}"] == x
        medians = [mark for mark in leakage.marks if mark.style == "median"]
        assert [mark.x for mark in medians] == [x for x, _ in figure.attacked]
        assert medians[0].y < medians[1].y < medians[2].y  # worse reconstructions lie lower
        for panel in figure.panels:
            assert all(panel.top <= mark.y <= panel.bottom for mark in panel.marks)
            assert all(figure.layout.left < mark.x < figure.inner_right for mark in panel.marks)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 100), (3, 4), (0, 0.037), (-12, 63), (0, 2500)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = charts.ticks(low, high, 5)
    assert 2 <= len(found) <= 8
    assert all(low <= tick <= high for tick in found)
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1
    assert f"{steps.pop():.0e}"[0] in "125"


def test_of_many_victims_the_best_and_the_worst_are_pictured(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", attacked=())
    for client in range(30):
        truth = images(1, client)
        append_victim(folder, "dlg", 1, client, truth, truth + 0.01 * (client + 1))
    page = read_page(folder)
    alts = [image["alt"] or "" for image in page.named("img")]
    assert len(alts) == MOST_CARDS + 1
    assert any("of client 0 " in alt for alt in alts)
    assert any("of client 29 " in alt for alt in alts)
    assert f"{MOST_CARDS} of 30 victims" in page.text


def test_the_threat_model_follows_the_grants(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", attacks=("dlg", "informed"))
    folder.append_attack({"attack": "later", "round": 5, "client": 1, "psnr": 9.0, "grants": ["batch_order"]})
    page = render(read_run(folder.path))
    labels = page[page.index("The victims&#39; labels") :]
    assert (
        Page(labels[: labels.index("</tr>")].replace("</th>", "", 1)).text.split("grants it")[1]
        == "not knowngrantednot known"
    )
    order = page[page.index("Which images a local step used") :]
    assert order[: order.index("</tr>")].count('"status granted"') == 1


@pytest.mark.parametrize(
    ("psnr", "flat", "words"),
    [
        (31.0, 9.0, "nearly exact"),
        (20.0, 9.0, "recognisable"),
        (12.0, 9.0, "blurred traces"),
        (9.5, 9.0, "no better than a flat picture"),
        (35.0, 40.0, "no better than a flat picture"),
    ],
)
def test_words_follow_the_decibels_and_the_flat_picture(psnr: float, flat: float, words: str) -> None:
    assert story.verdict(psnr, flat) == words


def test_no_run_no_report(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FedsimError, match=r"is not a run|does not exist"):
            write_report(path)
    assert not (tmp_path / "report.html").exists()


def test_failed_answers_are_counted_by_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.append_client(
        *({"round": round, "client": 4, "selected": True, "failure": f"{SCRIPT} NaN"} for round in (1, 2, 3)),
        {"round": 4, "client": 4, "selected": True, "failure": "no answer in time"},
    )
    text = " ".join(Page(write_report(folder.path).read_text()).text.split())
    assert f"3 \N{MULTIPLICATION SIGN} {SCRIPT} NaN 1 \N{MULTIPLICATION SIGN} no answer in time" in text
