"""A graph with its constants as a module that generates its code when it is run first."""

from __future__ import annotations

from typing import Any

from torch import fx

#: What ``fx.GraphModule.recompile`` leaves of the generated code.
_GENERATED = frozenset({"_code", "_lineno_map", "_prologue_start"})


#: Where a module of PyTorch keeps what is called behind its forward.
FORWARD_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


class LazyGraphModule(fx.GraphModule):
    """A ``GraphModule`` whose ``recompile`` only forgets the code.

    A compiler makes many graphs and runs few of them: code is generated when the module is called or its
    code is asked for.
    """

    def recompile(self) -> Any:
        """Forget the code of an earlier graph."""
        for name in _GENERATED:
            self.__dict__.pop(name, None)
        type(self).forward = LazyGraphModule.forward  # type: ignore[method-assign]  # fx gives each its class

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Generate the code, which takes this method's place, and run it."""
        super().recompile()
        return self(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in _GENERATED:
            super().recompile()
            return self.__dict__[name]
        return super().__getattr__(name)

    def __reduce__(self) -> Any:
        return fx.GraphModule(self, self.graph).__reduce__()
