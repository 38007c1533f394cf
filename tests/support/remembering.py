"""Small models that remember something from frame to frame, each in another place."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (1, 3, 32, 32)

Body = Callable[[Any, Tensor], Tensor]


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


class Net(nn.Module):
    """Two convolutions, a buffer, and whatever a case does with them."""

    n: Tensor

    def __init__(self, body: Body | None = None, **attributes: Any) -> None:
        super().__init__()
        self.c, self.d, self.body = conv(), conv(), body
        self.register_buffer("n", torch.zeros(()))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        assert self.body is not None
        return self.body(self, x)


def branch(x: Tensor) -> Tensor:
    """Decides with the frame's values, so that no whole model with it can be exported."""
    return x / 255 if x.max() > 9 else x


def in_parts(body: Body) -> Body:
    """The same body in a model that can be captured in parts alone."""
    return lambda s, x: body(s, branch(x))


# ---------------------------------------------------------------- buffers: carried


def counts(s: Any, x: Tensor) -> Tensor:
    s.n.add_(1)
    return s.c(x) * s.n  # type: ignore[no-any-return]


def assigns(s: Any, x: Tensor) -> Tensor:
    s.n = s.n * 0.5 + s.c(x).mean()
    return s.d(x) * s.n  # type: ignore[no-any-return]


