"""Many cameras, one memory each, on a few threads."""
