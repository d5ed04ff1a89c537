"""The one door to Numba: the decorator that every kernel uses.

House rules for kernels (their reasons stand in ARCHITECTURE.md):

- arrays in, arrays out; at most 10 arguments; structured arrays group columns;
- bounds checks are on, because captures are hostile input: a wrong index must stop the kernel;
- every index and every octet that is loaded is unsigned (`U64(...)`): a signed index costs a test for
  negative values on each load, half the speed in all;
- a record's field is read with `row["name"]`, which means the same compiled and plain;
- differences of sequence numbers go through `tcp.py` only.

With `NUMBA_DISABLE_JIT=1` the same functions run as plain Python; the tests run both ways.
"""

from __future__ import annotations

import ctypes
import dataclasses
import struct
import sys
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from traceflow.compilers import (
    COMPILED,
    HOUSE,
    cached_kernels,
    compile_cached,
    compile_piece,
    expect_piece,
    export_piece,
    inline_kernel,
    is_to_be_compiled,
    kernel,
    njit,
    outline_kernel,
)

__all__ = [
    "COMPILED",
    "U64",
    "Hook",
    "cached_kernels",
    "call_hook",
    "clear_record",
    "compile_hook",
    "compile_piece",
    "compile_test",
    "copy_octets",
    "expect_piece",
    "export_piece",
    "fence",
    "inline_kernel",
    "is_to_be_compiled",
    "kernel",
    "load_word",
    "load_words",
    "outline_kernel",
    "prefetch",
    "put_octets",
    "store_word",
    "system_function",
    "system_has",
]

U64 = np.uint64
"""The type of every index, offset and loaded octet inside a kernel."""


def _prefetch(typing: Any, array: Any, index: Any, octets: Any) -> Any:
    """Typing and code of `prefetch`: LLVM's `prefetch` for reading, to be kept in all caches."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        start = builder.ptrtoint(rows.data, ir.IntType(64))
        stride = builder.extract_value(rows.strides, 0)
        address = builder.add(builder.add(start, builder.mul(arguments[1], stride)), arguments[2])
        octet, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        shape = ir.FunctionType(ir.VoidType(), [octet, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [octet], shape)
        builder.call(hint, [builder.inttoptr(address, octet), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, index, octets), code


def _nothing(array: Any, index: Any, octets: Any) -> None:
    """`prefetch` of plain kernels."""


prefetch: Any = intrinsic(_prefetch) if COMPILED else _nothing
"""`prefetch(array, index, octets)`: have the processor fetch the cache line that lies `octets` behind the start of
`array[index]`, both uint64.

A hint: nothing waits for it, no value depends on it, and an index out of bounds is harmless, because a processor drops
a prefetch that it may not do. With many live flows a look-up waits for memory several times; asked for some packets
ahead, these waits overlap."""


def _copy_octets(typing: Any, target: Any, at: Any, source: Any, start: Any, count: Any) -> Any:
    """Typing and code of `copy_octets`: LLVM's `memcpy`, behind the comparisons that an index would be held against."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, octet = ir.IntType(64), ir.IntType(8).as_pointer()
        into = context.make_array(signature.args[0])(context, builder, arguments[0])
        of = context.make_array(signature.args[2])(context, builder, arguments[2])
        count = arguments[4]

        def fits(array: Any, first: Any) -> Any:
            # not `first + count <= size`, which could wrap
            inside = builder.icmp_unsigned("<=", count, array.nitems)
            return builder.and_(inside, builder.icmp_unsigned("<=", first, builder.sub(array.nitems, count)))

        possible = builder.and_(fits(into, arguments[1]), fits(of, arguments[3]))
        with builder.if_then(possible):
            pointers = [
                builder.bitcast(builder.gep(array.data, [first]), octet)
                for array, first in ((into, arguments[1]), (of, arguments[3]))
            ]
            move = builder.module.declare_intrinsic("llvm.memmove", [octet, octet, word])
            builder.call(move, [*pointers, count, ir.Constant(ir.IntType(1), 0)])
        return possible

    contiguous = (types.Array(types.uint8, 1, "C"), types.Array(types.uint8, 1, "C", readonly=True))
    if target != contiguous[0] or source not in contiguous:
        return None
    return types.boolean(target, types.uint64, source, types.uint64, types.uint64), code


