"""Files that people write: where each key stands, and how mistakes are said. More of it: test_policy.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from traceflow.errors import CannotReadError, UsageError
from traceflow.tomlfile import OCTETS_MAX, Lines, parsed, read_toml, refuse

TEXT = """\
a = 1
[b.c]
d = '''
two lines'''
e = { f = [
  1, 2] }
[[g]]
h = 1
[[g]]
h = 2
"""


def test_the_line_of_each_key() -> None:
    lines = Lines(TEXT)
    paths = [("a",), ("b", "c"), ("b", "c", "d"), ("b", "c", "e", "f"), ("g", 0, "h"), ("g", 1, "h")]
    assert [lines.of(path) for path in paths] == [1, 2, 3, 5, 8, 10]
    assert lines.of(("b", "c", "nosuch")) == 2, "the nearest around it"
    assert lines.of(("nosuch",)) == 1
    assert parsed(TEXT, "x.toml", "nothing was run")["g"] == [{"h": 1}, {"h": 2}]


def test_mistakes_are_sorted_and_named() -> None:
    with pytest.raises(UsageError) as caught:
        refuse("x.toml", [(9, ("b", 0, "c"), "is wrong"), (2, (), "too")], "nothing was run")
    assert str(caught.value) == "x.toml: 2 mistakes; nothing was run\n  x.toml:2: too\n  x.toml:9: b, c: is wrong"


def test_what_is_no_toml() -> None:
    with pytest.raises(UsageError, match=r"(?s)x.toml: 1 mistake; nothing was run\n  x.toml:2: "):
        parsed("a = 1\nb = \n", "x.toml", "nothing was run")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with pytest.raises(CannotReadError, match=r"the grab file .* cannot be read: No such file"):
        read_toml(path, "grab file")
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(UsageError, match=r"x.toml:2: octet 0xff is not UTF-8"):
        read_toml(path, "grab file")
    path.write_bytes(b"#" * (OCTETS_MAX + 1))
    with pytest.raises(CannotReadError, match=f"has more than {OCTETS_MAX} octets"):
        read_toml(path, "grab file")
    path.write_bytes(b"#" * OCTETS_MAX)
    assert len(read_toml(path, "grab file")) == OCTETS_MAX
