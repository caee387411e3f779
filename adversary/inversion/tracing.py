"""The operations of a function written down once, without those that change nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

F = TypeVar("F", bound=Callable[..., Any])

ops = torch.ops.aten
VIEWS = {ops.view.default, ops._unsafe_view.default}
RESHAPING = VIEWS | {ops.expand.default, ops.permute.default, ops.detach.default, ops.alias.default}
"""Operations that return their first argument where its shape and strides are asked for already."""


def traced(function: F, *examples: Tensor) -> fx.GraphModule:
    """The tensor operations of a function for inputs of these shapes, without the Python around them.

    ``torch.func`` transforms are gone from them, which take longer than the operations where tensors are
    small. What depends on constants alone is computed here once, what is computed twice or returns its argument
    is left out; the results stay the same to the bit.

    Args:
        function: of tensors; every tensor that it takes from elsewhere becomes a constant.
        examples: of its arguments.
    """
    _start_autograd()
    module = make_fx(function)(*examples)
    module.graph.eliminate_dead_code()
    if not any(_must_stay(node) for node in module.graph.nodes):
        _shorten(module.graph)
        _fold(module)
        module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _start_autograd() -> None:
    """Have a derivative computed outside of tracing first.

    A process whose first one is computed under ``make_fx`` starts PyTorch's threads for devices even where there are
    none; processes forked from it afterwards, such as the local engine's workers, could compute no gradient.
    """
    with torch.enable_grad():
        leaf = torch.zeros((), requires_grad=True)
        torch.autograd.grad(leaf * 2, leaf)


def _must_stay(node: fx.Node) -> bool:
    """Whether an operation writes into tensors or draws random numbers, so that no two of a kind are alike."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:  # one of an operation's several results
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags


def _fold(module: fx.GraphModule) -> None:
    """Compute what depends on constants alone."""
    constants: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            constants[node] = getattr(module, str(node.target))
        elif node.op == "call_function" and all(source in constants for source in node.all_input_nodes):
            arguments, named = (map_arg(given, constants.__getitem__) for given in (node.args, node.kwargs))
            value = node.target(*arguments, **named)
            if not isinstance(value, Tensor):
                constants[node] = value  # several results, of which each is folded where it is taken
            else:
                name = f"folded_{node.name}"
                module.register_buffer(name, value)
                with module.graph.inserting_before(node):
                    folded = module.graph.get_attr(name)
                folded.meta = dict(node.meta)
                constants[folded] = value
                node.replace_all_uses_with(folded)
                module.graph.erase_node(node)


def _shorten(graph: fx.Graph) -> None:
    """Leave out reshaping that changes no shape, and what has been computed already."""
    known: dict[tuple[Any, ...], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        if node.target in VIEWS:
            node.args = (_behind_views(node.args[0]), *node.args[1:])
        same = _argument(node)
        if same is None:
            same = known.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.erase_node(node)


def _behind_views(source: Any) -> Any:
    """What a view of a view is a view of."""
    while source.target in VIEWS and _layout(source.args[0]) and source.args[0].meta["val"].is_contiguous():
        source = source.args[0]
    return source


def _argument(node: fx.Node) -> fx.Node | None:
    """What an operation returns, to the bit and in the same layout, if that is no new result."""
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if source is None or _layout(node) is None:
        return None
    if node.target in RESHAPING and _layout(node) == _layout(source):
        return source
    if node.target is ops.pow.Tensor_Scalar and node.args[1] == 1 and _layout(node) == _layout(source):
        return source
    if node.target is ops.transpose.int and source.target is ops.transpose.int:
        before = source.args[0]
        if isinstance(before, fx.Node) and _layout(node) == _layout(before) and _swapped(node) == _swapped(source):
            return before
    return None


def _swapped(node: fx.Node) -> set[int]:
    dimensions = node.meta["val"].ndim
    return {position % dimensions for position in node.args[1:3] if isinstance(position, int)}


def _layout(node: fx.Node) -> tuple[Any, ...] | None:
    value = node.meta.get("val")
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else None
