"""Nested mappings to files: the dumpers for json, property lists and text trees, and whole documents at once.

The classes are dictdumper's, with its layout, and without its faults: everything is escaped, converted and bounded
(see the renderers in `dictdump_json`, `dictdump_plist`, `dictdump_tree`), files are UTF-8, existing ones are kept,
and a value is rendered whole before one octet is written. `render_document` gives the same octets for files that
are written in one go. What a record holds is no matter of this module: see `records`.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Self

from traceflow.errors import CannotWriteError, FileExists, UsageError, suggest
from traceflow.sinks.dictdump_json import JSONRenderer
from traceflow.sinks.dictdump_plist import PLISTRenderer
from traceflow.sinks.dictdump_render import Hook, Renderer
from traceflow.sinks.dictdump_tree import TreeRenderer
from traceflow.sinks.folder import write_at
from traceflow.sinks.growing import GrowingFile
from traceflow.sinks.naming import UniqueNames

with warnings.catch_warnings():  # its import warns of the age of VueJS, a dumper of its own that nobody asked for
    warnings.simplefilter("ignore", DeprecationWarning)
    import dictdumper  # type: ignore[import-untyped]

__all__ = ["FORMATS", "JSONDumper", "PLISTDumper", "TreeDumper", "render_document"]


class _Blocks:
    """The blocks of one document, in order, as octets."""

    __slots__ = ("_count", "_hook", "_names", "_renderer", "head", "tail")

    def __init__(self, renderer: type[Renderer], hook: Hook | None = None, *, distinct: bool = False) -> None:
        self._renderer = renderer
        self._hook = hook
        self._names = None if distinct else UniqueNames()
        self._count = 0
        self.head = renderer.HEAD.encode()
        self.tail = renderer.TAIL.encode()

    def render(self, name: str | None, value: Any, *, first: bool) -> bytes:
        """What a block adds between the blocks before it and the tail.

        Args:
            name: Its name, made distinct by a suffix `-1`, `-2` ...; None for `Block` and its number.
            value: Its content.
            first: No block stands before it.
        """
        self._count += 1
        wanted = f"Block {self._count}" if name is None else str(name)
        block = self._renderer(self._hook)
        given = block.clean(wanted)
        return block.block(given if self._names is None else self._names.unique(given), value, first).encode()


class _Document:
    """What the three dumpers share: a file that is a complete document after every call.

    `object_hook(o)` of a subclass is asked about values that are no text, number, octets, mapping or list; what it
    returns is written. dictdumper's `default` is never asked: every value can be written.
    """

    renderer: ClassVar[type[Renderer]]
    _file: str | os.PathLike[str]  # dictdumper's names: the path, and where the next block will stand
    _sptr: int

    def __init__(
        self,
        fname: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        keep_open: bool = False,
        distinct: bool = False,
        **kwargs: Any,
    ) -> None:
        """Create the file with an empty document.

        Args:
            fname: Path of the file.
            overwrite: Replace a file that exists.
            keep_open: Keep the file open between calls until `close`, which makes a call faster; else it is opened
                for each call, so that any number of dumpers may live at once.
            distinct: The caller gives no name twice, so that none need be remembered: a file of 10**6 blocks takes
                100 MB less.
            **kwargs: For subclasses; dictdumper's own dumpers ignore them.

        Raises:
            FileExists: The file exists and `overwrite` is false; it is left as it was.
            CannotWriteError: The file cannot be created.
        """
        hook: Hook = self.object_hook  # type: ignore[attr-defined] # of dictdumper.dumper.Dumper
        own = getattr(type(self), "object_hook", None) is not dictdumper.dumper.Dumper.object_hook
        self._blocks = _Blocks(self.renderer, hook if own else None, distinct=distinct)
        self._overwrite, self._keep_open = overwrite, keep_open
        super().__init__(fname, **kwargs)  # type: ignore[call-arg] # dictdumper's, which calls _dump_header

    def _dump_header(self, **kwargs: Any) -> None:
        """Create the file; dictdumper's constructor calls this."""
        path = Path(self._file)
        try:
            empty = self._blocks.head + self._blocks.tail
            self._growing = GrowingFile(path, empty, overwrite=self._overwrite, keep_open=self._keep_open)
        except FileExistsError as error:
            raise FileExists(f"{path}: the file exists; choose another name or ask to overwrite it") from error
        except OSError as error:
            raise CannotWriteError(f"{path}: cannot create the file: {error.strerror or error}") from error
        self._sptr = len(self._blocks.head)

    def append(self, value: Mapping[Any, Any], name: str | None = None) -> Self:
        """Add a block. The file is a complete document before and after, with or without the block.

        Args:
            value: The content; anything is written, a value that is no mapping under the key `value`.
            name: The name; a name that the document has gets a suffix `-1`, `-2` ..., None is `Block` and a number.

        Returns:
            The dumper itself.

        Raises:
            CannotWriteError: The file is gone or cannot be written (a full disk); it keeps the blocks it had.
        """
        return self.append_all([(name, value)])

    def append_all(self, blocks: Iterable[tuple[str | None, Mapping[Any, Any]]]) -> Self:
        """Add blocks in one write: the file is a complete document before and after, with all of them or none.

        Args:
            blocks: Name and content of each, as `append` takes them. They are all rendered before one is written.

        Raises:
            CannotWriteError: As `append`.
        """
        first, pieces = self._sptr == len(self._blocks.head), []
        for name, value in blocks:
            pieces.append(self._blocks.render(name, value, first=first))
            first = False
        if pieces:
            self._put(b"".join(pieces))
        return self

    def __call__(self, value: Mapping[Any, Any], name: str | None = None) -> Self:
        """The same as `append`, dictdumper's way to add a block."""
        return self.append(value, name)

    def rename(self, path: Path, overwrite: bool = False) -> None:
        """Give the file another name; it is closed.

        Args:
            path: The name.
            overwrite: Replace what has the name.

        Raises:
            FileExists: The name is taken.
            CannotWriteError: The file is gone, or cannot be renamed.
        """
        self._growing.rename(path, overwrite=overwrite)
        self._file = str(path)

    def remove(self) -> None:
        """Remove the file, unless it is gone."""
        self._growing.remove()

    def close(self) -> None:
        """Give the open file back, if there is one; a later `append` opens it again."""
        self._growing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, octets: bytes) -> None:
        """Write octets and the tail over the old tail, in one write; put the old tail back if that fails."""
        tail = self._blocks.tail
        try:
            stream = self._growing.stream()
            try:
                write_at(stream, self._sptr, octets + tail)
            except OSError:
                with contextlib.suppress(OSError):  # the old tail fits: its place is not given back before
                    write_at(stream, self._sptr, tail)
                    stream.truncate(self._sptr + len(tail))
                raise
        except OSError as error:
            self.close()
            reason = error.strerror or error
            raise CannotWriteError(f"{self._file}: cannot add {len(octets)} octets: {reason}") from error
        self._sptr += len(octets)
        self._growing.rest()


