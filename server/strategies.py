"""Aggregation strategies by name: FedAvg, FedSGD, and Flower's own others."""

from __future__ import annotations

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fedsim.registry import Registry
from server.fedavg import FedAvg
from server.fedsgd import FedSGD

STRATEGIES: Registry[Strategy] = Registry("strategy", "fedsim.strategies", imports=True)

STRATEGIES.register("fedsgd")(FedSGD)
STRATEGIES.register("fedavg")(FedAvg)
STRATEGIES.register("fedavgm")(flower.FedAvgM)
STRATEGIES.register("fedadam")(flower.FedAdam)
STRATEGIES.register("fedadagrad")(flower.FedAdagrad)
STRATEGIES.register("fedyogi")(flower.FedYogi)
STRATEGIES.register("fedprox")(flower.FedProx)
STRATEGIES.register("fedmedian")(flower.FedMedian)
STRATEGIES.register("fedtrimmedavg")(flower.FedTrimmedAvg)
STRATEGIES.register("krum")(flower.Krum)
STRATEGIES.register("multikrum")(flower.MultiKrum)
STRATEGIES.register("bulyan")(flower.Bulyan)
STRATEGIES.register("qfedavg")(flower.QFedAvg)
