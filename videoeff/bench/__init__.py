"""Measuring a streaming module against dense runtimes on the machine at hand.

Each contender runs in a process of its own (:mod:`~videoeff.bench.worker`), all with the same number of
threads and the same weights; only one works at a time, and rounds over all of them are interleaved
(:mod:`~videoeff.bench.measure`). Before anything is timed, every contender's outputs are compared with eager
PyTorch's, and a disagreement stops the measurement.
"""