class JSONDumper(_Document, dictdumper.JSON):  # type: ignore[misc] # dictdumper has no types
    """A JSON file of blocks."""

    renderer = JSONRenderer


class PLISTDumper(_Document, dictdumper.PLIST):  # type: ignore[misc]
    """A property list of blocks."""

    renderer = PLISTRenderer


class TreeDumper(_Document, dictdumper.Tree):  # type: ignore[misc]
    """A text tree of blocks."""

    renderer = TreeRenderer


FORMATS: Mapping[str, tuple[type[JSONDumper] | type[PLISTDumper] | type[TreeDumper], str]] = MappingProxyType(
    {
        "json": (JSONDumper, ".json"),
        "plist": (PLISTDumper, ".plist"),
        "xml": (PLISTDumper, ".plist"),
        "tree": (TreeDumper, ".txt"),
        "txt": (TreeDumper, ".txt"),
        "text": (TreeDumper, ".txt"),
    }
)
"""Format name -> its dumper and the extension of its files (PyPCAPKit's names)."""


def render_document(fmt: str, blocks: Iterable[tuple[str, Mapping[Any, Any]]]) -> Iterator[bytes]:
    """The octets that a dumper would leave in its file, for a file that is written whole.

    Args:
        fmt: A name in `FORMATS`.
        blocks: Name and content of each block, taken one at a time.

    Returns:
        Pieces of the document, one a block and one at each end.

    Raises:
        UsageError: There is no such format.
    """
    if fmt not in FORMATS:
        raise UsageError(suggest("format", fmt, FORMATS))
    return _pieces(_Blocks(FORMATS[fmt][0].renderer), blocks)


def _pieces(document: _Blocks, blocks: Iterable[tuple[str, Mapping[Any, Any]]]) -> Iterator[bytes]:
    yield document.head
    first = True
    for name, value in blocks:
        yield document.render(name, value, first=first)
        first = False
    yield document.tail
