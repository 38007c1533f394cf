"""``videoeff tune``: measure on this machine what the kernels' tables say of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from videoeff.cli.shared.output import Command, emit, json_option, show


@click.command(cls=Command, short_help="Measure the kernels on this machine.")
@json_option
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), help="cpu: threads to measure with; all cores if left out."
)
@click.option("--model", "references", metavar="REF", multiple=True, help="cuda: a network; may be repeated.")
@click.option(
    "--input-size", type=click.IntRange(1), nargs=2, default=(1080, 1920), show_default=True,
    metavar="H W", help="cuda: of the frames.",
)  # fmt: skip
@click.option("--streams", type=click.IntRange(1), default=4, show_default=True, help="cuda: in a batch.")
@click.option(
    "--dtype", type=click.Choice(["float16", "bfloat16", "float32"]), default="float16", help="cuda."
)
@click.option("--budget", type=click.FloatRange(1), default=900.0, show_default=True, help="cuda: seconds.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="cuda: write the table there instead.")
def tune(as_json: bool, device: str, threads: int | None, **options: Any) -> None:
    """Measure the kernels on this machine; streams converted or loaded from then on use the result.

    On a CPU: from which share of active pixels on each kind of layer is computed whole, and what minimal
    filtering (Winograd) of 3x3 convolutions costs. Takes some ten seconds. The first stream on a processor
    measures the shares of convolutions by itself, in 2 s (not with VIDEOEFF_MEASURE=0). On CUDA: the sizes of
    blocks for each distinct layer of the usual networks, with all pixels to compute and with 5 % of them. The
    table is kept in the user's cache folder for this processor or GPU; without one a shipped table serves.
    """
    if device == "cuda":
        _cuda(as_json, options)
    else:
        _cpu(as_json, threads)


def _cpu(as_json: bool, threads: int | None) -> None:
    import torch

    from videoeff.bench.costs import measure, write
    from videoeff.errors import BackendError
    from videoeff.kernels.cpp import library

    if reason := library.unavailable():
        raise BackendError(f"there is nothing to tune: {reason}")
    if threads is not None:
        torch.set_num_threads(threads)
    table = measure()
    path = write(table)
    if as_json:
        emit({"shares": dict(table.shares), "winograd": table.winograd, "path": path})
        return
    show("Share of active pixels from which on a layer is computed whole:")
    for kind, share in table.shares.items():
        show(f"  {kind:18s} {'never' if share > 1 else f'from {share:.0%} on'}")
    show(f"A product of minimal filtering takes the time of {table.winograd:.2f} plain ones;")
    show("it is used for 3x3 convolutions where it is ahead, below 2.25.")
    show(f"written to {path}")


def _cuda(as_json: bool, options: dict[str, Any]) -> None:
    import torch

    from videoeff.bench.cuda_sizes import require_cuda

    require_cuda("--device cuda")
    from videoeff.bench.cuda_tune import MODELS, Wanted, tune  # needs Triton

    wanted = Wanted(
        tuple(options["references"]) or tuple(MODELS),
        options["input_size"],
        options["streams"],
        getattr(torch, options["dtype"]),
        options["budget"],
    )
    table, path = tune(wanted, options["out"], lambda text: click.echo(text, err=True))
    if as_json:
        found = {d: {k: [r.to_json() for r in rs] for k, rs in kinds.items()} for d, kinds in table.items()}
        emit({"table": found, "path": str(path)})
        return
    for name, kinds in table.items():
        show(f"{name}: {sum(len(listed) for listed in kinds.values())} rule(s)")
    show(f"written to {path}")
