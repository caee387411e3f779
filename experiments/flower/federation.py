"""A real Flower federation on this machine: a SuperLink, and a SuperNode for each client, each its own process.

``python -m experiments.flower.federation [CONFIG] [--set KEY=VALUE]... [--out DIR]`` starts them, has Flower
run the experiment on them by ``flwr run``, and ends them, whatever happens. They listen on the loopback
interface alone and talk without TLS (Flower's ``--insecure``): nothing of it is meant for a network.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated

import httpx
import tomli_w
import typer

from experiments.experiment import Experiment
from experiments.flower.app import ROOT
from experiments.run_folder import RunFolder
from fedsim.errors import FedsimError

HOST = "127.0.0.1"
START = 60
"""Seconds that the SuperLink may take to start."""

STOP = 10
"""Seconds that processes may take to end when asked to, before they are killed."""

DEFAULT = ROOT / "experiments" / "configs" / "federation.toml"


class Federation:
    """A SuperLink and its SuperNodes, running while the ``with`` block does.

    Args:
        nodes: number of SuperNodes; node ``i`` is client ``i``.
        logs: folder for what each process says, a file each.

    Raises:
        FedsimError: Flower's commands are not installed, or a process does not start.
    """

    def __init__(self, nodes: int, logs: Path) -> None:
        self._nodes = nodes
        self._logs = logs
        self._home = Path()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Federation:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(prefix="fedsim-federation-"))
        try:
            link, *nodes = _free_ports(1 + self._nodes)
            self.address = f"{HOST}:{link}"
            insecure = ["--insecure", "--host", HOST, "--port"]
            self._start(
                "superlink", "flower-superlink", *insecure, str(link), "--disable-runtime-dependency-installation"
            )
            self._wait_for_superlink()
            for i, port in enumerate(nodes):
                config = f"partition-id={i} num-partitions={self._nodes}"
                connection = ["--superlink", self.address, "--node-config", config]
                self._start(f"supernode-{i}", "flower-supernode", *insecure, str(port), *connection)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, app: Path, run_config: dict[str, str | int | float | bool]) -> None:
        """Run a Flower app on the federation, with its log on standard output.

        Args:
            app: folder of the app's ``pyproject.toml``.
            run_config: replaces values of ``[tool.flwr.app.config]``.

        Raises:
            FedsimError: Flower did not take the app.
        """
        home = self._home / "flwr"
        home.mkdir()
        connection = {"address": self.address, "insecure": True}
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "here", "here": connection}}))
        (home / "run.toml").write_text(tomli_w.dumps(run_config))
        command = [_command("flwr"), "run", str(app), "--stream", "--run-config", str(home / "run.toml")]
        process = subprocess.Popen(command, env=self._environment("flwr"), start_new_session=True)  # noqa: S603
        self._processes["flwr"] = process
        if process.wait():
            raise FedsimError(f"flwr run failed with exit code {process.returncode}; its message is above.")

    def _start(self, name: str, command: str, *arguments: str) -> None:
        # A session of its own: what a process starts in turn is ended with it, and Ctrl-C reaches it through us.
        with (self._logs / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(  # noqa: S603
                [_command(command), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(name),
                start_new_session=True,
            )

    def _environment(self, name: str) -> dict[str, str]:
        scripts = str(Path(sys.executable).parent)
        return os.environ | {
            # A home each, as on machines of their own: SuperNodes that unpack the app into the same folder race.
            "FLWR_HOME": str(self._home / name),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": HOST,
            "no_proxy": HOST,
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),  # Flower starts its commands by name
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }

    def _wait_for_superlink(self) -> None:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self._processes["superlink"].poll() is None:
            try:
                if httpx.get(f"http://{self.address}/health", timeout=1, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise FedsimError(f"The SuperLink did not start within {START} seconds. See {self._logs / 'superlink.log'}.")

    def _stop(self) -> None:
        """End all processes and those that they started, the SuperLink last."""
        for number, seconds in ((signal.SIGTERM, STOP), (signal.SIGKILL, STOP)):
            deadline = time.monotonic() + seconds
            for process in reversed(self._processes.values()):
                _signal_group(process.pid, number)
            while time.monotonic() < deadline and any(_lives(process) for process in self._processes.values()):
                time.sleep(0.1)
        shutil.rmtree(self._home, ignore_errors=True)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # collects it if it has ended, for only then its group can be empty
    return _signal_group(process.pid, 0)


def _signal_group(leader: int, number: int) -> bool:
    """Send a signal to a process and all those of its session; whether there are any."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True


def _command(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise FedsimError(
            f"There is no command {name!r} beside {sys.executable} or on PATH. Install Flower: pip install flwr"
        )
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run_on_federation(config: Path, changes: Sequence[str], out: Path, *, wait: float = 120) -> Path:
    """Run an experiment on a federation of processes on this machine.

    Args:
        config: the configuration; its ``data.clients`` is the number of SuperNodes.
        changes: ``key.of.table=value``.
        out: the run folder; what the processes said is in ``flower/`` below it.
        wait: seconds to wait until all SuperNodes are connected.

    Returns:
        The run's report.

    Raises:
        FedsimError: the configuration cannot work, the folder holds a run, or the run failed.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise FedsimError(f"{ROOT} is not fedsim's repository, which flwr run needs. Run this in a clone of it.")
    experiment = Experiment.load(config, changes)
    experiment.check()
    folder = RunFolder.create(out.resolve())
    logs = folder.path / "flower"
    with Federation(experiment.config.data.clients, logs) as federation:
        federation.run(
            ROOT,
            {
                "experiment": str(config.resolve()),
                "set": shlex.join(changes),
                "out": str(folder.path),
                "wait": wait,
            },
        )
    if not folder.report.is_file():
        raise FedsimError(f"The run failed; why stands above and in {logs}.")
    return folder.report


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(128 + number)


def main(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")] = DEFAULT,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. data.clients=4.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/federation"),
) -> None:
    """Run an experiment on a real Flower federation of processes on this machine."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)  # so that the processes are ended then too
    try:
        report = run_on_federation(config, changes or [], out)
    except FedsimError as error:
        typer.echo(f"Error {error}", err=True)
        sys.exit(2)
    typer.echo(f"Report: {report}")


if __name__ == "__main__":
    typer.run(main)
