"""Programs and streams as graphs: every documented attribute, on networks of several kinds."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.capture.export import capture
from videoeff.errors import ArtifactError
from videoeff.inspect import (
    captured_program,
    captured_to_networkx,
    graph_table,
    program_to_networkx,
    stream_history,
    stream_to_networkx,
    to_text,
    write_stream_html,
    write_stream_model_explorer,
)
from videoeff.inspect.schema import read_nodes
from videoeff.runtime.streaming_module import StreamingModule


class Small(nn.Module):
    """A stem, a residual block, a concatenation, a channel gate and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.side = nn.Conv2d(8, 4, 1)
        self.squeeze = nn.Conv2d(12, 12, 1)
        self.mix = nn.Conv2d(12, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.branch(x) + x)
        x = torch.cat((x, self.side(x)), 1)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = self.mix(x)
        return x, self.head(x.mean((2, 3)))


class Shuffled(nn.Module):
    """Two branches joined and shuffled, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(8, 2, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.left(x), self.right(x)), 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        out: Tensor = self.last(torch.relu(x))
        return out


class Sequence(nn.Module):
    """Control flow that depends on the data around two parts that can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.head(self.backbone(x))
        out: Tensor = maps.mean((2, 3)) if float(maps.sum()) > 1e9 else maps.flatten(2).max(2).values
        return out


