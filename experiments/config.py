"""Reading a configuration: one TOML file, checked as a whole before anything starts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from experiments.tables import AttackTable, Config
from fedsim.errors import FedsimError, invalid, nearest

M = TypeVar("M", bound=BaseModel)


def load(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration, change some keys, and check it.

    Args:
        path: a TOML file.
        overrides: ``key.of.table=value``, values in TOML's notation; a bare word is a string.

    Raises:
        FedsimError: missing file, not TOML, unknown key (with the nearest known one), wrong type or range.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise invalid("CONFIG", str(path), "there is no such file", "Check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("CONFIG", str(path), f"cannot be read ({error})", "Check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise invalid("CONFIG", str(path), f"is not TOML: {error}", "Mend that line") from error
    for written in ("versions", "data_set", "selector"):  # a run folder's experiment.toml is a configuration too
        tables.pop(written, None)
    for override in overrides:
        _override(tables, override)
    return check(tables)


def check(tables: dict[str, Any]) -> Config:
    """A configuration from its tables.

    Raises:
        FedsimError: as for ``load``.
    """
    return _validated(Config, tables)


def attack_table(table: dict[str, Any]) -> AttackTable:
    """An ``[[attacks]]`` table of its own.

    Raises:
        FedsimError: as for ``load``.
    """
    return _validated(AttackTable, table)


def _validated(model: type[M], tables: dict[str, Any]) -> M:
    try:
        return model.model_validate(tables)
    except ValidationError as error:
        raise FedsimError("\n".join(_explain(error.errors()))) from error


def parameters(changes: Iterable[str]) -> dict[str, Any]:
    """Parameters of one part from ``key=value`` texts, values in TOML's notation.

    Raises:
        FedsimError: not ``key=value``.
    """
    tables: dict[str, Any] = {}
    for change in changes:
        _override(tables, change)
    return tables


def _explain(problems: Iterable[Any]) -> list[str]:
    """A line for each wrong value; what its type's alternatives ask for is one line."""
    unknown: list[str] = []
    wrong: dict[str, list[str]] = {}
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"] if not _is_branch(part)) or "configuration"
        if problem["type"] == "extra_forbidden":
            known = _keys_at(problem["loc"][:-1])
            unknown.append(f"{where}: no such key. {nearest(str(problem['loc'][-1]), known)}")
            continue
        text = problem["msg"].removeprefix("Value error, ")
        value = problem["input"]
        shown = where if isinstance(value, dict | BaseModel) else f"{where} = {value!r}"
        wrong.setdefault(shown, []).append(text[0].lower() + text[1:])
    return unknown + [f"{field}: {', or '.join(texts)}. Correct it." for field, texts in wrong.items()]


def _is_branch(part: object) -> bool:
    """Pydantic adds the branch of a union to the path of a value."""
    return isinstance(part, str) and (part in {"int", "str"} or "[" in part)


def _keys_at(location: Sequence[int | str]) -> list[str]:
    model: Any = Config
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = model.model_fields[part].annotation
    model = next((branch for branch in get_args(model) if branch is not type(None)), model)
    return list(getattr(model, "model_fields", {}))


def _override(tables: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise invalid("--set", override, "is not KEY=VALUE", "Write for instance --set training.rounds=20")
    *parents, last = key.strip().split(".")
    table: Any = tables
    for parent in parents:
        table = _item(table, parent, override) if isinstance(table, list) else table.setdefault(parent, {})
    if isinstance(table, list):
        _item(table, last, override)
        table[int(last)] = _value(text)
    elif isinstance(table, dict):
        table[last] = _value(text)
    else:
        raise invalid("--set", override, f"{'.'.join(parents)} is not a table", "Check the key")


def _item(table: list[Any], position: str, override: str) -> Any:
    if not position.isdigit() or int(position) >= len(table):
        raise invalid("--set", override, f"there is no entry {position} of {len(table)}", "Count from 0")
    return table[int(position)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
