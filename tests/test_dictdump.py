"""The dumpers: files that load, dictdumper's layout, and no value, name or accident that breaks a file."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import json
import math
import os
import pathlib
import plistlib
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceflow.errors import CannotWriteError, FileExists, TraceflowError, UsageError
from traceflow.sinks import dictdump_json, dictdump_plist
from traceflow.sinks.dictdump import FORMATS, JSONDumper, PLISTDumper, TreeDumper, dictdumper, render_document
from traceflow.sinks.dictdump_plain import MAX_DEPTH
from traceflow.sinks.dictdump_render import KEYS_KEPT

OWN = {"json": JSONDumper, "plist": PLISTDumper, "tree": TreeDumper}
THEIRS = {"json": dictdumper.JSON, "plist": dictdumper.PLIST, "tree": dictdumper.Tree}

SAME_PACKAGE = {**os.environ, "PYTHONPATH": str(pathlib.Path(dictdump_json.__file__).parents[2])}


def document(fmt: str, *values: Any) -> bytes:
    return b"".join(render_document(fmt, [(f"Frame {i}", value) for i, value in enumerate(values, 1)]))


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def strict_json(octets: bytes) -> Any:
    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in members}) == len(members), "a key came twice"
        return dict(members)

    return json.loads(octets.decode("utf-8"), parse_constant=no_constant, object_pairs_hook=pairs)


def as_json(value: Any) -> Any:
    return strict_json(document("json", {"v": value}))["Frame 1"]["v"]


def as_plist(value: Any) -> Any:
    return plistlib.loads(document("plist", {"v": value}))["Frame 1"]["v"]


def as_tree(value: Any) -> list[str]:
    return document("tree", {"v": value}).decode("utf-8").splitlines()


# -- layout: dictdumper's own, for what it writes right ------------------------------------------------------

PLAIN: dict[str, Any] = {
    "numbers": {"integer": -1, "real": 1.5, "yes": True, "no": False},
    "text": "short",
    "long text": "words of some length " * 7,
    "wrapped": {"not yet": "x" * 40, "now": "x" * 41},
    "octets": {"few": b"abc", "one line": bytes(range(32, 48)), "two lines": bytes(range(32, 49))},
    "many octets": bytes(range(9, 256)) * 3,
    "empty": {"text": "", "octets": b"", "list": [], "mapping": {}},
    "list": [1, 2.5, "x", True],
    "mappings": [{"a": 1}, {"b": [{"c": 2}], "d": {}}, {}],
    "lists": [[1, 2], [], [3]],
    "mixed": [1, {"q": 1}, "x" * 50, b"y" * 30, [{"z": 1}], "end"],
    "tuple": (1, (2, "x")),
    "sets": [{1}, frozenset({"x"})],
    "buffers": {"bytearray": bytearray(b"q"), "memoryview": memoryview(b"qq")},
    "nested": {"x": {"y": {"z": 1}}, "w": 2},
}
FOR_JSON_AND_TREE = {
    "none": None,
    "date": datetime.date(2020, 1, 2),
    "date and time": datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
    "time": datetime.time(3, 4),
    "not a number": math.nan,
    "infinities": {"up": math.inf, "down": -math.inf},
}


@pytest.mark.parametrize("fmt", OWN)
def test_layout_is_that_of_dictdumper(fmt: str, tmp_path: pathlib.Path) -> None:
    value = PLAIN if fmt == "plist" else PLAIN | FOR_JSON_AND_TREE
    theirs = THEIRS[fmt](str(tmp_path / "theirs"))
    own = OWN[fmt](tmp_path / "own")
    assert (tmp_path / "own").read_bytes() == (tmp_path / "theirs").read_bytes()  # empty documents
    for name, block in (("Frame 1", value), ("Frame 2", {"x": 1}), ("Frame 3", {})):
        theirs(block, name=name)
        own(block, name=name)
    assert (tmp_path / "own").read_text("utf-8") == (tmp_path / "theirs").read_text("utf-8")


KEYS = st.text("abcdefghijklmnopqrstuvwxyzABC_0123456789.-", min_size=1, max_size=12)
BACKSPACE = b"\b"  # \u0008 there, \b here: the same text


def is_basic(text: str) -> bool:
    """No character beyond U+FFFF, which dictdumper writes wrong."""
    return max(text, default="") <= "\uffff"


RIGHT = st.recursive(
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.text("abcdefgh XYZ,.-0123456789", max_size=120).filter(lambda text: not text or text.strip())
    | st.binary(max_size=60).filter(
        lambda octets: BACKSPACE not in octets and is_basic(octets.decode(errors="replace"))
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@pytest.mark.parametrize("fmt", OWN)
@given(blocks=st.lists(st.dictionaries(KEYS, RIGHT, max_size=4), max_size=3))
def test_layout_is_that_of_dictdumper_for_any_plain_value(
    fmt: str, tmp_path_factory: pytest.TempPathFactory, blocks: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("layout") / "theirs"
    theirs = THEIRS[fmt](str(path))
    for i, block in enumerate(blocks, 1):
        theirs(block, name=f"Frame {i}")
    assert document(fmt, *blocks).decode() == path.read_text("utf-8")


# -- content: what is read back equals what was written ------------------------------------------------------


def whole_text(text: str) -> str:
    """Text as a file can hold it, by another way than the package: surrogates paired, lone ones U+FFFD."""
    out = []
    rest = list(text)
    while rest:
        char = rest.pop(0)
        if "\ud800" <= char <= "\udbff" and rest and "\udc00" <= rest[0] <= "\udfff":
            char = chr(0x10000 + ((ord(char) - 0xD800) << 10) + (ord(rest.pop(0)) - 0xDC00))
        out.append("\ufffd" if "\ud800" <= char <= "\udfff" else char)
    return "".join(out)


def xml_text(text: str) -> str:
    """Text as XML 1.0 can hold it (section 2.2: #x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | beyond)."""
    return "".join("\ufffd" if (c < " " and c not in "\t\n\r") or c in "\ufffe\uffff" else c for c in whole_text(text))


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=15,
)


