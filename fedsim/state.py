"""Nested state on disk: JSON for the structure, safetensors for the tensors in it; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedsim.errors import FedsimError

_PLAIN = (bool, int, float, str, type(None))
_MAPPINGS = {"metrics": MetricRecord, "config": ConfigRecord, "records": RecordDict, "mapping": dict}


def save(state: Any, path: Path) -> None:
    """Write ``path.json`` and ``path.safetensors``.

    Args:
        state: numbers, strings, ``None``, tensors, NumPy arrays, Flower's records, and lists, tuples and
            mappings of these; keys may be numbers too.
        path: without ending.

    Raises:
        TypeError: something else is in it; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    structure = _encode(state, "state", tensors)
    save_file(tensors, path.with_suffix(".safetensors"))
    path.with_suffix(".json").write_text(json.dumps(structure))


def load(path: Path) -> Any:
    """What ``save`` was given; mappings come back as dictionaries.

    Raises:
        FedsimError: missing or damaged.
    """
    try:
        tensors = load_file(path.with_suffix(".safetensors"))
        return _decode(json.loads(path.with_suffix(".json").read_text()), tensors)
    except (OSError, ValueError, KeyError, IndexError, TypeError, SafetensorError) as error:
        raise FedsimError(f"{path}: the state is missing or damaged ({error}). Remove it and start anew.") from error


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        kind = "tensor" if isinstance(value, Tensor) else "ndarray"
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
        tensors[where] = tensor.contiguous().clone()  # a view shares memory, which safetensors refuses
        return [kind, where]
    if isinstance(value, ArrayRecord):
        inner = [[name, _encode(array.numpy(), f"{where}.{name}", tensors)] for name, array in value.items()]
        return ["arrays", inner]
    if isinstance(value, Mapping):
        items = [[key, _encode(item, f"{where}.{key}", tensors)] for key, item in value.items()]
        if all(isinstance(key, str | int) for key, _ in items):
            return [next((kind for kind, made in _MAPPINGS.items() if isinstance(value, made)), "mapping"), items]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_encode(item, f"{where}.{number}", tensors) for number, item in enumerate(value)]]
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "ndarray":
        return tensors[content].numpy()
    if kind == "arrays":
        return ArrayRecord({name: Array(_decode(array, tensors)) for name, array in content})
    if kind in _MAPPINGS:
        return _MAPPINGS[kind]({key: _decode(item, tensors) for key, item in content})
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def encodable(value: Any) -> bool:
    """Whether ``save`` takes the value."""
    try:
        _encode(value, "state", {})
    except TypeError:
        return False
    return True
