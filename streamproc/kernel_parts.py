"""How kernels that call kernels are compiled: each part once to LLVM's language, and the whole optimised once.

Numba optimises a callee with all that it calls, makes machine code of it and a function that Python could call, and
does all of that again in each of its callers, up to the kernel that Python does call. Here a callee is a *part*: it is
only translated. The kernel that Python calls links the parts that it reaches, and LLVM sees the program once, as it
sees one in C. It inlines from the callees upwards, so what comes out is as fast.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"
# (Numba's own classes have no types)

from __future__ import annotations

from typing import Any

from numba.core import environment
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

_env_of: Any = environment.lookup_environment


class _Part(JITCodeLibrary):
    """A function that other kernels link, neither optimised nor made machine code of."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Nowhere: Python cannot call it."""
        return 0

    @property
    def codegen(self) -> _Part:
        return self

    def set_env(self, name: str, env: object) -> None:
        """Left to the kernel that links this, which has the variable."""


class _Whole(JITCodeLibrary):
    """A function that Python calls, with all parts that it reaches."""

    def finalize(self) -> None:
        # Breadth first: LLVM links only what is spoken of by then.
        reached = dict.fromkeys(self._linking_libraries)
        waiting = list(reached)
        for library in waiting:
            if isinstance(library, _Part):
                more = [one for one in dict.fromkeys(library._linking_libraries) if one not in reached]
                reached.update(dict.fromkeys(more))
                waiting += more
        self._linking_libraries = waiting
        super().finalize()
        for variable in self._final_module.global_variables:
            env = _env_of(variable.name) if variable.name.startswith("_ZN08NumbaEnv") else None
            if env is not None:
                self._codegen.set_env(variable.name, env)


class Part(Compiler):
    """Compiles for other kernels."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _Part(self.state.targetctx.codegen(), "part")


class Whole(Compiler):
    """Compiles for Python."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _Whole(self.state.targetctx.codegen(), "kernel")
        self.state.library.enable_object_caching()
