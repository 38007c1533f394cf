"""Clips in and out: reading, preprocessing, writing, and the overlay of what was computed."""