def _copy_plain(target: Any, at: Any, source: Any, start: Any, count: Any) -> bool:
    """`copy_octets` of plain kernels."""
    at, start, count = int(at), int(start), int(count)
    if at + count > len(target) or start + count > len(source):
        return False
    target[at : at + count] = source[start : start + count]
    return True


copy_octets: Any = intrinsic(_copy_octets) if COMPILED else _copy_plain
"""`copy_octets(target, at, source, start, count)`: copy octets from one uint8 array to another. False, and nothing is
copied, where one of them does not hold them all.

A loop over octets with its two checks takes one cycle an octet, 1500 for a full frame; this takes a tenth of it."""


def _clear(typing: Any, record: Any) -> Any:
    """Typing and code of `clear_record`: LLVM's `memset`, of a length that is known."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, octet = ir.IntType(64), ir.IntType(8).as_pointer()
        clear = builder.module.declare_intrinsic("llvm.memset", [octet, word])
        size = ir.Constant(word, signature.args[0].size)
        start = builder.bitcast(arguments[0], octet)
        builder.call(clear, [start, ir.Constant(ir.IntType(8), 0), size, ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return (types.void(record), code) if isinstance(record, types.Record) else None


def _clear_plain(record: Any) -> None:
    """`clear_record` of plain kernels."""
    for name in record.dtype.names:
        record[name] = 0


clear_record: Any = intrinsic(_clear) if COMPILED else _clear_plain
"""`clear_record(row)`: set all octets of a row of a structured array to 0. For 96 octets these are three stores, where
an assignment of a record takes one for each octet."""


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Where an octet of a uint8 array is."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.inttoptr(builder.add(builder.ptrtoint(data, ir.IntType(64)), index), ir.IntType(8).as_pointer())


def _in_order(builder: Any, word: Any) -> Any:
    """A word whose lowest octet is the first in memory."""
    return word if sys.byteorder == "little" else builder.bswap(word)


def _store(typing: Any, target: Any, at: Any, word: Any) -> Any:
    """Typing and code of storing eight octets at once, wherever they lie."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], *arguments[:2])
        place = builder.bitcast(place, ir.IntType(64).as_pointer())
        builder.store(_in_order(builder, arguments[2]), place, align=1)
        return context.get_dummy_value()

    return types.void(target, at, word), code


def _store_plain(target: Any, at: Any, word: Any) -> None:
    target[int(at) : int(at) + 8] = np.frombuffer(int(word).to_bytes(8, "little"), np.uint8)


def _load(typing: Any, source: Any, at: Any) -> Any:
    """Typing and code of loading eight octets at once, wherever they lie."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], *arguments)
        place = builder.bitcast(place, ir.IntType(64).as_pointer())
        return _in_order(builder, builder.load(place, align=1))

    return types.uint64(source, at), code


def _load_plain(source: Any, at: Any) -> Any:
    return U64(int.from_bytes(source[int(at) : int(at) + 8].tobytes(), "little"))


def _load_high(typing: Any, source: Any, at: Any) -> Any:
    """Typing and code of loading eight octets at once, the first as the highest."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _address(context, builder, signature.args[0], *arguments)
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()), align=1)
        return builder.bswap(word) if sys.byteorder == "little" else word

    return types.uint64(source, at), code


def _load_high_plain(source: Any, at: Any) -> Any:
    return U64(int.from_bytes(source[int(at) : int(at) + 8].tobytes(), "big"))


_bare_store: Any = intrinsic(_store) if COMPILED else _store_plain
_bare_load: Any = intrinsic(_load) if COMPILED else _load_plain
_bare_load_high: Any = intrinsic(_load_high) if COMPILED else _load_high_plain


@inline_kernel
def put_octets(target: Any, at: Any, source: Any, start: Any, count: Any) -> None:
    """As `copy_octets`, where it is a fault that they do not fit.

    Raises:
        IndexError: Not all of it lies within both arrays.
    """
    if not copy_octets(target, at, source, start, count):
        raise IndexError("a copy beyond the end")


@inline_kernel
def store_word(target: Any, at: Any, word: Any) -> None:
    """Store the eight octets of a uint64 at target[at:], the lowest first.

    Raises:
        IndexError: They do not lie within the array.
    """
    if U64(target.shape[0]) < U64(8) or at > U64(target.shape[0]) - U64(8):
        raise IndexError("a word beyond the end")
    _bare_store(target, at, word)


