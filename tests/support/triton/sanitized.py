"""A few frames of small networks: ``compute-sanitizer python -m tests.support.triton.sanitized``."""

from __future__ import annotations

import torch

from tests.support.streams import stream_of
from tests.support.triton.compare import dense, passes, squares
from tests.support.triton.nets import NETS, build
from videoeff.testing import TOLERANCES, poison, relative_error

SHAPE = (2, 3, 37, 45)


def main() -> None:
    """Compare with the dense model, at several thresholds."""
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda")
    for name in NETS:
        for how, dtype in (
            ("exact", torch.float32),
            ("relative", torch.float16),
            ("predicted", torch.float16),
        ):
            module = build(name, device, dtype)
            frames = list(squares(4, SHAPE, device, dtype))
            stream = stream_of(module, frames[0], passes=passes(how), backend="triton")
            poison(stream)
            for number, frame in enumerate(frames):
                result = stream(frame)
                if how == "exact" or number == 0:
                    assert relative_error(result, dense(module, frame)) <= TOLERANCES[dtype].relative
            torch.cuda.synchronize()
            print(name, how, dtype, flush=True)


if __name__ == "__main__":
    main()
