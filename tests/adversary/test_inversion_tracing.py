"""A function's operations written down: the same results with fewer of them."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from adversary.inversion.tracing import traced
from fedsim import seeding


def operations(module: GraphModule) -> int:
    return sum(node.op == "call_function" for node in module.graph.nodes)


def calls(module: GraphModule, name: str) -> int:
    return sum(name in str(node.target) for node in module.graph.nodes if node.op == "call_function")


def test_what_constants_decide_is_computed_once_and_what_is_alike_once_a_run() -> None:
    weight = torch.rand(4, 3)

    def function(x: Tensor) -> Tensor:
        scale = weight.square().sum()
        return (x @ weight.mT).exp() * scale + (x @ weight.mT).exp()

    found = traced(function, torch.rand(2, 3))
    assert (calls(found, "aten.pow"), calls(found, "aten.mm"), calls(found, "aten.exp")) == (0, 1, 1)
    x = torch.rand(2, 3)
    assert found(x).equal(function(x))


def test_reshaping_to_the_same_shape_and_back_is_left_out() -> None:
    def function(x: Tensor) -> Tensor:
        there = x.transpose(0, 1).transpose(-1, -2).view(3, 2).view(6).view(2, 3)
        return there.expand(2, 3) ** 1 + 1

    found = traced(function, torch.rand(2, 3))
    assert [node.op for node in found.graph.nodes].count("call_function") == 1
    x = torch.rand(2, 3)
    assert found(x).equal(x + 1)


def test_transpositions_that_do_not_cancel_stay() -> None:
    def function(x: Tensor) -> Tensor:
        return x.transpose(0, 1).transpose(1, 2) + 1

    x = torch.rand(2, 2, 2)
    assert traced(function, torch.rand(2, 2, 2))(x).equal(function(x))


def test_derivatives_stay_the_same_to_the_bit() -> None:
    def function(x: Tensor) -> Tensor:
        return grad(lambda z: grad(lambda y: (y.square() * y.sigmoid()).sum())(z).square().sum())(x)

    x = torch.rand(3, 4)
    assert traced(function, torch.rand(3, 4))(x).equal(function(x))


def test_operations_of_several_results_are_shortened_too() -> None:
    """Pooling gives the largest values and where they were; both derivatives of a step come through it."""
    draws = seeding.generator(0, "test", "tracing")
    weight, target = torch.randn(4, 2, 3, 3, generator=draws), torch.randn(4, 2, 3, 3, generator=draws)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return functional.max_pool2d(functional.conv2d(x, w).sigmoid(), 2).square().sum()

    def one(x: Tensor) -> tuple[Tensor, Tensor]:
        return grad_and_value(lambda z: (grad(loss, argnums=1)(z, weight) - target).square().sum())(x)

    step, examples = vmap(one), torch.rand(3, 1, 2, 8, 8, generator=draws)
    found, plain = traced(step, examples), make_fx(step)(examples)
    plain.graph.eliminate_dead_code()
    assert calls(found, "getitem") > 0
    assert operations(found) < 0.9 * operations(plain)
    x = torch.rand(3, 1, 2, 8, 8, generator=draws)
    for ours, theirs in zip(found(x), step(x), strict=True):
        assert ours.equal(theirs)


def test_several_results_of_constants_are_computed_once() -> None:
    constant = torch.rand(2, 5)

    def function(x: Tensor) -> Tensor:
        values, places = constant.max(dim=1)
        return x * values + places

    found = traced(function, torch.rand(2))
    assert (calls(found, "max"), calls(found, "getitem")) == (0, 0)
    x = torch.rand(2)
    assert found(x).equal(function(x))


def test_functions_that_write_or_draw_are_left_as_they_are() -> None:
    constant = torch.ones(3)

    def writing(x: Tensor) -> Tensor:
        copy, other = constant.clone(), constant.clone()
        copy.add_(x)
        return copy - other

    x = torch.rand(3)
    written = traced(writing, torch.rand(3))
    assert written(x).equal(writing(x))
    assert written(x).equal(writing(x)), "what is written the first time must not be there the second time"

    def drawing(x: Tensor) -> Tensor:
        return torch.rand_like(x) - torch.rand_like(x)

    assert traced(drawing, torch.rand(3))(x).abs().max() > 0


FORKING = """
import os, sys, torch
from torch.func import grad
from adversary.inversion.tracing import traced

traced(lambda x: grad(lambda y: y.square().sum())(x), torch.rand(3))
child = os.fork()
if child == 0:
    leaf = torch.ones((), requires_grad=True)
    (leaf * 2).backward()
    os._exit(0 if leaf.grad == 2 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_processes_forked_afterwards_can_compute_gradients() -> None:
    """In a process of its own, whose first derivative is the traced one."""
    ended = subprocess.run([sys.executable, "-c", FORKING], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