class Last(nn.Module):
    """Keeps a map, and writes a slice of a list of counters."""

    last: Tensor
    k: Tensor

    def __init__(self, streams: int = 1) -> None:
        super().__init__()
        self.c = conv()
        self.register_buffer("last", torch.zeros(streams, *SHAPE[1:]))
        self.register_buffer("k", torch.zeros(2, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(x) + self.last
        self.last.copy_(y * 0.5)
        self.k[1] += 1
        return y * self.k[1]


class RunningMean(nn.Module):
    """Adapts the statistics of its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b = conv(), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        assert self.b.running_mean is not None
        self.b.running_mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
        return self.b(y)  # type: ignore[no-any-return]


class Inner(nn.Module):
    """A part with a buffer of its own."""

    n: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c = conv()
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.c(x) * self.n  # type: ignore[no-any-return]


def calls_inner(times: int) -> Net:
    def body(s: Any, x: Tensor) -> Tensor:
        x = branch(x)
        for _ in range(times):
            x = s.inner(x)
        return s.d(x)  # type: ignore[no-any-return]

    return Net(body, inner=Inner())


# ---------------------------------------------------------------- caches and notes: fine


class CachedGrid(nn.Module):
    """A head that remembers its grid for the size it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.shape, self.grid = conv(), torch.Size(), torch.empty(0)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        y = self.c(x)
        if self.shape != y.shape:
            self.shape = y.shape
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype).expand(y.shape[-2:])
        if not torch.allclose(self.grid[0], self.grid[-1]):  # reads values: a trace must find them there
            raise ValueError
        return y * self.grid, {"raw": y}


class BufferGrid(nn.Module):
    """The same in a buffer that takes another shape."""

    grid: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c = conv()
        self.register_buffer("grid", torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x)
        if self.grid.shape[-1] != y.shape[-1]:
            self.grid = torch.arange(y.shape[-1], dtype=y.dtype).view(1, 1, 1, -1)
        return y * self.grid  # type: ignore[no-any-return]


@functools.lru_cache
def ramp(size: int) -> Tensor:
    return torch.arange(size).float()


def remembered_ramp(s: Any, x: Tensor) -> Tensor:
    y = s.c(x)
    return y * ramp(y.shape[-1])  # type: ignore[no-any-return]


def notes(s: Any, x: Tensor) -> Tensor:
    s.seen = getattr(s, "seen", 0) + 1
    s.feature = s.c(x)
    return s.d(s.feature)  # type: ignore[no-any-return]


class Masked(nn.Conv2d):
    """Masks its own weight at every call, as autoregressive networks do."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__(3, 3, 3, padding=1)
        self.register_buffer("mask", torch.ones(3, 3, 3, 3).tril())

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


# ---------------------------------------------------------------- hooks and patched forwards


def hooked(own: bool) -> Net:
    """Features collected by a hook, in an attribute of the model or in a dictionary of its own."""
    model = Net(in_parts(lambda s, x: s.d((s.c(x), s.found["c"])[1])))
    found: dict[str, Tensor] = {}
    vars(model)["found"] = found
    if own:
        model.c.register_forward_hook(lambda m, i, o: found.update(c=o))
    else:
        model.c.register_forward_hook(lambda m, i, o: vars(model)["found"].update(c=o))
    return model


def patched(parts: bool) -> nn.Module:
    model = nn.Sequential(conv(), nn.ReLU(), conv())
    before: Callable[[Tensor], Tensor] = model.forward

    def forward(x: Tensor) -> Tensor:
        return before(branch(x) if parts else x) * 2

    model.forward = forward  # type: ignore[method-assign]
    return model


def patched_over_a_list() -> nn.Module:
    model = Net()
    layers = [model.c, model.d]

    def forward(x: Tensor) -> Tensor:
        return functools.reduce(lambda y, layer: layer(y), layers, branch(x))

    model.forward = forward  # type: ignore[method-assign]
    return model


def kept_in_a_list() -> nn.Module:
    model = Net(lambda s, x: functools.reduce(lambda y, layer: layer(y), s.layers, branch(x)))
    model.__dict__["layers"] = [model.c, model.d]
    return model


def hooked_before() -> nn.Module:
    model = Net(in_parts(lambda s, x: s.d(s.c(x))))
    model.c.register_forward_pre_hook(lambda m, a, k: ((a[0] * 2,), k), with_kwargs=True)
    return model


# ---------------------------------------------------------------- refused by name

TOTAL = 0
CACHE: dict[str, Tensor] = {}


def counts_globally(s: Any, x: Tensor) -> Tensor:
    global TOTAL
    TOTAL += 1
    return s.c(x) * TOTAL  # type: ignore[no-any-return]


def keeps_globally(s: Any, x: Tensor) -> Tensor:
    y = s.c(x)
    last = CACHE.get("last", torch.zeros_like(y))
    CACHE["last"] = y
    return s.d(y + last)  # type: ignore[no-any-return]


class CountsInClass(nn.Module):
    """Counts in a class attribute."""

    frames = 0

    def __init__(self) -> None:
        super().__init__()
        self.c = conv()

    def forward(self, x: Tensor) -> Tensor:
        CountsInClass.frames += 1
        return self.c(x) * CountsInClass.frames  # type: ignore[no-any-return]


def counts_in_python(s: Any, x: Tensor) -> Tensor:
    s.k = getattr(s, "k", 0) + 1
    return s.c(x) * s.k  # type: ignore[no-any-return]


def every_tenth(s: Any, x: Tensor) -> Tensor:
    s.k = getattr(s, "k", 0) + 1
    if s.k % 10 == 0:
        s.background = x.clone()
    return s.c(x) + getattr(s, "background", 0 * x)  # type: ignore[no-any-return]


def keeps_last(s: Any, x: Tensor) -> Tensor:
    last = getattr(s, "last", torch.zeros_like(x))
    s.last = x
    return s.d(s.c(x) + last)  # type: ignore[no-any-return]


def keeps_list(s: Any, x: Tensor) -> Tensor:
    y = s.c(x)
    out = y + s.past[-1]
    s.past.append(y)
    return out  # type: ignore[no-any-return]


def keeps_in_object(s: Any, x: Tensor) -> Tensor:
    y = s.c(x)
    out = y if s.ring.value is None else y + s.ring.value
    s.ring.value = y
    return out  # type: ignore[no-any-return]


def writes_attribute(s: Any, x: Tensor) -> Tensor:
    s.t.add_(1)
    return s.c(x) * s.t  # type: ignore[no-any-return]


def shrinks_weight(s: Any, x: Tensor) -> Tensor:
    s.c.weight.data.mul_(0.9)
    return s.c(x)  # type: ignore[no-any-return]


def counts_in_closure() -> Net:
    k = 0

    def body(s: Any, x: Tensor) -> Tensor:
        nonlocal k
        k += 1
        return s.c(x) * k  # type: ignore[no-any-return]

    return Net(body)


class FirstFrame(nn.Module):
    """Subtracts the first frame it saw, which it keeps in a buffer."""

    reference: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c, self.ready = conv(), False
        self.register_buffer("reference", torch.zeros(SHAPE))

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.reference.copy_(x)
            self.ready = True
        return self.c(x - self.reference)  # type: ignore[no-any-return]


def noise(s: Any, x: Tensor) -> Tensor:
    return s.c(x) + torch.randn_like(x)  # type: ignore[no-any-return]


def dropout(s: Any, x: Tensor) -> Tensor:
    return F.dropout(s.c(x), 0.5, training=True)


def bernoulli(s: Any, x: Tensor) -> Tensor:
    return s.c(x) * torch.bernoulli(torch.full((1, 3, 1, 1), 0.5))  # type: ignore[no-any-return]


def multinomial(s: Any, x: Tensor) -> Tensor:
    return s.c(x) * torch.multinomial(torch.ones(5), 1)  # type: ignore[no-any-return]


def python_random(s: Any, x: Tensor) -> Tensor:
    return s.c(x) * random.random()  # type: ignore[no-any-return]


def clock(s: Any, x: Tensor) -> Tensor:
    return s.c(x) * (time.perf_counter() % 1)  # type: ignore[no-any-return]


#: What streams, and gives the model's own outputs.
STREAMING: dict[str, Callable[[], nn.Module]] = {
    "buffer counts": lambda: Net(counts),
    "buffer is assigned": lambda: Net(assigns),
    "buffer keeps a map": Last,
    "running mean": RunningMean,
    "buffer counts around parts": lambda: Net(in_parts(counts)),
    "buffer is assigned around parts": lambda: Net(in_parts(assigns)),
    "buffer of a part": lambda: calls_inner(1),
    "buffer of a part called twice": lambda: calls_inner(2),
    "grid in an attribute": CachedGrid,
    "grid in a buffer": BufferGrid,
    "grid of a function": lambda: Net(remembered_ramp),
    "notes": lambda: Net(notes),
    "notes around parts": lambda: Net(in_parts(notes)),
    "masked weight": lambda: nn.Sequential(Masked(), conv()),
    "hook over the module": lambda: hooked(own=False),
    "hook over a dictionary": lambda: hooked(own=True),
    "hook in front": hooked_before,
    "patched forward": lambda: patched(parts=False),
    "patched forward in parts": lambda: patched(parts=True),
    "patched forward over a list": patched_over_a_list,
    "layers in a list": kept_in_a_list,
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), conv()),
    "data parallel": lambda: nn.DataParallel(nn.Sequential(conv(), conv())),
}

#: What is refused, and what the message names.
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "global number": (lambda: Net(counts_globally), "'global.TOTAL'"),
    "global dictionary": (lambda: Net(keeps_globally), r"CACHE\['last'\]"),
    "class attribute": (CountsInClass, "'CountsInClass.frames'"),
    "attribute": (lambda: Net(counts_in_python), "'k'"),
    "every tenth frame": (lambda: Net(every_tenth), "'k'"),
    "last frame": (lambda: Net(keeps_last), "'last'"),
    "list in a submodule": (
        lambda: nn.Sequential(Net(keeps_list, past=[torch.zeros(SHAPE)])),
        r"'0\.past\[1\]'",
    ),
    "object": (lambda: Net(keeps_in_object, ring=SimpleNamespace(value=None)), r"'ring\.value'"),
    "object around parts": (
        lambda: Net(in_parts(keeps_in_object), ring=SimpleNamespace(value=None)),
        r"'ring\.value'",
    ),
    "attribute around parts": (lambda: Net(in_parts(counts_in_python)), "'k'"),
    "tensor attribute": (lambda: Net(writes_attribute, t=torch.zeros(())), "'t'"),
    "closure": (counts_in_closure, "'body:k'"),
    "weight": (lambda: Net(shrinks_weight), r"'c\.weight'"),
    "first frame in a buffer": (FirstFrame, "writes 'reference' in some frames"),
    "noise": (lambda: Net(noise), "random numbers .randn_like in Net"),
    "dropout": (lambda: Net(dropout), "random numbers .dropout"),
    "dropout around parts": (lambda: Net(in_parts(dropout)), "random numbers"),
    "bernoulli": (lambda: Net(bernoulli), "random numbers .bernoulli"),
    "multinomial": (lambda: Net(multinomial), "random numbers .multinomial"),
    "random numbers of Python": (lambda: Net(python_random), "not the same twice"),
    "clock": (lambda: Net(clock), "not the same twice"),
}


def forget() -> None:
    """Put back what the models above keep outside themselves."""
    global TOTAL
    TOTAL = CountsInClass.frames = 0
    CACHE.clear()
    ramp.cache_clear()
