"""``videoeff tune``: measure when computing everything is the faster way on this processor."""

from __future__ import annotations

import click

from videoeff.commands.output import Command, emit, json_option, show


@click.command(cls=Command)
@json_option
@click.option("--threads", type=click.IntRange(1), help="Threads to measure with; all cores if left out.")
def tune(as_json: bool, threads: int | None) -> None:
    """Measure from which share of active pixels on each kind of layer is computed whole.

    Takes some ten seconds. The table is kept in the user's cache folder for this processor, and every stream
    converted or loaded from then on uses it; without one a shipped table serves.
    """
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
        emit({"shares": table, "path": path})
        return
    for kind, share in table.items():
        show(f"{kind:18s} {'never' if share > 1 else f'from {share:.0%} on'}")
    show(f"written to {path}")