@inline_kernel
def load_word(source: Any, at: Any) -> Any:
    """Eight octets at source[at:] as a uint64, the first as the lowest.

    Raises:
        IndexError: They do not lie within the array.
    """
    if U64(source.shape[0]) < U64(8) or at > U64(source.shape[0]) - U64(8):
        raise IndexError("a word beyond the end")
    return _bare_load(source, at)


@inline_kernel
def load_words(source: Any, at: Any) -> Any:
    """48 octets at source[at:] as six uint64, the first octet of each as its highest: a header, with one check for all.

    Raises:
        IndexError: They do not lie within the array.
    """
    if U64(source.shape[0]) < U64(48) or at > U64(source.shape[0]) - U64(48):
        raise IndexError("a header beyond the end")
    return (
        _bare_load_high(source, at),
        _bare_load_high(source, at + U64(8)),
        _bare_load_high(source, at + U64(16)),
        _bare_load_high(source, at + U64(24)),
        _bare_load_high(source, at + U64(32)),
        _bare_load_high(source, at + U64(40)),
    )


def _fence(typing: Any) -> Any:
    """Typing and code of `fence`: LLVM's `fence seq_cst`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


def _no_fence() -> None:
    """`fence` of plain kernels, which the interpreter keeps in order."""


fence: Any = intrinsic(_fence) if COMPILED else _no_fence
"""`fence()`: what stands before it is read and written before what stands behind it, as others see it.

For memory that is shared with the system's kernel, such as the ring of a live capture."""


def system_has(*names: str) -> bool:
    """Whether kernels can call these functions of the C library: compiled, on a 64-bit Linux that has them."""
    if not COMPILED or sys.platform != "linux" or struct.calcsize("P") != 8:
        return False
    try:
        return all(hasattr(ctypes.CDLL(None), name) for name in names)
    except OSError:
        return False


def system_function(name: str, result: type[np.generic], *arguments: type[np.generic]) -> Any:
    """A function of the C library that kernels call; addresses are uint64. Plain kernels cannot.

    The library must have it (`system_has`), else no kernel that names it can be loaded; and nothing checks what it is
    given.

    Args:
        name: Its name.
        result: What it returns.
        arguments: What it takes.
    """
    if not COMPILED:
        return None
    kinds = [numba.from_dtype(np.dtype(kind)) for kind in (result, *arguments)]
    return types.ExternalFunction(name, kinds[0](*kinds[1:]))


@dataclasses.dataclass(frozen=True)
class Hook:
    """A function over records that kernels call by its number, so that they are not compiled anew for each.

    Attributes:
        number: What `call_hook` is given: an address, or without compilation a place in a list.
        function: What was compiled; it lives as long as this.
    """

    number: int
    function: Any


_PLAIN_HOOKS: list[tuple[Callable[..., Any], np.dtype[Any], np.dtype[Any]]] = []


def compile_hook(function: Callable[..., Any], *records: np.dtype[Any]) -> Hook:
    """Compile a hook, with a cache on disk where its source is a file.

    Args:
        function: Takes (frame, packet, flow, mine, partner, steer, shared), each a record; returns nothing.
        records: Their seven dtypes.

    Raises:
        TypeError: It returns something.
        Exception: Whatever Numba raises of code that it cannot compile.
    """
    plain = getattr(function, "py_func", function)
    if not COMPILED:
        _PLAIN_HOOKS.append((plain, records[3], records[6]))
        return Hook(len(_PLAIN_HOOKS), plain)
    dispatcher: Any = compile_cached(plain)
    arguments = tuple(numba.from_dtype(record) for record in records)
    dispatcher.compile(arguments)
    compiled = dispatcher.overloads[arguments]
    if compiled.signature.return_type != types.none:
        raise TypeError(f"a hook returns nothing, and {plain.__name__} returns {compiled.signature.return_type}")
    return Hook(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name), dispatcher)


