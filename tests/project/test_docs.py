"""The documents' own code runs, and their links lead somewhere."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import nn

import videoeff
from tests.support.reach import check, values_of
from tests.support.streams import stream_of
from videoeff import convert, errors, kernels, testing
from videoeff.capture.export import capture
from videoeff.cli.main import main
from videoeff.ir.layout import info
from videoeff.kernels.call import Context
from videoeff.kernels.reference.region import ReferenceBackend
from videoeff.lowering import choose
from videoeff.ops import base, op_of
from videoeff.ops.base import Lambda, overloads
from videoeff.passes.base import Pass, parse_options
from videoeff.passes.recipes import PASSES, RECIPES
from videoeff.runtime.fidelity import Audited, AuditReport, Drift
from videoeff.runtime.pacing import PacedModule
from videoeff.runtime.report import LayerReport, Report
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoned import ZonedModule

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

#: The classes whose members are a stream's.
STREAM = (StreamingModule, PacedModule, ZonedModule)


def code_of(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks, f"{page} has no Python block"
    return "\n\n".join(blocks)


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Python blocks of a page define, run in a folder of their own."""
    monkeypatch.chdir(folder)
    file = folder / f"{Path(page).stem}.py"
    file.write_text(code_of(page), encoding="utf-8")
    return runpy.run_path(str(file), run_name=file.stem)


def test_choosing_settings_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_page("choosing_settings.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "MACs per frame" in printed
    assert (tmp_path / "thresholds.json").exists()
    # A still scene with noise: the threshold that the page takes from two frames holds all of it back.
    noisy = [
        0.3 + 0.4 * (torch.arange(96).view(-1, 1) % 2) + 0.02 * torch.randn(1, 3, 96, 128) for _ in range(4)
    ]
    threshold = found["input_threshold_of"](noisy[0], noisy[1])
    assert threshold == pytest.approx(2 * 0.02 / float(noisy[0].std(correction=0)), rel=0.05)
    stream = convert(found["model"], noisy[0], threshold=0.1, block=8, dilation=1, input_threshold=threshold)
    for frame in noisy:
        stream(frame)
    assert stream.report().macs["needed"] == 0
    stream = convert(found["model"], noisy[0], threshold=0.1, input_threshold=threshold)
    for frame in noisy:
        stream(frame)
    assert stream.report().macs["needed"] > 0


class Clamped(nn.Module):
    """Two clamps, one of them a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y.clamp(0, 6) + y.clamp(0, 5)


def test_the_pass_of_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_page("writing_a_pass.md", tmp_path, monkeypatch)
    found["test_it_is_idempotent"]()
    assert found["planned"].stage == "planned"
    kind: type[Pass] = found["ClampToRelu6"]
    example = torch.randn(1, 3, 8, 8)
    program = capture(Clamped().eval(), (example,))
    result = kind().run(program)
    names = [str(n.target) for n in result.program.nodes if n.op == "call_function"]
    assert names.count("aten.hardtanh.default") == 1
    assert names.count("aten.clamp.default") == 1
    assert any("is no ReLU6" in note for note in result.notes)
    with torch.no_grad():
        assert torch.equal(result.program.run(example)[0], program.run(example)[0])
    assert str(parse_options(kind, "limit=5")) == "clamp-to-relu6{limit=5.0}"
    again = kind().run(result.program)
    assert not again.changed
    assert str(again.program) == str(result.program)


def test_the_op_of_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "OPS", [])
    with monkeypatch.context() as patch:
        for target in overloads("rot90.default"):
            patch.setitem(base.REGISTRY, target, None)  # what is registered below is taken out again
            del base.REGISTRY[target]
        found = run_page("writing_an_op.md", tmp_path, patch)
        (op,) = base.OPS
        assert type(op) is found["HalfTurn"]
        (case,) = op.cases()
        module, frames = case.module().eval(), [torch.rand(case.shapes[0]) for _ in range(2)]
        program = capture(module, (frames[0],))
        (node,) = (n for n in program.nodes if op_of(n) is op)
        assert not info(node).dense
        check(op, node, values_of(program, (frames[0],)))
        stream = stream_of(module, frames[0])
        for frame in frames:
            assert torch.equal(stream(frame), module(frame))
        quarter = capture(Lambda(lambda x: torch.rot90(x, 1, (2, 3))).eval(), (frames[0],))
        (declined,) = (n for n in quarter.nodes if op_of(n) is op)
        assert "only half turns" in info(declined).dense


class Leftovers(nn.Module):
    """Pointwise operators before a convolution: its window reads what they compute, so they stand alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x * x + x).relu()
        z: torch.Tensor = self.conv(y)
        return z + y


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_the_backend_of_the_tutorial_works(
    threshold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = run_page("writing_a_backend.md", tmp_path, monkeypatch)["RowsBackend"]
    scheduled: list[float] = []

    class Noting(kind):  # type: ignore[misc, valid-type]  # known only once the page has run
        def build(self, accepted: kernels.Accepted[int]) -> Callable[[Context], None]:
            run, name = super().build(accepted), accepted.call.name

            def noted(context: Context) -> None:
                run(context)
                scheduled.append(float(context.scheduled[name]) / math.prod(accepted.call.extent))

            return noted

    model, clip = Leftovers().eval(), list(testing.moving_clip(6, (1, 3, 24, 20)))
    plain = convert(model, clip[0], threshold=threshold, backend="reference")
    monkeypatch.setattr(choose, "BACKENDS", (Noting(), *kernels.BACKENDS))
    with pytest.raises(errors.BackendError, match="rows: it is no map that is computed from maps"):
        convert(model, clip[0], backend="rows")
    monkeypatch.setattr(choose, "BACKENDS", (Noting(), ReferenceBackend()))
    stream = convert(model, clip[0], threshold=threshold)
    for frame in clip:
        assert torch.equal(stream(frame), plain(frame))
    ours, theirs = stream.report().layers, plain.report().layers
    served = [row.name for row in ours if row.kernel == "rows"]
    assert served
    assert [row.active_share for row in ours] == [row.active_share for row in theirs]
    assert len(scheduled) == len(served) * len(clip)
    assert all(share < 1 for share in scheduled[len(served) :])


def test_every_test_that_a_page_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "trust.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    absent = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert not absent


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    checked = 0
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if target.startswith(("http:", "https:")):
                continue
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
            checked += 1
    assert checked > 0


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    code = re.findall(r"```(.*?)```|`([^`\n]+)`", text, re.S)
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", " ".join(block or inline for block, inline in code)))
    names = {
        *videoeff.__all__,
        *names_of_testing(),
        *(n for kind in STREAM for n in vars(kind) if not n.startswith("_")),
    }
    for kind in (Report, LayerReport, AuditReport, Audited, Drift):
        names |= {n for n in (*vars(kind), *kind.__dataclass_fields__) if not n.startswith("_")}
    names |= {
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and issubclass(v, (errors.VideoEffError, Warning))
    }
    names |= {*inspect.signature(videoeff.convert).parameters, *inspect.signature(videoeff.load).parameters}
    assert not sorted(names - words)


def signature_text(function: Callable[..., Any], *, bound: bool = False) -> str:
    """Parameters and defaults of a function as the reference writes them: ``(path, *, model=None)``."""
    signature = inspect.signature(function)
    given = list(signature.parameters.values())[1 if bound else 0 :]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in given]
    text = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return text.replace("'", '"')


