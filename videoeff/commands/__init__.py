"""The commands of ``videoeff.cli``, one module each, and what they share."""
