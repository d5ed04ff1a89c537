"""How the functions of the house go through Numba: its compilers, their cache on disk, and pieces made when needed.

Numba does much that no kernel here needs, and a run pays for it when it starts. A kernel is therefore compiled with
fewer passes, and loaded from the cache without the registries that only compiling needs; a piece of a kernel is a
small object until something is compiled that calls it. Whatever of this a version of Numba does not offer is left to
its own way, which takes longer and gives the same.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import cgutils, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, compile_result
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import LoweringPass, PassManager, register_pass
from numba.core.funcdesc import ExternalFunctionDescriptor
from numba.core.typed_passes import NativeLowering

__all__ = [
    "COMPILED",
    "HOUSE",
    "cached_kernels",
    "compile_cached",
    "compile_piece",
    "expect_piece",
    "export_piece",
    "inline_kernel",
    "is_to_be_compiled",
    "kernel",
    "njit",
    "outline_kernel",
]

_F = TypeVar("_F", bound=Callable[..., Any])

# `_nrt=False` leaves out reference counting: kernels allocate nothing, so nothing needs counting, and the
# atomic increments that Numba otherwise places around every call that may raise (a bounds check may) made
# decode four times slower: 143 ns a frame with them, 32 without, 21 with forced inlining as well.
# It also turns an allocation inside a kernel into a compile error, which is a rule of the house anyway.
HOUSE: dict[str, Any] = {"nogil": True, "boundscheck": True, "error_model": "numpy", "_nrt": False}

njit: Any = numba.njit  # its types leave `_nrt` out


@functools.cache
def _sources_digest() -> str:
    """Digest of all sources that can hold kernels."""
    digest = hashlib.blake2b(digest_size=16)
    house = os.path.dirname(__file__)  # noqa: PTH120 - Path takes thrice the time, at every start
    for room in ("", "decode", "filters", "grabbing", "plugins", "sinks", "sources"):
        folder = os.path.join(house, room)  # noqa: PTH118
        for name in sorted(name for name in os.listdir(folder) if name.endswith(".py")):  # noqa: PTH208
            with open(os.path.join(folder, name), "rb", 0) as source:  # noqa: PTH118, PTH123
                digest.update(name.encode())
                digest.update(source.read())
    return digest.hexdigest()


_NEEDLESS = frozenset(
    {"nopython_rewrites", "inline_closure_likes", "inline_overloads", "inline_inlinables", "with_lifting"}
    | {"literal_unroll", "find_literally", "make_function_op_code_to_jit_function", "LiteralPropagation"}
    | {"Rewrite dynamic raises", "annotate_types", "dump_parfor_diagnostics"}
)
"""Numba's passes for what no kernel has: closures, comprehensions, array expressions, `literally`, `with`, objects.

Each of them looks at every statement of every piece: without them a first run takes a tenth less, and the code is the
same."""


class _PieceLibrary(JITCodeLibrary):
    """The code of a piece, which runs only as a part of kernels: it is optimised there, and becomes machine code there.

    Numba does both for each piece by itself as well, which was a sixth of the time of compiling the table's kernel.
    """

    def _optimize_final_module(self) -> None:
        """Nothing: `finalize` of the kernel does it."""

    def _finalize_final_module(self) -> None:
        library: Any = self
        library._finalize_dynamic_globals()
        self._finalized = True


class _Step(LoweringPass):
    def __init__(self) -> None:
        LoweringPass.__init__(cast("Any", self))


def _check_bounds(context: Any, builder: Any, ind: Any, dimlen: Any, axis: Any = None) -> None:
    """Code that raises IndexError unless an index is within bounds: one comparison without signs.

    A negative number is then above every length. Numba compares twice, with signs, and raises in two places: with that,
    a run of two threads took 62 ns a frame, and takes 59.
    """
    with cgutils.if_unlikely(builder, builder.icmp_unsigned(">=", ind, dimlen)):
        context.call_conv.return_user_exc(builder, IndexError, ("index is out of bounds",))


@contextlib.contextmanager
def _bounds_checked_once() -> Iterator[None]:
    """Have `_check_bounds` in place of Numba's, which holds its lock for compiling meanwhile."""
    theirs = cgutils.do_boundscheck
    cgutils.do_boundscheck = _check_bounds
    try:
        yield
    finally:
        cgutils.do_boundscheck = theirs


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Numba's lowering with `_check_bounds`."""

    _name = "traceflow_lowering"

    def run_pass(self, state: Any) -> Any:
        """See the class. Decode has Numba's: 8.7 ns a frame, with one comparison 9.2, whatever LLVM makes of it."""
        with contextlib.nullcontext() if _of_decode(state.func_id.func) else _bounds_checked_once():
            return cast("Any", super()).run_pass(state)


