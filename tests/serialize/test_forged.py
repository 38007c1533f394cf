"""Artifacts whose description was edited, its checksums made right: refused with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import videoeff
from tests.serialize.artifacts import Edit, assert_streams_agree, rewritten
from tests.support.small_nets import (
    SIZE,
    clip,
)
from videoeff.errors import ArtifactError
from videoeff.serialize import format as file_format


def test_the_forger_of_these_tests_makes_files_that_load(plain: Path, tmp_path: Path) -> None:
    copy = rewritten(plain, tmp_path / "copy.veff")
    assert_streams_agree(videoeff.load(plain), videoeff.load(copy), list(clip(3)))


def test_an_edit_without_the_checksum_is_noticed(plain: Path, tmp_path: Path) -> None:
    data = plain.read_bytes()
    assert data.count(b"threshold=0.05)") > 0
    (tmp_path / "it.veff").write_bytes(data.replace(b"threshold=0.05)", b"threshold=0.09)"))
    with pytest.raises(ArtifactError, match="not the one that was saved"):
        videoeff.load(tmp_path / "it.veff")


def test_a_future_version(plain: Path, tmp_path: Path) -> None:
    def future(document: dict[str, Any]) -> None:
        document["format_version"] = 2
        document["versions"]["videoeff"] = "9.1"

    with pytest.raises(ArtifactError, match=r"format version 2.*reads up to 1.*videoeff 9\.1: upgrade"):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", future))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"format": "other"}', "[" * 100_000, '"\\ud800"'])
def test_descriptions_that_are_none(plain: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"it\.veff: "):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", text=text))


#: Another name, or nothing where nothing is needed.
HARMLESS = [("name", "x"), ("aliases", {}), ("extra", []), ("extra", {}), ("shell", None)]


@pytest.mark.parametrize(
    "key",
    ["engines", "options", "extra", "name", "aliases", "digest", "format_version", "parameters", "shell"],
)
@pytest.mark.parametrize("value", ["absent", None, 7, [], {}, "x"])
def test_descriptions_with_a_wrong_entry(plain: Path, tmp_path: Path, key: str, value: Any) -> None:
    def edit(document: dict[str, Any]) -> None:
        if value == "absent":
            del document[key]
        else:
            document[key] = value

    path = rewritten(plain, tmp_path / "it.veff", edit)
    if (key, value) in HARMLESS:
        assert videoeff.load(path)(torch.rand(SIZE)).shape == (1, 4, 10, 12)
    else:
        with pytest.raises(ArtifactError, match=r"it\.veff: "):
            videoeff.load(path)


def graph_edit(old: str, new: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        graph = document["engines"][0]["graph"]
        assert re.search(old, graph, re.MULTILINE), graph
        document["engines"][0]["graph"] = re.sub(old, new, graph, flags=re.MULTILINE)

    return edit


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"aten\.relu\.default", "aten.no_such_op.default", "operator 'aten.no_such_op.default' is unknown"),
        (r"aten\.relu\.default", "aten.relu.no_such", "unknown"),
        (r"aten\.relu\.default", "os.system.default", "unknown"),
        (r"aten\.relu\.default\(\w+\)", 'aten.from_file.default("/etc/passwd")', "from_file"),
        (r"aten\.relu\.default", "aten.relu_.default", "relu_"),
        (r"aten\.relu\.default", "aten._sparse_coo_tensor_unsafe.default", "unsafe"),
        (r"aten\.relu\.default\((\w+)\)", r"__import__('os').system('false')", "unknown|no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default([x for x in (1, 2)])", "no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(open('f'))", "no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(later)", "'later' before it is defined"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(relu_default)", "before it is defined"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1, \1, \1)", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1, **{})", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default()", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.reshape.default(\1, [1, -7])", ""),
        (r"aten\.relu\.default\((\w+)\)", "aten.relu.default(" + "(" * 300 + "x" + ")" * 300 + ")", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1", "does not parse"),
        (r"^relu_default = ", "second_weight = ", "taken|defined"),
        (r"^relu_default = ", "class = ", "does not parse"),
        (r"^relu_default = ", "(a, b) = ", "no assignment"),
        (r"^relu_default = .*$", "relu_default = 5", "calls nothing"),
        (r"const\(.second\.weight.\)", "const('missing')", "'missing', which the file does not hold"),
        (r"const\(.second\.weight.\)", "const()", "no dotted name"),
        (r"const\(.second\.weight.\)", "const(7)", "no dotted name"),
        (r"const\(.second\.weight.\)", "const('forward')", ""),
        (r"const\(.second\.weight.\)", "const('second.bias')", ""),
        (r"^return .*$", "", "cut short"),
        (r"^return .*$", "return (x,)", ""),
        (r"^return .*$", "return ()", "not those of its call"),
        (r"^return .*$", "return (delta_cache, delta_cache)", ""),
        (r"^program\(.*$", "", "cut short"),
        (r'stage="planned"', 'stage="captured"', ""),
        (r'stage="planned"', 'stage="done"', "no such stage"),
        (r"streams=1\)$", "streams=2)", "not those of its call"),
        (r"streams=1\)$", "streams='a')", ""),
        (r"threshold=0\.05", "threshold=-1.0", "threshold=-1.0 must be a finite number"),
        (r"threshold=0\.05", "threshold=float('nan')", "threshold=nan must be a finite number"),
        (r"threshold=0\.05", "threshold='a'", ""),
        (r"threshold=0\.05", "threshold=0.05, predict=-1.0", "predict=-1.0"),
        (r"threshold=0\.05", "threshold=0.05, block=0", "block must be"),
        (r"threshold=0\.05", "threshold=0.05, into=('nothing', 0, 1, 9)", ""),
        (r"threshold=0\.05", "threshold=0.05, into=5", ""),
        (r"threshold=0\.05", "threshold=0.05, colour=1", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2, 9)", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2, 2)", "does not name dimensions"),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2)", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=7", ""),
        (r"streams=\(0,\)", "streams=(4,)", r"streams=\(4,\) does not give"),
        (r"streams=\(0,\)", "streams=(0, 0)", "does not give"),
        (r'kind="map"|kind=\'map\'', "kind='cake'", "kind='cake' is none of"),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 3, 20", ""),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 3, 200000000, 24000000]", ""),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 5, 20, 24]", ""),
        (r"float32\[1, 3, 20, 24\]$", "", "states no shape"),
    ],
)  # fmt: skip
def test_edited_graphs(plain: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    path = rewritten(plain, tmp_path / "it.veff", graph_edit(old, new))
    with pytest.raises(ArtifactError, match=f"(?s){message}"):
        videoeff.load(path)


def test_a_graph_cannot_smuggle_code_into_what_fx_generates(plain: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    name = f'w") or __import__("pathlib").Path({str(proof)!r}).touch() or getattr(self, "w'
    path = tmp_path / "it.veff"
    with safe_open(str(plain), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
        document = json.loads(file.metadata()["videoeff"])
    tensors[f"0:{name}"] = tensors.pop("0:second.weight")
    graph = document["engines"][0]["graph"]
    document["engines"][0]["graph"] = re.sub(r"const\(.second\.weight.\)", f"const({name!r})", graph)
    document["digest"] = file_format.digest_of(tensors)
    text = json.dumps(document)
    save_file(tensors, path, metadata={"videoeff": text, "videoeff_sha256": file_format.digest_of_text(text)})
    with pytest.raises(ArtifactError, match="which is no dotted name"):
        videoeff.load(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("in_spec", None),
        ("in_spec", ["tuple"]),
        ("in_spec", ["set", None]),
        ("in_spec", ["namedtuple", "class", ["1"], None]),
        ("out_spec", ["tuple", None, None]),
        ("out_spec", "x"),
        ("literals", []),
        ("literals", [1.0]),
        ("passes", "fold-batchnorm"),
        ("history", [{}]),
        ("name", "other"),
        ("backend", "gone"),
        ("backend", 7),
        ("graph", 7),
        ("graph", ""),
    ],
)
def test_edited_engines(plain: Path, tmp_path: Path, key: str, value: Any) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["engines"][0][key] = value

    with pytest.raises(ArtifactError, match=r"it\.veff: "):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", edit))