def loses_keys(value: Any, clean: Any) -> bool:
    if isinstance(value, dict):
        return len({clean(key) for key in value}) < len(value) or any(loses_keys(v, clean) for v in value.values())
    return isinstance(value, list) and any(loses_keys(v, clean) for v in value)


def expected_json(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, bytes):
        return {"type": "bytes", "value": value.decode(errors="replace"), "hex": value.hex()}
    if isinstance(value, list):
        return [expected_json(item) for item in value]
    if isinstance(value, dict):
        return {whole_text(key): expected_json(item) for key, item in value.items()}
    return value


def expected_plist(value: Any) -> Any:
    if value is None:
        return {"type": "NoneType", "value": "None"}
    if isinstance(value, str):
        return xml_text(value)
    if type(value) is int and not -(2**63) <= value < 2**64:
        return {"type": "int", "value": str(value)}
    if isinstance(value, list):
        return [expected_plist(item) for item in value]
    if isinstance(value, dict):
        return {xml_text(key): expected_plist(item) for key, item in value.items()}
    return value


@given(ANY)
def test_json_holds_what_was_given(value: Any) -> None:
    loaded = as_json(value)
    if not loses_keys(value, whole_text):
        assert loaded == expected_json(value)


@given(ANY)
def test_plist_holds_what_was_given(value: Any) -> None:
    loaded = as_plist(value)
    if not loses_keys(value, xml_text):
        assert loaded == expected_plist(value)


@given(ANY, ANY_TEXT)
def test_a_tree_has_one_value_a_branch(value: Any, key: str) -> None:
    text = document("tree", {key: value, "end": 1}).decode("utf-8")
    assert all(char == "\n" or char.isprintable() or not char.isascii() for char in text)
    lines = text.splitlines()
    assert lines[0] == "Frame 1"
    assert lines[-1] == "  |-- end -> 1"
    assert all(line[:3] in ("  |", "   ") or not line for line in lines[1:])
    assert sum(line.startswith("  |-- ") for line in lines) == 2