@register_pass(mutates_CFG=False, analysis_only=False)
class _BeginPiece(_Step):
    """Before lowering: the code goes to a _PieceLibrary, and nothing that can be called is made of it."""

    _name = "traceflow_begin_piece"

    def run_pass(self, state: Any) -> bool:
        """See the class."""
        state.flags.no_compile = True
        library: Any = _PieceLibrary
        state.library = library(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


@register_pass(mutates_CFG=False, analysis_only=False)
class _EndPiece(_Step):
    """Behind lowering: kernels find the code by an object that stands for what can be called."""

    _name = "traceflow_end_piece"

    def run_pass(self, state: Any) -> bool:
        """See the class."""
        lowered = state["cr"]._replace(cfunc=object())
        state.targetctx.insert_user_function(lowered.cfunc, lowered.fndesc, [state.library])
        state["cr"] = lowered
        return False


class _Remembering:
    """Numba's context of types, which remembers what each operator makes of which types.

    Numba tries seven ways to type each `a & b`, thousands of times the same: a sixth of the time of a first run. What
    it says depends on the types alone; those of a function that is declared anew are others.
    """

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: Any, kws: Any) -> Any:
        """As Numba's."""
        if kws or not isinstance(function, types.Function):
            return self._context.resolve_function_type(function, args, kws)
        asked = (function, args)
        signature = _SIGNATURES.get(asked)
        if signature is None:
            signature = self._context.resolve_function_type(function, args, kws)
            _SIGNATURES[asked] = signature
        return signature


_SIGNATURES: dict[tuple[Any, Any], Any] = {}


class _KernelCompiler(CompilerBase):
    """Numba's compiler without the passes that no kernel of the house needs."""

    def __init__(self, *args: Any) -> None:
        CompilerBase.__init__(cast("Any", self), *args)
        self.state.typingctx = _Remembering(self.state.typingctx)

    def define_pipelines(self) -> list[Any]:
        """See Numba's documentation, "Customizing the Compiler"."""
        manager = PassManager("traceflow")
        for step, why in DefaultPassBuilder.define_nopython_pipeline(self.state).passes:
            if step._name not in _NEEDLESS:
                self._add(manager, step, why)
        manager.finalize()
        return [manager]

    def _add(self, manager: Any, step: Any, why: str) -> None:
        manager.add_pass(_Lowering if step is NativeLowering else step, why)


class _PieceCompiler(_KernelCompiler):
    """The same for pieces, see `_PieceLibrary`."""

    def _add(self, manager: Any, step: Any, why: str) -> None:
        around = (_BeginPiece, _Lowering, _EndPiece) if step is NativeLowering else (step,)
        for each in around:
            manager.add_pass(each, why)


_NEEDED = ("_optimize_final_module", "_finalize_final_module", "_finalize_dynamic_globals")
_LEAN = all(hasattr(JITCodeLibrary, name) for name in _NEEDED) and hasattr(cgutils, "do_boundscheck")
"""Whether this version of Numba is as the compilers above expect; another one has its own way, and takes longer."""


def _way(function: Callable[..., Any], *, piece: bool = False) -> dict[str, Any]:
    """With which compiler a function is compiled: what others wrote may need all of Numba's passes.

    Pieces of decode are compiled as Numba does it. As machine code was made of them before they were linked, LLVM has
    put them into a form from which 18.6 ns a frame come, else 20.2. The table's kernel showed no difference.
    """
    if not _LEAN or not _of_house(function):
        return {}
    return {"pipeline_class": _PieceCompiler if piece and not _of_decode(function) else _KernelCompiler}


def _of_house(function: Callable[..., Any]) -> bool:
    return (function.__module__ or "").startswith("traceflow.")


def _of_decode(function: Callable[..., Any]) -> bool:
    return (function.__module__ or "").startswith("traceflow.decode.")


cached_kernels: weakref.WeakSet[Any] = weakref.WeakSet()
"""The kernels of this process that Python calls and that have a cache, as Numba's dispatchers."""


def compile_cached(function: _F) -> _F:
    """Compile with a cache on disk that notices a change in any source, and whose faults cost time alone.

    Numba takes a cached kernel for fresh when its own file is unchanged, although another file whose functions it
    inlines may have changed: after an upgrade, old rules would go on running. There is no public way to add to its
    stamp; where this one fails, the kernel is compiled in every process instead of trusting the cache.

    The same where no folder for a cache can be written. A cache that is damaged, or on a full disk, is passed over.
    """
    try:
        dispatcher = njit(cache=True, **_way(function), **HOUSE)(function)
        cache = dispatcher._cache
        cache._cache_file._source_stamp = (cache._cache_file._source_stamp, _sources_digest())
        cache.load_overload = _forgiving(_loader(cache), cache.flush)
        cache.save_overload = _forgiving(cache.save_overload, cache.flush)
        cached_kernels.add(dispatcher)
    except (AttributeError, OSError, RuntimeError):
        dispatcher = njit(**_way(function), **HOUSE)(function)
    return cast("_F", dispatcher)