def compile_test(function: Callable[..., Any], frame: np.dtype[Any], packet: np.dtype[Any]) -> Callable[..., None]:
    """Compile a function that says yes or no to one packet, with a small kernel around it that asks it about many.

    Args:
        function: Takes (frame, packet, octets) or (frame, packet, octets, number): two records, the captured octets of
            the frame uint8[c], read only, and an int64; returns a bool.
        frame: dtype of the first record.
        packet: dtype of the second.

    Returns:
        A kernel that takes rows [k] of frame and packet, the buffer uint8[n] (read only), the number, and found
        bool[k], which it fills. It raises what the function raised; an index behind the frame is an IndexError.

    Raises:
        TypeError: The function returns something else.
        Exception: Whatever Numba raises of code that it cannot compile.
    """
    plain = getattr(function, "py_func", function)
    numbered = plain.__code__.co_argcount == 4
    test: Any = plain
    if COMPILED:
        test = compile_cached(plain)
        octets_type = types.Array(types.uint8, 1, "C", readonly=True)
        arguments = (numba.from_dtype(frame), numba.from_dtype(packet), octets_type, *([types.int64] * numbered))
        test.compile(arguments)
        returned = test.overloads[arguments].signature.return_type
        returned = getattr(returned, "literal_type", returned)  # that of `return True`
        if returned != types.boolean:
            raise TypeError(f"{plain.__name__} must return a bool, and returns {returned}")

    # Two kernels, because compiled code has no calls with more or fewer arguments.
    def ask(frames: Any, packets: Any, octets: Any, number: Any, found: Any) -> None:
        for i in range(len(frames)):
            row = frames[U64(i)]
            start = U64(row["start"])
            found[U64(i)] = test(row, packets[U64(i)], octets[start : start + U64(row["captured"])])

    def ask_numbered(frames: Any, packets: Any, octets: Any, number: Any, found: Any) -> None:
        for i in range(len(frames)):
            row = frames[U64(i)]
            start = U64(row["start"])
            found[U64(i)] = test(row, packets[U64(i)], octets[start : start + U64(row["captured"])], number)

    asking = ask_numbered if numbered else ask
    return cast("Callable[..., None]", njit(**HOUSE)(asking)) if COMPILED else asking


def _call_hook(
    typing: Any, number: Any, frame: Any, packet: Any, flow: Any, blocks: Any, own: Any, other: Any, steer: Any,
    shared: Any, at: Any,
) -> Any:  # fmt: skip
    """Typing and code of `call_hook`: a call through the address, as Numba calls its own functions."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def word(place: int, index: Any) -> Any:
            array = context.make_array(signature.args[place])(context, builder, arguments[place])
            return builder.bitcast(builder.gep(array.data, [index]), ir.IntType(8).as_pointer())

        def record(place: int) -> Any:
            return builder.bitcast(arguments[place], ir.IntType(8).as_pointer())

        pointers = [record(1), record(2), record(3), word(4, arguments[5]), word(4, arguments[6]), record(7)]
        pointers.append(word(8, arguments[9]))
        takes = (types.voidptr,) * len(pointers)
        shape = context.call_conv.get_function_type(types.none, takes)
        target = builder.inttoptr(arguments[0], shape.as_pointer())
        status, _ = context.call_conv.call_function(builder, target, types.none, takes, pointers)
        return status.is_error

    return types.boolean(number, frame, packet, flow, blocks, own, other, steer, shared, at), code


def _call_plain(
    number: Any, frame: Any, packet: Any, flow: Any, blocks: Any, own: Any, other: Any, steer: Any, shared: Any, at: Any
) -> bool:
    """`call_hook` of plain kernels."""
    function, record, common = _PLAIN_HOOKS[int(number) - 1]

    def view(words: Any, first: Any, kind: Any) -> Any:
        return words[int(first) : int(first) + kind.itemsize // 8].view(kind)[0]

    try:
        said = function(frame, packet, flow, view(blocks, own, record), view(blocks, other, record), steer,
                        view(shared, at, common))  # fmt: skip
    except Exception:  # noqa: BLE001 - compiled, an error is a status without a name
        return True
    return said is not None


call_hook: Any = intrinsic(_call_hook) if COMPILED else _call_plain
"""`call_hook(number, frame, packet, flow, blocks, own, other, steer, shared, at)`: call a Hook. True where it failed.

`frame`, `packet`, `flow`, `steer` are records; `blocks[own:]`, `blocks[other:]` and `shared[at:]` hold the others, as
uint64 words. That they hold them whole is the business of the caller: nothing is checked here."""
