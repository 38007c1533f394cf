"""``videoeff inspect``: the rewritten graph, and what each pass did and declined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.output import (
    Command,
    console,
    emit,
    json_option,
    loading_options,
    show,
    stage,
    writable,
)

if TYPE_CHECKING:
    from videoeff.runtime.streaming_module import StreamingModule


@click.command(cls=Command, short_help="Show the rewritten graph of an artifact.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="OUT.html", help="Write a page with both graphs."
)
@click.option(
    "--model-explorer",
    "explorer",
    type=click.Path(path_type=Path),
    metavar="OUT.json",
    help="Write both graphs for Google's Model Explorer.",
)
@click.option(
    "--activity",
    type=click.Path(path_type=Path),
    metavar="REPORT.json",
    help="Colour the nodes by what videoeff run --report measured.",
)
@click.option("--passes/--no-passes", default=True, show_default=True, help="Show what each pass did.")
@click.option("--text", is_flag=True, help="Print the graph as text instead of a table.")
@loading_options
@json_option
def inspect(
    artifact: Path,
    html: Path | None,
    explorer: Path | None,
    activity: Path | None,
    passes: bool,
    text: bool,
    reference: str | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Show the rewritten graph of ARTIFACT, with kernels and reasons, and its passes."""
    writable(html, "--html")
    writable(explorer, "--model-explorer")
    shares = None if activity is None else _activity(activity)
    from videoeff.cli.shared.feed import load_stream

    with stage(f"loading {artifact}"):
        stream = load_stream(artifact, reference, backend)
    from videoeff.inspect.graph import stream_to_networkx
    from videoeff.inspect.stream import stream_history, write_stream_html, write_stream_model_explorer
    from videoeff.inspect.tables import graph_table, history_table

    graph = stream_to_networkx(stream, activity=shares)
    with stage("writing"):
        if html is not None:
            write_stream_html(html, stream, activity=shares)
        if explorer is not None:
            write_stream_model_explorer(explorer, stream, activity=shares)
    if as_json:
        emit(_document(stream, graph, artifact))
        return
    if text:
        for name, program in stream.programs.items():
            click.echo(f"# {name}" if name else "", nl=bool(name))
            click.echo(str(program))
    else:
        show(graph_table(graph, console().width))
    if "calibration" in stream.extra:
        from videoeff.calibration.record import summary

        show("calibration", *(f"  {line}" for line in summary(stream.extra["calibration"])))
    if passes:
        show(history_table(stream_history(stream)))
    for path in (html, explorer):
        if path is not None:
            show(f"wrote {path}")


def _activity(path: Path) -> dict[str, float | None]:
    from videoeff.errors import ArtifactError
    from videoeff.serialize.files import read_json_object

    layers = read_json_object(path).get("layers")
    if not isinstance(layers, list):
        raise ArtifactError(
            f"{path}: has no list of layers; write it with videoeff run ARTIFACT CLIP --report {path}"
        )
    try:
        return {str(entry["name"]): entry["active_share"] for entry in layers}
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: its layers have no name or active_share; write it anew with videoeff run --report"
        ) from error


def _document(stream: StreamingModule, graph: Any, artifact: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from videoeff.inspect.schema import read_nodes
    from videoeff.inspect.stream import stream_history, stream_summary

    return {
        "artifact": str(artifact),
        "name": stream.name,
        "summary": stream_summary(stream, graph),
        "extra": stream.extra,
        "passes": stream_history(stream),
        "nodes": [asdict(record) for record in read_nodes(graph)],
        "edges": [[a, b] for a, b in graph.edges()],
        "text": {name: str(program) for name, program in stream.programs.items()},
    }
