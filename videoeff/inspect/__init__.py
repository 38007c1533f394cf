"""Views of a compiled model: an HTML page, Model Explorer JSON and terminal tables.

``write_stream_html`` and ``write_stream_model_explorer`` show a stream before and after the rewrite.
``program_to_networkx``, ``stream_to_networkx`` and ``captured_to_networkx`` make the ``networkx.DiGraph``
behind them; ``videoeff.inspect.graph`` documents its node attributes. Any graph with these attributes can be
shown by ``write_html``, ``write_model_explorer``, ``graph_table`` and ``history_table``. Names are loaded on
first access.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "captured_program": "videoeff.inspect.graph",
    "captured_to_networkx": "videoeff.inspect.graph",
    "program_to_networkx": "videoeff.inspect.graph",
    "stream_to_networkx": "videoeff.inspect.graph",
    "stream_history": "videoeff.inspect.stream",
    "stream_summary": "videoeff.inspect.stream",
    "write_stream_html": "videoeff.inspect.stream",
    "write_stream_model_explorer": "videoeff.inspect.stream",
    "graph_table": "videoeff.inspect.tables",
    "history_table": "videoeff.inspect.tables",
    "to_text": "videoeff.inspect.tables",
    "render_html": "videoeff.inspect.html",
    "write_html": "videoeff.inspect.html",
    "write_model_explorer": "videoeff.inspect.model_explorer",
    "write_node_data": "videoeff.inspect.model_explorer",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