def missing_signatures(text: str) -> list[str]:
    """The public signatures that a reference does not state."""
    joined = re.sub(r"\s+", " ", text)
    functions = [getattr(videoeff, n) for n in videoeff.__all__ if inspect.isfunction(getattr(videoeff, n))]
    wanted = [f"videoeff.{f.__name__}{signature_text(f)} -> {f.__annotations__['return']}" for f in functions]
    for name, member in (m for kind in STREAM for m in vars(kind).items()):
        if inspect.isfunction(member) and not name.startswith("_"):
            if name == "forward":
                name = "stream"  # it is called, not named
            wanted.append(f"`{name}{signature_text(member, bound=True)}`")
    return [w for w in wanted if w not in joined]


def test_the_reference_states_every_signature() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert not missing_signatures(text)
    # The check sees what it looks for: a changed default and a forgotten method.
    assert len(missing_signatures(text.replace("backend=None", "backend=1"))) == 1
    assert missing_signatures(text.replace("`reset(stream=None)`", "")) == ["`reset(stream=None)`"]


def names_of_testing() -> set[str]:
    """What videoeff.testing defines for others."""
    own = [n for n, v in vars(testing).items() if getattr(v, "__module__", "") == testing.__name__]
    return {n for n in (*own, "TOLERANCES") if not n.startswith("_")}


def test_every_pass_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `([a-z-]+)` \|.*$", text, re.M)}
    for name, kind in PASSES.items():
        assert name in rows, f"{name} has no row"
        for option in dataclasses.fields(kind):
            assert f"`{option.name}`" in rows[name], f"{name}: its option {option.name} is missing"
    assert set(RECIPES) <= set(rows)


def test_every_command_and_option_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    shared, _, commands = text.partition("## Command line")[2].partition("### videoeff ")
    sections = {s.split()[0]: s for s in commands.split("### videoeff ")}
    assert set(sections) == set(main.commands)
    for name, command in main.commands.items():
        for option in (p for p in command.params if isinstance(p, click.Option)):
            for flag in (*option.opts, *option.secondary_opts):
                row = re.search(rf"^\|[^|]*`{flag}[ `][^|]*\|([^|]*)\|", shared, re.M)
                served = re.split(r"[ ,]+", row[1].strip()) if row is not None else []
                named = name in served or served == ["all"] or re.search(rf"`{flag}[ `]", sections[name])
                assert named, f"videoeff {name} {flag}"


def test_the_reference_names_no_option_that_is_not_there() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    shared, _, commands = text.partition("## Command line")[2].partition("### videoeff ")
    flags = {
        name: {f for p in command.params for f in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
        for name, command in main.commands.items()
    }
    for row in re.findall(r"^\| `-.*$", shared, re.M):
        option, served = row.split("|")[1:3]
        for name in main.commands if served.strip() == "all" else re.split(r"[ ,]+", served.strip()):
            assert set(re.findall(r"`(-[^ `]+)", option)) <= flags[name], f"{name}: {option}"
    for section in commands.split("### videoeff "):
        name = section.split()[0]
        options = [row.split("|")[1] for row in re.findall(r"^\| `-.*$", section, re.M)]
        assert set(re.findall(r"`(-[^ `]+)", " ".join(options))) <= flags[name], name
