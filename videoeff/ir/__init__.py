"""The graph that every part of the compiler reads and rewrites, and its text form."""