def _loader(cache: Any) -> Callable[..., Any]:
    """How a kernel is loaded from the cache, without the declarations of all functions that Numba knows.

    Only compiling needs those, and looks for them itself; Numba loads them before it looks into a cache as well, which
    was a fifth of the time of a run that compiles nothing.
    """
    if not (hasattr(cache, "_load_overload") and hasattr(cache, "_guard_against_spurious_io_errors")):
        return cast("Callable[..., Any]", cache.load_overload)

    def load(*args: Any) -> Any:
        with cache._guard_against_spurious_io_errors():
            return cache._load_overload(*args)

    return load


def _forgiving(work: Callable[..., Any], forget: Callable[[], Any]) -> Callable[..., Any]:
    """Work on the cache that answers None, Numba's word for "not there", where it fails, and forgets what it holds."""

    def attempt(*args: Any) -> Any:
        try:
            return work(*args)
        except Exception:  # noqa: BLE001 - pickle raises anything on damaged octets
            with contextlib.suppress(OSError):
                forget()
            return None

    return attempt


COMPILED: bool = not numba.config.DISABLE_JIT  # type: ignore[attr-defined] # set when numba starts
"""False when `NUMBA_DISABLE_JIT=1` makes kernels run as plain Python."""


def kernel(function: _F) -> _F:
    """Compile a kernel that Python code calls (cached on disk, without the interpreter lock).

    Args:
        function: A function over arrays and integers that raises nothing.

    Returns:
        The compiled function, or, with compilation switched off, the function under an error state
        in which unsigned arithmetic wraps without a warning, as it does compiled.
    """
    if COMPILED:
        return compile_cached(function)

    @functools.wraps(function)
    def plain(*args: Any) -> Any:
        with np.errstate(over="ignore"):
            return function(*args)

    return cast("_F", plain)


