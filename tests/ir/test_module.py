"""A graph whose code is generated when it is run first."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import fx, nn

from videoeff.ir.module import LazyGraphModule


def doubled() -> LazyGraphModule:
    """``2 x + offset``."""
    root, graph = nn.Module(), fx.Graph()
    root.register_buffer("offset", torch.tensor(1.0))
    x, offset = graph.placeholder("x"), graph.create_node("get_attr", "offset")
    twice = graph.call_function(torch.ops.aten.mul.Tensor, (x, 2))
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (twice, offset)))
    return LazyGraphModule(root, graph)


def triple(module: LazyGraphModule) -> None:
    (times,) = (n for n in module.graph.nodes if n.target is torch.ops.aten.mul.Tensor)
    times.args = (times.args[0], 3)
    module.recompile()


def test_code_is_generated_when_it_is_needed() -> None:
    module = doubled()
    assert "_code" not in module.__dict__
    assert module(torch.tensor(4.0)) == 9.0
    assert "_code" in module.__dict__
    assert "mul" in doubled().code
    assert "mul" in str(doubled())


def test_an_edited_graph_runs_as_edited() -> None:
    module, other = doubled(), doubled()
    assert module(torch.tensor(4.0)) == other(torch.tensor(4.0)) == 9.0
    triple(module)
    assert module(torch.tensor(4.0)) == 13.0
    assert other(torch.tensor(4.0)) == 9.0


def test_copies_run_whether_or_not_the_original_did() -> None:
    for ran in (False, True):
        module = doubled()
        if ran:
            module(torch.tensor(4.0))
        for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert twin(torch.tensor(4.0)) == 9.0
            twin.offset.fill_(5.0)
            assert module.offset == 1.0


def test_an_edited_copy_leaves_the_original_alone() -> None:
    module = doubled()
    module(torch.tensor(4.0))
    twin = copy.deepcopy(module)
    triple(twin)
    assert twin(torch.tensor(4.0)) == 13.0
    assert module(torch.tensor(4.0)) == 9.0
