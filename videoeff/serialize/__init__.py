"""Streams as files: what is written, how it is read back, and the files around it."""
