"""Graphs for the tests of ``videoeff.inspect``: residual networks of any depth, and hostile names."""

from __future__ import annotations

import networkx as nx

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">&\u2028'"


def add_node(graph: nx.DiGraph, name: str, *inputs: str, **attributes: object) -> str:
    """Adds one node with every documented attribute and the edges from ``inputs``."""
    values: dict[str, object] = {
        "label": name,
        "op": "aten.relu.default",
        "module": "",
        "kind": "local",
        "shape": (1, 64, 56, 56),
        "dtype": "float32",
        "args": ", ".join(inputs),
        "macs": 0,
        "share": None,
        "params": 0,
        "state_bytes": 0,
        "kernel": "",
        "reason": "",
        "threshold": None,
    }
    unknown = set(attributes) - set(values)
    assert not unknown, unknown
    graph.add_node(name, **{**values, **attributes})
    for source in inputs:
        graph.add_edge(source, name, shape=graph.nodes[source]["shape"])
    return name


def residual(
    stages: tuple[int, ...], *, stage: str = "captured", weights: bool = False, run: bool = False
) -> nx.DiGraph:
    """A residual network: per block two convolutions with batch norm and ReLU, and an addition.

    ``weights`` adds a constant per convolution, ``run`` fills in shares, ``stage="lowered"`` folds the batch
    norms and adds a change test per block.
    """
    graph: nx.DiGraph = nx.DiGraph(name="resnet", stage=stage)
    lowered = stage == "lowered"
    serial = 0

    def convolution(source: str, module: str, channels: int, side: int) -> str:
        nonlocal serial
        serial += 1
        inputs = [source]
        if weights:
            weight = f"{module}.weight"
            inputs.append(
                add_node(graph, weight, module=module, kind="const", op="get_attr", shape=(channels,))
            )
        return add_node(
            graph,
            f"conv2d_{serial}",
            *inputs,
            label=module.rpartition(".")[2],
            op="aten.conv2d.default",
            module=module,
            shape=(1, channels, side, side),
            macs=9 * channels * channels * side * side,
            share=(0.6 / serial if run else None),
            params=9 * channels * channels,
            state_bytes=4 * channels * side * side if lowered else 0,
            kernel="cpu.conv2d_sparse" if lowered else "",
            reason="chosen from the cost table" if lowered else "",
        )

    last = add_node(graph, "x", op="input", kind="input", shape=(1, 3, 224, 224))
    last = convolution(last, "conv1", 64, 112)
    for i, blocks in enumerate(stages):
        channels, side = 64 * 2 ** min(i, 3), 56 // 2 ** min(i, 3)
        shape = (1, channels, side, side)
        for j in range(blocks):
            block = f"layer{i + 1}.{j}"
            skip = last
            for k in (1, 2):
                last = convolution(last, f"{block}.conv{k}", channels, side)
                if not lowered:
                    name = f"batch_norm_{i}_{j}_{k}"
                    last = add_node(
                        graph,
                        name,
                        last,
                        label=f"bn{k}",
                        op="aten.batch_norm.default",
                        module=f"{block}.bn{k}",
                        shape=shape,
                    )
                if k == 1:
                    last = add_node(
                        graph, f"relu_{i}_{j}", last, label="relu", module=f"{block}.relu", shape=shape
                    )
            name = f"add_{i}_{j}"
            last = add_node(graph, name, last, skip, op="aten.add.Tensor", module=block, shape=shape)
            if lowered:
                name = f"cache_{i}_{j}"
                last = add_node(
                    graph,
                    name,
                    last,
                    op="veff.delta_cache",
                    module=block,
                    kind="cache",
                    threshold=0.02,
                    shape=shape,
                    share=0.5 / (i + j + 1) if run else None,
                    state_bytes=4 * channels * side * side,
                )
    shape = (1, 512, 1, 1)
    last = add_node(graph, "mean", last, op="aten.mean.dim", module="avgpool", kind="dense", shape=shape)
    last = add_node(graph, "flatten", last, op="aten.flatten.using_ints", kind="layout", shape=(1, 512))
    last = add_node(
        graph,
        "linear",
        last,
        label="fc",
        op="aten.linear.default",
        module="fc",
        kind="dense",
        shape=(1, 1000),
        macs=512_000,
        params=513_000,
        reason="not local: needs the whole map",
    )
    add_node(graph, "output", last, op="output", kind="output", shape=(1, 1000))
    return graph


def flat(length: int) -> nx.DiGraph:
    """A chain without modules, with a skip connection every fourth node."""
    graph: nx.DiGraph = nx.DiGraph(name="flat", stage="planned")
    add_node(graph, "n0", op="input", kind="input")
    for i in range(1, length):
        inputs = [f"n{i - 1}"] + ([f"n{i - 6}"] if i % 4 == 0 and i > 6 else [])
        add_node(graph, f"n{i}", *inputs, macs=i)
    return graph


HISTORY: list[dict[str, object]] = [
    {
        "name": "fold-batchnorm",
        "text": "",
        "changed": True,
        "notes": ["layer1.0.conv1: weights shared, not folded"],
    },
    {"name": "insert-delta-caches", "text": "threshold=0.02, test=rms", "changed": True, "notes": []},
    {"name": "remove-dropout", "text": "", "changed": False, "notes": []},
]
SUMMARY: dict[str, object] = {
    "model": "resnet",
    "streaming MACs": "98.7 %",
    "active share": "11 %",
    "state": "12 MiB",
}