@pytest.mark.parametrize(
    "text", ['"', "\\", "\x00\x1b[2J\x7f", "a\nb\r\nc\t", "<key>&amp;</key>]]>", "\U0001f600é€", " x "]
)
def test_keys_names_and_text_are_escaped(text: str, tmp_path: pathlib.Path) -> None:
    block = {text: text, "list": [text]}
    for fmt, load, clean in (("json", strict_json, whole_text), ("plist", plistlib.loads, xml_text)):
        OWN[fmt](tmp_path / fmt)(block, text)
        wanted = clean(text)
        assert load((tmp_path / fmt).read_bytes()) == {wanted: {wanted: wanted, "list": [wanted]}}


def test_characters_beyond_the_basic_plane_are_surrogate_pairs_in_json() -> None:
    # U+1F600 is D83D DE00 in UTF-16 (RFC 8259, section 7)
    assert b'"\\ud83d\\ude00"' in document("json", {"v": "\U0001f600"})
    assert as_json("\ud83d\ude00") == "\U0001f600"
    assert as_json("a\udc80b") == "a\ufffdb"


def test_tree_shows_controls_as_escapes() -> None:
    assert as_tree("a\nb\x1b[31m\u202e")[1] == r"  |-- v -> a\nb\x1b[31m\u202e"
    assert as_tree("a\ud800b")[1] == "  |-- v -> a\ufffdb"
    assert as_tree(" " * 50)[2].startswith("        |--> ")  # dictdumper: IndexError


def test_files_are_utf8_in_any_locale(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys; from traceflow.sinks.dictdump import FORMATS\n"
        "for fmt in ('plist', 'tree'): FORMATS[fmt][0](sys.argv[1] + fmt)({chr(0xe9): chr(0x20ac)}, chr(0xfc))"
    )
    subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path / "f.")],
        check=True,
        env={**SAME_PACKAGE, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        cwd=tmp_path,
    )
    assert plistlib.loads((tmp_path / "f.plist").read_bytes()) == {"ü": {"é": "€"}}
    assert (tmp_path / "f.tree").read_bytes().decode("utf-8") == "ü\n  |-- é -> €\n"


# -- values that are no plain ones ---------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    y: Any


class Thing:
    def __init__(self) -> None:
        self.seen = 1
        self._hidden = 2


class Hostile:
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Table(collections.UserDict):  # type: ignore[type-arg]
    pass


IN_ALL = [
    (ipaddress.ip_address("192.0.2.1"), "192.0.2.1"),
    (ipaddress.ip_network("2001:db8::/32"), "2001:db8::/32"),
    (decimal.Decimal("1.10"), {"type": "Decimal", "value": "1.10"}),
    (fractions.Fraction(1, 3), {"type": "Fraction", "value": "1/3"}),
    (datetime.timedelta(seconds=1.5), {"type": "timedelta", "value": 1.5, "text": "0:00:01.500000"}),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (Colour.RED, {"type": "Colour", "value": "r", "name": "RED"}),
    (Level.LOW, 1),
    (Word.YES, "yes"),
    (Point(1, {"deep": Level.LOW}), {"x": 1, "y": {"deep": 1}}),
    (collections.namedtuple("Pair", "a b")(1, 2), {"type": "Pair", "value": [1, 2]}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.deque([1, 2]), [1, 2]),
    ({1000, 30, 1}, {"type": "set", "value": [1, 30, 1000]}),
    (Table(a=Table(b=1)), {"a": {"b": 1}}),
    (np.int16(-3), -3),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float32(0.5), 0.5),
    (np.bool_(True), True),
    (np.str_("text"), "text"),
    (np.datetime64("2020-01-02T03:04:05.000000001"), "2020-01-02T03:04:05.000000001"),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    (np.array([(1, 0.5)], dtype=[("a", "i4"), ("b", "f8")]), [{"a": 1, "b": 0.5}]),
    (np.array([(1, 0.5)], dtype=[("a", "i4"), ("b", "f8")])[0], {"a": 1, "b": 0.5}),
    (Thing(), {"type": "Thing", "value": {"seen": 1}}),
    (Hostile(), "<Hostile object that cannot be shown>"),
    (range(3), "range(0, 3)"),
    (len, "<built-in function len>"),
    (1 + 2j, {"type": "complex", "value": "(1+2j)"}),
    ({1: "a", "1": "b", None: "c", b"\xff": "d"}, {"1": "a", "1-1": "b", "None": "c", "\\xff": "d"}),
    ({"a\ud800": 1} | {"a\ufffd": 2}, {"a\ufffd": 1, "a\ufffd-1": 2}),
]


