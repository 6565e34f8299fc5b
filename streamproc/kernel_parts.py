"""How kernels that call kernels are compiled: each part once to LLVM's language, and the whole optimised once.

Numba optimises a callee with all that it calls, makes machine code of it and a function that Python could call, and
does all of that again in each of its callers, up to the kernel that Python does call. Here a callee is a *part*: it is
only translated. The kernel that Python calls links the parts that it reaches, and LLVM sees the program once, as it
sees one in C. It inlines from the callees upwards, so what comes out is as fast.
"""

# mypy: disable-error-code="no-untyped-call,attr-defined"
# (Numba's own classes have no types)

from __future__ import annotations

from typing import Any, Final

from numba.core import environment
from numba.core import typed_passes as typed
from numba.core import untyped_passes as untyped
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager

from streamproc.kernel_typing import Given, KnownOperations, settled

_UNUSED: Final[frozenset[Any]] = frozenset((
    untyped.WithLifting, untyped.InlineClosureLikes, untyped.RewriteDynamicRaises, untyped.MakeFunctionToJitFunction,
    untyped.InlineInlinables, untyped.FindLiterallyCalls, untyped.LiteralUnroll,
    untyped.LiteralPropagationSubPipelinePass, typed.InlineOverloads, typed.DumpParforDiagnostics,
))  # fmt: skip
_env_of: Any = environment.lookup_environment


class _Linked(JITCodeLibrary):
    """A function that other kernels link, and that is no machine code itself."""

    def get_pointer_to_function(self, name: str) -> int:
        """Nowhere: Python cannot call it."""
        return 0

    @property
    def codegen(self) -> _Linked:
        return self

    def set_env(self, name: str, env: object) -> None:
        """Left to the kernel that links this, which has the variable."""


class _Part(_Linked):
    """Is not optimised either."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True


class _Polished(_Linked):
    """Is optimised with all that it calls, before its callers are."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


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


class _Settled(Compiler):
    """Knows which functions operations on plain types are, see `kernel_typing`."""

    def __init__(self, typing: Any, target: Any, library: Any, args: Any, returns: Any, flags: Any, names: Any) -> None:
        super().__init__(typing, target, library, args, returns, Given(flags), names)
        self.state.typingctx = KnownOperations(typing, settled(flags))

    def define_pipelines(self) -> list[Any]:
        """Numba's passes, but for those over `with`, closures, generators and functions that it would inline.

        Kernels have none of them; one that had would not compile.
        """
        whole: Any = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline = PassManager("kernel")
        pipeline.passes.extend(one for one in whole.passes if one[0] not in _UNUSED)
        pipeline.finalize()
        return [pipeline]


class Part(_Settled):
    """Compiles for other kernels."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _Part(self.state.targetctx.codegen(), "part")


class Polished(_Settled):
    """Compiles for other kernels that have their callees optimised first."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _Polished(self.state.targetctx.codegen(), "polished")


class Whole(_Settled):
    """Compiles for Python."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.state.library = _Whole(self.state.targetctx.codegen(), "kernel")
        self.state.library.enable_object_caching()
