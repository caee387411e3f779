"""A network taken apart into a chain: each step feeds the next one and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import vjp
from torch.nn import functional

from adversary.rgap.activations import inverse_of, invertible
from fedsim.errors import FedsimError

_RESHAPES: tuple[type[nn.Module], ...] = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)
_RESHAPING_FUNCTIONS = {torch.flatten, torch.reshape, "flatten", "reshape", "view", "contiguous"}
_FUNCTIONS: dict[object, type[nn.Module]] = {
    torch.sigmoid: nn.Sigmoid,
    functional.sigmoid: nn.Sigmoid,
    "sigmoid": nn.Sigmoid,
    torch.tanh: nn.Tanh,
    functional.tanh: nn.Tanh,
    "tanh": nn.Tanh,
    functional.leaky_relu: nn.LeakyReLU,
    functional.elu: nn.ELU,
    functional.softplus: nn.Softplus,
}
"""Activations called as functions, and the modules that take the same arguments after the input."""


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Attributes:
        name: of the module in the network, or of the call where there is no module.
        kind: the type of the module, or the name of the function called.
        module: that computes it, or one that would; ``None`` for other calls of functions.
        forward: what it computes, batch first.
        shape: of one input, without the batch.
        reshape: whether it only orders the same numbers anew.
    """

    name: str
    kind: str
    module: nn.Module | None
    forward: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    reshape: bool = False

    def refusal(self) -> str | None:
        """Why the recursion cannot pass from this step's output to its input, if it cannot."""
        if self.reshape or invertible(self.module):
            return None
        if isinstance(self.module, nn.Linear):
            return None if len(self.shape) == 1 else "is applied along an axis of its input, and not to all of it"
        if isinstance(self.module, nn.Conv2d):
            plain = self.module.padding_mode == "zeros" and not isinstance(self.module.padding, str)
            return None if plain else "pads by other means than a number of zeros"
        return "has no inverse that R-GAP knows"

    @property
    def affine(self) -> nn.Conv2d | nn.Linear | None:
        """The module, if it is a convolution or a linear layer that can be solved for its input."""
        solvable = isinstance(self.module, nn.Conv2d | nn.Linear) and self.refusal() is None
        return self.module if solvable else None  # type: ignore[return-value]

    def inverse(self, outputs: Tensor) -> Tensor:
        """The inputs [1, *shape] of a reshape or an activation, from its outputs."""
        if self.reshape:
            return outputs.reshape(1, *self.shape)
        if self.module is None:
            raise ValueError(f"{self.name} has no inverse")
        return inverse_of(self.module, outputs)

    def pull_back(self, inputs: Tensor, gradient: Tensor) -> Tensor:
        """The loss gradient with respect to the inputs [1, *shape], from that with respect to the outputs."""
        # A copy of the inputs, which a module that works in place would overwrite.
        pulled: Tensor = vjp(lambda x: self.forward(x.clone()), inputs)[1](gradient)[0]
        return pulled


class _Recorder(fx.Interpreter):
    """Runs a traced network on one input and writes down the chain."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced, garbage_collect_values=False)
        self.steps: list[Step] = []
        self.last: fx.Node | None = None

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if node.op == "placeholder":
            self.last = node
        elif node.op not in ("get_attr", "output") and isinstance(result, Tensor):
            inputs = [source for source in node.all_input_nodes if isinstance(self.env.get(source), Tensor)]
            if self.last is None or inputs != [self.last]:
                raise FedsimError(
                    f"R-GAP needs a chain of layers, but {_name(node)!r} of the network takes "
                    f"{', '.join(repr(_name(source)) for source in inputs) or 'no tensor'} and follows "
                    f"{'nothing' if self.last is None else repr(_name(self.last))}. Choose another attack or network."
                )
            self.steps.append(self._step(node, tuple(self.env[self.last].shape[1:])))
            self.last = node
        return result

    def _step(self, node: fx.Node, shape: tuple[int, ...]) -> Step:
        name = _name(node)
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            return Step(name, type(module).__name__, module, module, shape, isinstance(module, _RESHAPES))
        (_, *rest), keywords = self.fetch_args_kwargs_from_env(node)
        target: Any = node.target

        def forward(x: Tensor) -> Tensor:
            called = getattr(x, target) if node.op == "call_method" else partial(target, x)
            outputs: Tensor = called(*rest, **keywords)
            return outputs

        kind = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        make: Callable[..., nn.Module] | None = _FUNCTIONS.get(target)
        module = None if make is None else make(*rest, **keywords)
        return Step(name, kind, module, forward, shape, target in _RESHAPING_FUNCTIONS)


def chain_of(network: nn.Module, input_shape: Sequence[int]) -> list[Step]:
    """The steps from the input to the logits.

    Args:
        network: whose parameters give the type and place of numbers; not changed.
        input_shape: channels, height, width.

    Raises:
        FedsimError: the network is no chain, or PyTorch cannot trace it.
    """
    try:
        # Wrapped, so that a network that is one layer is a module of the trace too.
        traced = fx.symbolic_trace(nn.Sequential(network))
    except Exception as error:  # whatever a foreign forward raises on a proxy
        raise FedsimError(
            f"R-GAP needs a chain of layers, and the network's forward cannot be traced by torch.fx: {error}. "
            "Choose another attack or network."
        ) from error
    recorder = _Recorder(traced)
    like = next(network.parameters())
    with torch.no_grad():
        recorder.run(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    seen: set[int] = set()
    for step in recorder.steps:
        if step.affine is not None:
            if id(step.affine) in seen:
                raise FedsimError(
                    f"R-GAP needs a gradient for each layer, but {step.name!r} is used twice and its gradient is a "
                    "sum. Choose another attack or network."
                )
            seen.add(id(step.affine))
    return recorder.steps


def _name(node: fx.Node) -> str:
    return str(node.target).partition(".")[2] if node.op == "call_module" else node.name