@pytest.mark.parametrize(("value", "wanted"), IN_ALL, ids=lambda item: type(item).__name__)
def test_unsupported_values_are_converted(value: Any, wanted: Any) -> None:
    assert as_json(value) == wanted
    assert as_plist(value) == wanted
    assert as_json([value]) == [wanted]
    assert as_tree(value)[0] == "Frame 1"
    # a conversion is that of its outcome: the tree of the value is the tree of what it became
    if not isinstance(value, complex):
        assert as_tree(value) == as_tree(wanted)


@pytest.mark.parametrize(("real", "spelled"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_reals_that_are_no_numbers(real: float, spelled: str) -> None:
    assert as_json(real) == {"type": "float", "value": None, "number": spelled}
    assert as_json([np.float64(real), 1]) == [{"type": "float", "value": None, "number": spelled}, 1]
    assert str(as_plist(real)) == str(real)
    assert as_tree(real)[1] == f"  |-- v -> {spelled}"


def test_integers_of_any_size() -> None:
    assert as_json(2**100) == 2**100
    assert as_plist(2**64 - 1) == 2**64 - 1
    assert as_plist(-(2**63)) == -(2**63)
    assert as_plist(2**64) == {"type": "int", "value": "18446744073709551616"}
    huge = 10**5000  # Python refuses to write or read more than 4300 decimal digits
    assert int(as_json(huge), 16) == huge
    assert int(as_plist(huge)["value"], 16) == huge
    assert as_tree(huge)[1] == f"  |-- v -> {huge:#x}"


def test_dates_load_and_keep_their_fraction() -> None:
    utc, east = datetime.UTC, datetime.timezone(datetime.timedelta(hours=2))
    date = datetime.datetime
    assert as_plist(date(2020, 1, 2, 3, 4, 5)) == date(2020, 1, 2, 3, 4, 5)
    assert as_plist(date(2020, 1, 2, 3, 4, 5, tzinfo=utc)) == date(2020, 1, 2, 3, 4, 5)
    assert as_plist(datetime.date(45, 1, 2)) == date(45, 1, 2)
    for value in (date(2020, 1, 2, 3, 4, 5, 678), date(2020, 1, 2, 3, 4, 5, tzinfo=east)):
        loaded = as_plist(value)
        assert loaded["type"] == "datetime"
        assert date.fromisoformat(loaded["isoformat"]) == value
    assert loaded["value"] == date(2020, 1, 2, 1, 4, 5)
    first = date(1, 1, 1, tzinfo=east)  # the last day of the year 0 in UTC, which no date can name
    assert as_plist(first) == {"type": "datetime", "value": "0001-01-01T00:00:00+02:00"}
    assert as_plist(datetime.time(1, 2, 3, 4)) == {"type": "time", "value": "01:02:03.000004"}
    assert as_json(first) == "0001-01-01T00:00:00+02:00"


def test_none_is_kept_in_a_property_list() -> None:
    assert as_plist(None) == {"type": "NoneType", "value": "None"}
    assert as_plist([1, None]) == [1, {"type": "NoneType", "value": "None"}]


def test_octets_of_other_types() -> None:
    assert as_json(bytearray(b"\xff")) == {"type": "bytearray", "value": "\ufffd", "hex": "ff"}
    assert as_plist(memoryview(b"ab")) == {"type": "memoryview", "value": b"ab"}
    view = memoryview(b"ab")
    view.release()
    assert "released memory" in as_json(view)


class Chain(list):  # type: ignore[type-arg]
    """A list of another type, so that it is converted on the way."""


@pytest.mark.parametrize("kind", [dict, list, Chain, Table])
def test_containers_inside_themselves_are_named(kind: Any) -> None:
    value = kind()
    for key in "abc":  # three ways in: copied at each level this would be 3**64 values
        value.update({key: value}) if hasattr(value, "update") else value.append(value)
    wanted = f"<{kind.__name__} inside itself>"
    loaded = as_json(value)
    assert list(loaded.values() if isinstance(loaded, dict) else loaded) == [wanted] * 3
    assert as_plist(value) == loaded
    assert len(as_tree(value)) == 5


def test_the_same_value_twice_is_no_recursion() -> None:
    shared = {"x": 1}
    assert as_json([shared, shared, {"y": shared}]) == [shared, shared, {"y": shared}]


@pytest.mark.parametrize("kind", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: Table(k=inner)])
@pytest.mark.parametrize("fmt", OWN)
def test_nesting_is_bounded(fmt: str, kind: Any) -> None:
    value = kind(1)
    for _ in range(10_000):
        value = kind(value)
    octets = document(fmt, {"v": value})
    assert f"nested deeper than {MAX_DEPTH} levels".encode() in octets
    if fmt == "json":
        strict_json(octets)
    if fmt == "plist":
        plistlib.loads(octets)


def test_values_that_are_no_mapping_get_a_key() -> None:
    assert strict_json(document("json", [1, 2]))["Frame 1"] == {"value": [1, 2]}
    assert strict_json(document("json", Point(1, 2)))["Frame 1"] == {"x": 1, "y": 2}


def test_hostile_keys_do_not_pile_up() -> None:
    for i in range(3):
        document("json", {f"{i}-{j}": 0 for j in range(KEYS_KEPT)})
        document("plist", {f"{i}-{j}": 0 for j in range(KEYS_KEPT + 1)})
    assert all(len(known) <= KEYS_KEPT for known in dictdump_json._HEADS.values())
    assert all(len(known) <= KEYS_KEPT for known in dictdump_plist._HEADS.values())


def test_object_hook_of_a_subclass_is_asked(tmp_path: pathlib.Path) -> None:
    class Hooked(JSONDumper):
        def object_hook(self, o: Any) -> Any:
            return f"{o.real} and {o.imag}" if isinstance(o, complex) else o

    Hooked(tmp_path / "f")({"v": [1j, {1}]}, "b")
    assert strict_json((tmp_path / "f").read_bytes())["b"]["v"] == ["0.0 and 1.0", {"type": "set", "value": [1]}]


# -- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("fmt", OWN)
def test_the_file_is_complete_after_every_append(fmt: str, keep_open: bool, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    blocks: dict[str, Any] = {}
    with OWN[fmt](path, keep_open=keep_open) as dumper:
        assert dumper.filename == path
        for i in range(4):
            if fmt == "json":
                assert strict_json(path.read_bytes()) == blocks
            if fmt == "plist":
                assert plistlib.loads(path.read_bytes()) == blocks
            assert path.read_bytes() == b"".join(render_document(fmt, blocks.items()))
            blocks[f"Frame {i}"] = {"n": i, "text": "x" * (50 - 10 * i)}
            assert dumper.append(blocks[f"Frame {i}"], f"Frame {i}") is dumper
    dumper(PLAIN, "after close")
    blocks["after close"] = PLAIN
    assert path.read_bytes() == b"".join(render_document(fmt, blocks.items()))
    dumper.close()


@pytest.mark.parametrize("fmt", OWN)
def test_names_that_come_twice_get_a_suffix(fmt: str, tmp_path: pathlib.Path) -> None:
    names = ["Frame 1", "Frame 1", "Frame 1-1", "Frame 1", None]
    wanted = ["Frame 1", "Frame 1-1", "Frame 1-1-1", "Frame 1-2", "Block 5"]
    dumper = OWN[fmt](tmp_path / "f")
    for i, name in enumerate(names):
        dumper({"n": i}, name)
    octets = (tmp_path / "f").read_bytes()
    if fmt == "tree":
        assert [line for line in octets.decode().splitlines() if line[:1] not in ("", " ")] == wanted
    else:
        loaded = strict_json(octets) if fmt == "json" else plistlib.loads(octets)
        assert loaded == {name: {"n": i} for i, name in enumerate(wanted)}


@pytest.mark.parametrize("fmt", OWN)
def test_an_existing_file_is_kept(fmt: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f"
    path.write_text("precious")
    with pytest.raises(FileExists, match="exists") as caught:
        OWN[fmt](path)
    assert isinstance(caught.value, FileExistsError)
    assert path.read_text() == "precious"
    OWN[fmt](path, overwrite=True)({"a": 1}, "b")
    assert path.read_bytes() == b"".join(render_document(fmt, [("b", {"a": 1})]))


def test_a_place_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CannotWriteError, match="no-folder"):
        JSONDumper(tmp_path / "no-folder" / "f")
    with pytest.raises(CannotWriteError):
        JSONDumper(tmp_path, overwrite=True)
    dumper = JSONDumper(tmp_path / "f")
    (tmp_path / "f").unlink()
    with pytest.raises(TraceflowError, match="cannot add"):
        dumper({}, "a")


@pytest.mark.parametrize("keep_open", [False, True])
def test_a_full_disk_leaves_the_blocks_before(keep_open: bool, tmp_path: pathlib.Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits stand for a full disk")
    dumper = JSONDumper(tmp_path / "f", keep_open=keep_open)
    dumper({"n": 1}, "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # the block below is cut at octet 500
    try:
        with pytest.raises(CannotWriteError, match="cannot add"):
            dumper({"text": "x" * 1000}, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert strict_json((tmp_path / "f").read_bytes()) == {"a": {"n": 1}}
    dumper({"n": 2}, "c")
    dumper.close()
    assert strict_json((tmp_path / "f").read_bytes()) == {"a": {"n": 1}, "c": {"n": 2}}


@pytest.mark.parametrize("fmt", sorted(OWN))
@pytest.mark.parametrize("distinct", [False, True])
def test_many_blocks_at_once_are_the_single_ones_together(fmt: str, distinct: bool, tmp_path: pathlib.Path) -> None:
    blocks = [(f"Frame {n}", {"n": n, "octets": b"ab"}) for n in range(5)]
    single, many = OWN[fmt](tmp_path / "single"), OWN[fmt](tmp_path / "many", distinct=distinct, keep_open=True)
    for name, value in blocks:
        single(value, name)
    many.append_all([])
    many.append_all(blocks[:2])
    many.append_all(iter(blocks[2:]))
    many.close()
    assert (tmp_path / "many").read_bytes() == (tmp_path / "single").read_bytes()


def test_many_blocks_that_do_not_fit_are_all_left_out(tmp_path: pathlib.Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits stand for a full disk")
    dumper = JSONDumper(tmp_path / "f")
    dumper({"n": 1}, "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(CannotWriteError, match="cannot add"):
            dumper.append_all((f"b{n}", {"text": "x" * 300}) for n in range(3))  # the first would fit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert strict_json((tmp_path / "f").read_bytes()) == {"a": {"n": 1}}


@pytest.mark.parametrize("keep_open", [False, True])
def test_a_file_that_is_not_there_any_more_is_not_written(keep_open: bool, tmp_path: pathlib.Path) -> None:
    """Held open, the write would succeed and be lost; with another file in its place, that one would be written."""
    path = tmp_path / "f"
    dumper = JSONDumper(path, keep_open=keep_open)
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "theirs").replace(path)
    with pytest.raises(CannotWriteError, match="removed"):
        dumper({"n": 1}, "a")
    dumper.remove()
    with pytest.raises(CannotWriteError, match="removed"):
        dumper.rename(tmp_path / "g")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("keep_open", [False, True])
def test_a_file_is_renamed_and_removed(keep_open: bool, tmp_path: pathlib.Path) -> None:
    dumper = JSONDumper(tmp_path / "f", keep_open=keep_open)
    dumper({"n": 1}, "a")
    (tmp_path / "g").write_text("precious")
    with pytest.raises(FileExists, match="g: the file exists"):
        dumper.rename(tmp_path / "g")
    dumper({"n": 2}, "b")
    dumper.rename(tmp_path / "h")
    dumper({"n": 3}, "c")
    assert strict_json((tmp_path / "h").read_bytes()) == {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g", "h"]
    dumper.rename(tmp_path / "g", overwrite=True)
    dumper.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_hook_that_raises_leaves_the_file_whole(tmp_path: pathlib.Path) -> None:
    class Raising(JSONDumper):
        def object_hook(self, o: Any) -> Any:
            raise RuntimeError("hook")

    dumper = Raising(tmp_path / "f")
    for i in range(2):
        with pytest.raises(RuntimeError, match="hook"):
            dumper({"n": Colour.RED}, "b")
        assert strict_json((tmp_path / "f").read_bytes()) == ({"a": {"n": 1}} if i else {})
        if not i:
            dumper({"n": 1}, "a")
    dumper({"n": 2}, "c")
    assert strict_json((tmp_path / "f").read_bytes()) == {"a": {"n": 1}, "c": {"n": 2}}


def test_a_killed_process_leaves_a_complete_file(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys, itertools; from traceflow.sinks.dictdump import JSONDumper\n"
        "dumper = JSONDumper(sys.argv[1])\n"
        "for i in itertools.count():\n"
        "    dumper({'n': i, 'octets': bytes(500)}, f'Frame {i}'); print(i, flush=True)\n"
        "    if i == 20: sys.stdin.readline()\n"  # waits between two appends until it is killed
    )
    command = [sys.executable, "-c", code, str(tmp_path / "f")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=SAME_PACKAGE, cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "20\n":
                process.kill()
                break
    loaded = strict_json((tmp_path / "f").read_bytes())
    assert len(loaded) == 21
    assert loaded["Frame 20"]["n"] == 20


# -- formats -------------------------------------------------------------------------------------------------


def test_formats_and_their_extensions() -> None:
    # names and extensions: PyPCAPKit's make_fout
    wanted = {".json": ["json"], ".plist": ["plist", "xml"], ".txt": ["text", "tree", "txt"]}
    for extension, names in wanted.items():
        assert sorted(name for name in FORMATS if FORMATS[name][1] == extension) == names
    assert len(FORMATS) == 6
    for name, (dumper, _) in FORMATS.items():
        base = {"json": dictdumper.JSON, "plist": dictdumper.PLIST, "xml": dictdumper.PLIST}.get(name, dictdumper.Tree)
        assert issubclass(dumper, base)


def test_documents_of_an_unknown_format_are_refused() -> None:
    with pytest.raises(UsageError, match="json"):
        render_document("jsn", [])


def test_documents_take_blocks_one_at_a_time() -> None:
    taken = []

    def blocks() -> Any:
        for i in range(3):
            taken.append(i)
            yield f"Frame {i}", {"n": i}

    pieces = render_document("json", blocks())
    assert next(pieces) == b"{\n"
    assert taken == []
    next(pieces)
    assert taken == [0]
