"""Parts that are swapped by name: a registry maps a name to what makes the part.

Third parties add parts by entry points of the registry's group (``fedsim.attacks``,
``fedsim.selectors``, ...); they are loaded when a name is first looked up.
"""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from fedsim.errors import FedsimError, invalid, nearest, unknown

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Names of parts of one kind, and the factories that make them.

    Args:
        kind: what one part is called in messages, e.g. ``"attack"``.
        group: the entry-point group third parties register under.
        imports: whether ``module:callable`` is accepted in place of a name.
    """

    def __init__(self, kind: str, group: str, *, imports: bool = False) -> None:
        self.kind = kind
        self.group = group
        self.imports = imports
        self._factories: dict[str, Callable[..., T]] = {}
        self._entry_points_loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator: make the function or class below available as ``name``."""

        def enter(factory: F) -> F:
            if name in self._factories:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._factories[name] = factory
            return factory

        return enter

    def names(self) -> list[str]:
        """All names, sorted, third parties' included."""
        self._load_entry_points()
        return sorted(self._factories)

    def factory(self, name: str) -> Callable[..., T]:
        """What makes the part of this name.

        Raises:
            FedsimError: nothing has this name; the message suggests the nearest one.
        """
        if self.imports and ":" in name:
            return typing.cast("Callable[..., T]", import_callable(self.kind, name))
        if name not in self._factories:
            self._load_entry_points()
        if name not in self._factories:
            raise unknown(self.kind, name, self._factories)
        return self._factories[name]

    def create(self, name: str, *given: Any, **parameters: Any) -> T:
        """Make the part ``name`` from what the program gives and the parameters the user wrote.

        Raises:
            FedsimError: unknown name, unknown parameter, or a value of the wrong type.
        """
        return self.factory(name)(*given, **self.check(name, parameters, given=len(given)))

    def check(self, name: str, parameters: Mapping[str, Any], *, given: int = 0) -> dict[str, Any]:
        """The parameters, coerced to the types that the factory declares.

        Args:
            name: the part.
            parameters: as the user wrote them.
            given: how many leading arguments the program fills in itself.

        Raises:
            FedsimError: a parameter is unknown, missing, or of the wrong type.
        """
        factory = self.factory(name)
        signature = inspect.signature(factory)
        accepted = list(signature.parameters.values())[given:]
        if any(p.kind is p.VAR_KEYWORD for p in accepted):
            return dict(parameters)
        known = {p.name: p for p in accepted if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        for key, value in parameters.items():
            if key not in known:
                raise invalid(f"{self.kind} {name}: {key}", value, "no such parameter", nearest(key, known))
        for key, parameter in known.items():
            if parameter.default is parameter.empty and key not in parameters:
                raise FedsimError(f"{self.kind} {name}: the parameter {key!r} is missing. Add it beside the name.")
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
        return {
            key: _coerce(f"{self.kind} {name}: {key}", value, hints.get(key, Any)) for key, value in parameters.items()
        }

    def summary(self, name: str) -> str:
        """The first line of the part's docstring."""
        return (inspect.getdoc(self.factory(name)) or "").split("\n")[0]

    def parameters(self, name: str) -> dict[str, Any]:
        """The parameters that have a default, and their defaults."""
        found = inspect.signature(self.factory(name)).parameters.values()
        return {p.name: p.default for p in found if p.default is not p.empty}

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        for entry in entry_points(group=self.group):
            if entry.name not in self._factories:
                self._factories[entry.name] = entry.load()


def import_callable(kind: str, path: str) -> Callable[..., Any]:
    """The callable that ``module:callable`` names, for parts of the user's own.

    Raises:
        FedsimError: the module cannot be imported or has no such callable.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise invalid(kind, path, f"cannot import {module_name!r} ({error})", "Is it on PYTHONPATH?") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [name for name, value in vars(module).items() if callable(value)]
        raise invalid(kind, path, f"{module_name} has no callable {attribute!r}", nearest(attribute, public))
    return typing.cast("Callable[..., Any]", found)


def _coerce(field: str, value: Any, hint: Any) -> Any:
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise invalid(field, value, problem[0].lower() + problem[1:], "Give a value of that kind") from error


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # the hint is a model of its own and brings its configuration along
        return TypeAdapter(hint)
