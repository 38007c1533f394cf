"""Views of a compiled model: an HTML page, Model Explorer JSON and terminal tables.

Everything here starts from a ``networkx.DiGraph`` whose nodes carry the attributes described in
``videoeff.inspect.schema``. The writers of files are ``write_html`` and ``write_model_explorer``; the tables
are ``graph_table`` and ``history_table``. Names are loaded on first access.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
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
