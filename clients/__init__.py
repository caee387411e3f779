"""The client side: local training, client-side defences, self-reported profiles."""

from clients.app import Environment, client_app
from clients.batches import batches

__all__ = ["Environment", "batches", "client_app"]
