"""One tensor through three layers, frame by frame, with every number on paper.

Prints what ``docs/worked_example.md`` explains: what is computed, what is passed on, what is kept, and the
multiply-accumulates. ``python examples/worked_example.py`` prints it; with the document's path as an argument
it writes the numbers into the document.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import videoeff
from videoeff.runtime.observation import Observation
from videoeff.runtime.streaming_module import StreamingModule

TAU = 0.5
PASSES = (
    "drop-noops,insert-delta-caches,fuse-pointwise,"
    f"insert-thresholds{{threshold={TAU}, test=max, input_test=max}}"
)
LAYERS = ("x", "edges", "pool/max_pool2d", "score")


class Tiny(nn.Module):
    """A 3×3 edge filter with ReLU, a 2×2 maximum, and a 1×1 convolution to two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(1, 1, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.score = nn.Conv2d(1, 2, 1)
        self.edges.weight = nn.Parameter(torch.tensor([[[[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]]]]))
        self.edges.bias = nn.Parameter(torch.tensor([-1.0]))
        self.score.weight = nn.Parameter(torch.tensor([0.5, -0.25]).view(2, 1, 1, 1))
        self.score.bias = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Take (B, 1, 6, 6); return (B, 2, 3, 3)."""
        out: Tensor = self.score(self.pool(torch.relu(self.edges(x))))
        return out


def frames() -> list[tuple[str, Tensor]]:
    """Four frames (1, 1, 6, 6), each with a word on what happens in it."""
    still = torch.ones(1, 1, 6, 6)
    first, second = still.clone(), still.clone()
    first[0, 0, 1, 1] = 4.0
    second[0, 0, 1, 2] = 4.0
    third = second.clone()
    third[0, 0, 4, 3] = 1.4
    fourth = second.clone()
    fourth[0, 0, 4, 3] = 1.8
    return [
        ("the first frame", first),
        ("the bright pixel moves one to the right", second),
        ("a pixel brightens by 0.4, less than the threshold", third),
        ("the same pixel brightens by 0.4 once more", fourth),
    ]


def grid(values: Tensor) -> list[str]:
    """A map (H, W) as lines, numbers without needless zeros."""
    return [" ".join(f"{v:4g}" for v in row) for row in (values.double() * 1e6).round().div(1e6).tolist()]


def marks(mask: Tensor) -> list[str]:
    """A mask (H, W) as lines of # and dots."""
    return [" ".join("#" if v else "." for v in row) for row in mask.tolist()]


def beside(blocks: list[tuple[str, list[str]]]) -> list[str]:
    """Blocks of lines next to each other, each under its title."""
    height = max(len(lines) for _, lines in blocks)
    columns = []
    for title, lines in blocks:
        column = [title, *lines, *[""] * (height - len(lines))]
        width = max(len(line) for line in column)
        columns.append([line.ljust(width) for line in column])
    return ["    ".join(row).rstrip() for row in zip(*columns, strict=True)]


def layer_section(name: str, seen: Observation, stream: StreamingModule, dense: int) -> str:
    """One layer in one frame: what was computed, what was passed on, what is kept, and the work."""
    active, changed = seen.active[name][0], seen.changed[name][0]
    kept = stream.values()[name][0]
    blocks = [("computed", marks(active)), ("passed on", marks(changed))]
    blocks += [(f"kept, channel {i}" if len(kept) > 1 else "kept", grid(one)) for i, one in enumerate(kept)]
    total = active.numel()
    computed, passed = int(active.sum()), int(changed.sum())
    work = f", {dense * computed // total} of {dense} MACs" if dense else ""
    verb = "compared" if name == "x" else "computed"
    head = f"{name}: {computed} of {total} pixels {verb}{work}; {passed} passed on"
    return "\n".join([head, "", *beside(blocks)])


def sections() -> list[str]:
    """Everything this example prints, one text for each block of the document."""
    torch.set_num_threads(1)
    model = Tiny().eval()
    stream = videoeff.convert(model, torch.zeros(1, 1, 6, 6), passes=PASSES)
    macs = {layer.name: layer.macs_dense for layer in stream.report().layers}
    program = "\n".join(line for line in str(stream.programs[""]).splitlines() if " = const(" not in line)
    found = [program]
    for number, (what, frame) in enumerate(frames(), start=1):
        with stream.observe() as seen, torch.no_grad():
            away = float((stream(frame) - model(frame)).abs().max())
        found.append("\n".join([f"frame {number}: {what}", "", *grid(frame[0, 0])]))
        work = sum(macs[n] * int(seen.active[n].sum()) // seen.active[n].numel() for n in LAYERS)
        total = f"frame {number}: {work} of {sum(macs.values())} MACs; largest difference from dense {away:g}"
        layers = [layer_section(name, seen, stream, macs[name]) for name in LAYERS]
        found.append("\n\n".join([*layers, total]))
    specs = [spec for engine in stream.engines.values() for spec in engine.plan.state]
    state = [f"{spec.name}: {list(spec.shape)}, {spec.nbytes} bytes" for spec in specs]
    found.append("\n".join([*state, f"together {stream.report().state_bytes} bytes"]))
    return found


BLOCK = re.compile(r"^```text\n(.*?)\n```$", re.DOTALL | re.MULTILINE)


def update(document: str, texts: list[str]) -> str:
    """The document with its ``text`` blocks replaced, in order.

    Raises:
        ValueError: the document has more or fewer blocks than there are texts.
    """
    count = len(BLOCK.findall(document))
    if count != len(texts):
        raise ValueError(f"the document has {count} text blocks, the example prints {len(texts)}")
    rest = iter(texts)
    return BLOCK.sub(lambda _: f"```text\n{next(rest)}\n```", document)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(update(page.read_text(encoding="utf-8"), sections()), encoding="utf-8")
    if not sys.argv[1:]:
        print("\n\n".join(sections()))