def filled(model: nn.Module, frames: int = 3, **options: object) -> StreamingModule:
    """A stream of ``model`` that has seen a small square move."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 32)
    stream = videoeff.convert(model.eval(), x, **options)  # type: ignore[arg-type]
    for i in range(frames):
        y = x.clone()
        y[..., 4 + i : 8 + i, 6:10] = 0.0
        stream(y)
    return stream


@pytest.fixture(scope="module")
def stream() -> StreamingModule:
    return filled(Small(), threshold=0.01)


def by_module(graph: nx.DiGraph, module: str, kind: str = "local") -> dict[str, object]:
    (found,) = [d for _, d in graph.nodes(data=True) if d["module"] == module and d["kind"] == kind]
    return dict(found)


def test_a_captured_program_is_a_graph_of_plain_operators() -> None:
    program = capture(Small().eval(), (torch.rand(1, 3, 32, 32),), {}, name="small")
    graph = program_to_networkx(program)
    assert (graph.graph["name"], graph.graph["stage"], graph.graph["streams"]) == ("small", "captured", 1)
    assert nx.is_directed_acyclic_graph(graph)
    assert [r.name for r in read_nodes(graph)]
    kinds = {d["kind"] for _, d in graph.nodes(data=True)}
    assert kinds == {"input", "output", "const", "local", "layout", "dense"}
    stem = by_module(graph, "stem")
    assert stem["op"] == "aten.conv2d.default"
    assert stem["label"] == "stem"
    assert stem["shape"] == (1, 8, 16, 16)
    assert stem["dtype"] == "float32"
    assert stem["macs"] == 8 * 3 * 9 * 16 * 16
    assert stem["params"] == 8 * 3 * 9
    assert stem["share"] is None
    assert not any("region" in d for _, d in graph.nodes(data=True))
    edge = next(data for *_, data in graph.edges(data=True))
    assert edge["shape"]


def test_the_lowered_graph_has_regions_kernels_and_activity(stream: StreamingModule) -> None:
    graph = stream_to_networkx(stream)
    assert graph.graph["stage"] == "lowered"
    report = {layer.name: layer for layer in stream.report().layers}
    caches = {d["region"]: d for _, d in graph.nodes(data=True) if d["kind"] == "cache"}
    assert set(caches) == set(report)
    for name, layer in report.items():
        assert caches[name]["share"] == layer.active_share
        assert caches[name]["state_bytes"] == layer.state_bytes
        assert caches[name]["threshold"] == layer.threshold
        assert caches[name]["kernel"] == layer.kernel
        assert (
            sum(d["macs"] for _, d in graph.nodes(data=True) if d.get("region") == name) == layer.macs_dense
        )
    assert sum(d["state_bytes"] for _, d in graph.nodes(data=True)) == stream.report().state_bytes
    branch = by_module(graph, "branch")
    assert 0 < float(str(branch["share"])) < 0.3
    assert branch["share"] == report["branch"].active_share
    fused = {d["op"] for _, d in graph.nodes(data=True) if d.get("region") == "branch"}
    assert {"aten.conv2d.default", "aten.add.Tensor", "aten.relu.default", "veff.delta_cache"} <= fused
    weight = graph.nodes["branch_weight"]
    assert (weight["kind"], weight["region"], weight["share"]) == ("const", "branch", None)
    joined = next(d for _, d in graph.nodes(data=True) if d["op"] == "veff.concat")
    assert joined["kind"] == "layout"
    assert joined["share"] is None
    gate = next(d for _, d in graph.nodes(data=True) if d.get("cache_kind") == "gate")
    reasons = {d["reason"] for _, d in graph.nodes(data=True) if d.get("region") == gate["region"]}
    assert any("mean" in r or "pixels" in r for r in reasons)
    assert "stem" in to_text(graph_table(graph))


def test_activity_from_a_report_replaces_what_the_stream_counted(stream: StreamingModule) -> None:
    saved = json.loads(json.dumps(stream.report().to_json()))
    activity = {layer["name"]: layer["active_share"] for layer in saved["layers"]}
    fresh = filled(Small(), frames=0, threshold=0.01)
    assert all(d["share"] is None for _, d in stream_to_networkx(fresh).nodes(data=True))
    shown = stream_to_networkx(fresh, activity=activity)
    assert by_module(shown, "branch")["share"] == activity["branch"]
    partial = stream_to_networkx(stream, activity={"branch": 0.5})
    assert {d["share"] for _, d in partial.nodes(data=True)} == {None, 0.5}
    with pytest.raises(ArtifactError, match="no layer elsewhere"):
        stream_to_networkx(stream, activity={"elsewhere": 0.5})
    with pytest.raises(ArtifactError, match="within 0 and 1"):
        stream_to_networkx(stream, activity={"branch": 1.5})


@pytest.mark.parametrize("model", [Small, Shuffled])
def test_the_graph_before_is_the_plain_network(model: type[nn.Module]) -> None:
    stream = filled(model())
    planned = stream.programs[""]
    plain = captured_program(planned)
    assert plain.stage == "captured"
    assert not [n for n in plain.nodes if "veff" in str(n.target) or "delta" in n.name]
    x = torch.rand(1, 3, 32, 32)
    for a, b in zip(plain.run(x), planned.run(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    graph = captured_to_networkx(stream)
    ops = [d["op"] for _, d in graph.nodes(data=True)]
    assert graph.graph["stage"] == "captured"
    assert "aten.cat.default" in ops
    assert ("aten.channel_shuffle.default" in ops) == (model is Shuffled)
    assert not [op for op in ops if op.startswith("veff")]
    after = stream_to_networkx(stream)
    regions = {d["region"] for _, d in graph.nodes(data=True) if "region" in d}
    assert regions <= {d["region"] for _, d in after.nodes(data=True) if "region" in d}
    assert sum(d["macs"] for _, d in graph.nodes(data=True)) == sum(
        d["macs"] for _, d in after.nodes(data=True)
    )


def test_parts_and_eager_code_stand_in_one_graph() -> None:
    stream = filled(Sequence())
    assert len(stream.engines) > 1
    for graph in (captured_to_networkx(stream), stream_to_networkx(stream)):
        read_nodes(graph)
        assert nx.is_directed_acyclic_graph(graph)
        for part in stream.engines:
            inside = [n for n, d in graph.nodes(data=True) if d.get("part") == part]
            assert inside
            assert all(n.startswith(f"{part}.") for n in inside)
            assert all(graph.nodes[n]["module"].split(".")[0] == part.split(".")[0] for n in inside)
        (eager,) = [d for _, d in graph.nodes(data=True) if d["op"] == "eager"]
        assert eager["kind"] == "dense"
        assert eager["reason"]
        assert nx.has_path(graph, "input", "output")
        assert nx.has_path(graph, "backbone.output", "head.output"), "the head reads the backbone's output"
        assert all(nx.has_path(graph, "input", n) for n, d in graph.nodes(data=True) if d["kind"] == "cache")


def test_an_unknown_stage_is_refused(stream: StreamingModule) -> None:
    with pytest.raises(ArtifactError, match="no stage 'made'"):
        program_to_networkx(stream.programs[""], stage="made")


def test_history_joins_the_parts_and_names_them() -> None:
    stream = filled(Sequence(), threshold=0.02)
    rows = stream_history(stream)
    assert [r["name"] for r in rows] == [r.name for r in next(iter(stream.programs.values())).history]
    assert next(r["text"] for r in rows if r["name"] == "insert-thresholds") == "threshold=0.02"
    notes = [note for row in rows for note in row["notes"]]
    assert notes
    assert len(notes) == sum(len(r.notes) for p in stream.programs.values() for r in p.history)
    assert all(note.split(":")[0].split("#")[0] in stream.programs for note in notes)


def test_a_stream_as_page_and_as_model_explorer_file(stream: StreamingModule, tmp_path: Path) -> None:
    page, file = tmp_path / "page.html", tmp_path / "graph.json"
    captured = capture(Small().eval(), (torch.rand(1, 3, 32, 32),), {}, name="small")
    write_stream_html(page, stream)
    text = page.read_text(encoding="utf-8")
    assert "Small: before and after" in text
    assert "fold-batchnorm" in text
    assert "recomputed after the first frame" in text
    assert '"region":"branch"' in text
    assert "aten.batch_norm.default" not in text, "folded before"
    write_stream_html(page, stream, captured=captured)
    text = page.read_text(encoding="utf-8")
    assert "aten.batch_norm.default" in text
    before = json.loads(text.partition('id="data">')[2].partition("</script>")[0])["before"]
    regions = {
        node["op"]: node["extra"].get("region") for node in before["nodes"] if node["module"] == "branch"
    }
    assert regions["aten.conv2d.default"] == "branch", "what the passes kept names its region"
    write_stream_model_explorer(file, stream)
    graphs = {g["id"]: g for g in json.loads(file.read_text(encoding="utf-8"))["graphs"]}
    assert len(graphs["after"]["nodes"]) == len(stream_to_networkx(stream))
    assert len(graphs["before"]["nodes"]) == len(captured_to_networkx(stream))


def test_a_saved_stream_shows_the_same_graph(stream: StreamingModule, tmp_path: Path) -> None:
    stream.save(tmp_path / "small.veff")
    loaded = videoeff.load(tmp_path / "small.veff")
    ours, theirs = captured_to_networkx(stream), captured_to_networkx(loaded)
    assert dict(ours.nodes(data=True)) == dict(theirs.nodes(data=True))
    assert set(ours.edges) == set(theirs.edges)
    assert stream_history(loaded) == stream_history(stream)
