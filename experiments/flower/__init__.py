"""fedsim on Flower's own runtime: the app that ``flwr run`` starts, and a federation of processes on one machine."""

from __future__ import annotations

import os

# Before each run, a SuperLink that ``flwr run`` starts installs the app's dependencies into an environment of
# the run's own. fedsim is not in it, and where fedsim is installed, so is all that it needs. The command
# imports this package to check the app, hence before it starts the SuperLink. Set to 0, Flower installs.
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