class _Piece:
    """What only kernels call: Numba's dispatcher, made when it is needed.

    A run that finds its kernels in the cache needs none of the 240. Numba asks a global
    for its type by `_numba_type_`; everything else is asked of what is made.
    """

    def __init__(self, function: Callable[..., Any], flags: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._flags = flags

    @functools.cached_property
    def _made(self) -> Any:
        return _make_piece(cast("Any", self).__wrapped__, self._flags)

    @property
    def _numba_type_(self) -> Any:
        return self._made._numba_type_

    def __call__(self, *args: Any) -> Any:
        return self._made(*args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of a copy, say, that is not filled yet
            raise AttributeError(name)
        return getattr(self._made, name)

    def __reduce__(self) -> Any:
        return _same, (self._made,)


def _same(made: Any) -> Any:
    """What a _Piece is to those who write it down: Numba, of what a function holds that it keeps in a cache."""
    return made


def _make_piece(function: Callable[..., Any], flags: dict[str, Any]) -> Any:
    """Compile what only kernels call, without the wrappers for calls from Python: they took a third of a first run.

    Where Python does call it, as tests do, it is compiled once more by itself. There is no public way to do that; a
    version of Numba without these methods compiles pieces with their wrappers.
    """
    whole = njit(**flags, **HOUSE)(function)
    if not all(hasattr(whole, name) for name in ("_insert", "_compile_for_args", "get_call_template")):
        return whole
    flags = flags | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True} | _way(function, piece=True)
    bare = njit(**flags, **HOUSE)(function)
    whole._insert = bare._insert  # Python's calls find what was compiled for them, and nothing else:
    bare._insert = lambda *_args: None  # a jump into a piece without wrappers would lead nowhere
    bare._compile_for_args = whole._compile_for_args
    if _of_house(function) and not _of_decode(function):
        bare.get_call_template = _once_for_all_sizes(bare.get_call_template)
        if _LEAN and hasattr(bare, "_cache"):
            bare._cache = _FromElsewhere(function)
    return bare


class _FromElsewhere:
    """In place of a cache of a piece: asks for what another process has compiled, see `expect_piece`."""

    cache_path = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = _name_of(function)

    def load_overload(self, arguments: Any, context: Any) -> Any:
        """What Numba calls before it compiles for these types; None: it is to compile."""
        read = _EXPECTED.get(self._name)
        return None if read is None else _loaded(read(), tuple(arguments), context)

    def save_overload(self, arguments: Any, compiled: Any) -> None:
        """What Numba calls when it has compiled."""

    def flush(self) -> None:
        """What Numba calls to compile anew."""


_EXPECTED: dict[str, Callable[[], bytes]] = {}


@contextlib.contextmanager
def expect_piece(piece: Any, read: Callable[[], bytes]) -> Iterator[None]:
    """While this lasts, an outlined piece is not compiled where it is needed, but taken from another process.

    Args:
        piece: The piece.
        read: Waits for what `export_piece` gave there. Where that is nothing, or of other types, the piece is compiled
            here.
    """
    name = _name_of(getattr(piece, "__wrapped__", piece))  # plain, it is the function itself
    _EXPECTED[name] = read
    try:
        yield
    finally:
        del _EXPECTED[name]


def compile_piece(piece: Any, *kinds: Any) -> Any:
    """Compile an outlined piece before a kernel needs it.

    Args:
        piece: The piece.
        kinds: dtype or NumPy's type of each argument; np.bool_ for a condition.

    Returns:
        What Numba made of it.
    """
    arguments = tuple(numba.from_dtype(np.dtype(kind)) for kind in kinds)
    piece.compile(arguments)
    return piece.overloads[arguments]


def export_piece(piece: Any, *kinds: Any) -> bytes:
    """Compile an outlined piece that returns nothing for a process that expects it, see `expect_piece`.

    Args:
        piece: The piece.
        kinds: As for `compile_piece`.

    Returns:
        Its name, a digest of what it was compiled from and for, and its code; b"" where Numba has another way.
    """
    compiled = compile_piece(piece, *kinds)
    if not _LEAN or compiled.signature.return_type != types.none:
        return b""
    with global_compiler_lock:
        compiled.library._ensure_finalized()  # which links into it what it calls
    code = compiled.library._final_module.as_bitcode()
    return b"\n".join((compiled.fndesc.llvm_func_name.encode(), _digest_of(compiled.signature.args), code))


def _loaded(sent: bytes, arguments: tuple[Any, ...], context: Any) -> Any:
    """What `export_piece` gave, as something that kernels of this process can call; None where it does not fit."""
    name, _, rest = sent.partition(b"\n")
    digest, _, code = rest.partition(b"\n")
    if not code or digest != _digest_of(arguments):
        return None
    library = cast("Any", _PieceLibrary)(context.codegen(), name.decode())
    try:
        library._final_module = llvm.parse_bitcode(code)
    except RuntimeError:  # it was cut off
        return None
    library._finalized = True
    return compile_result(
        target_context=context,
        signature=types.none(*arguments),
        objectmode=False,
        fndesc=ExternalFunctionDescriptor(name.decode(), types.none, arguments),
        library=library,
        entry_point=object(),
    )


def _digest_of(arguments: tuple[Any, ...]) -> bytes:
    """The types of a piece, and of which version of its source: the text of a Record says where each column lies."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(_sources_digest().encode())
    digest.update("|".join(map(str, arguments)).encode())
    return digest.hexdigest().encode()


def _name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _once_for_all_sizes(call_template: Callable[..., Any]) -> Callable[..., Any]:
    """Calls with unsigned numbers of any size are of one kind.

    A piece was compiled for each mixture of columns of four and of eight octets. Numba computes in eight in any case.
    Those of decode meet no mixtures, and keep the form in which they are fastest. True and False stay what they are:
    a piece made for one of them is shorter (`analyse_segment`: 64 ns a frame, with a condition 66).
    """

    def template(args: Any, kws: Any) -> Any:
        return call_template(tuple(map(_widest, args)), {name: _widest(kind) for name, kind in kws.items()})

    return template


def _widest(kind: Any) -> Any:
    return types.uint64 if kind in (types.uint8, types.uint16, types.uint32) else kind


def is_to_be_compiled(function: Any) -> bool:
    """Whether a kernel is in no cache yet that it could be in.

    There is no public way to ask; False where this one fails.
    """
    if not COMPILED:
        return False
    try:
        return not function._cache._cache_file._load_index()
    except (AttributeError, OSError, ValueError):
        return False


def inline_kernel(function: _F) -> _F:
    """Compile a piece of a kernel that only other kernels call, and have it inlined."""
    return cast("_F", _Piece(function, {"forceinline": True})) if COMPILED else function


def outline_kernel(function: _F) -> _F:
    """Compile a piece of a kernel that other kernels call rarely: not inlined, which keeps the first run short."""
    return cast("_F", _Piece(function, {})) if COMPILED else function
