"""The numbers of the native backend that decide about speed on the Python side.

Each has its unit and where it comes from: timed or guessed. All were found on one processor, the Intel Xeon
at 2.5 GHz of ``docs/cpu.md``. What ``videoeff tune`` measures anew stands in ``costs.json``, the numbers of
the kernels themselves in ``src/tuning.h``, with the same words; sizes from which on a pass changes the
program are options of that pass.
"""

from __future__ import annotations

#: Channels below which minimal filtering does not pay, as vectors are too empty for the tiles' transforms.
#: Timed at 36 channels (1.2 times as fast); 24 is guessed from that.
WINOGRAD_CHANNELS = 24

#: Pixels of the result below which minimal filtering does not pay. Guessed: transformed weights are 16/9 as
#: many, and reading them takes what the products save.
WINOGRAD_PIXELS = 128

#: Elements of an output from which on the native copy to planes serves. Timed: there it is faster than
#: PyTorch's own copy.
PLANES_ELEMENTS = 1 << 17
