"""The commands of ``videoeff.cli.main``, one module each, and what they share."""
