"""Profile `tshark` and the TCP analysis held against tshark's own words: a sample; tests/corpus has them all."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from tshark_oracle import Comparison, captures, compare


@pytest.mark.slow_plain("thousands of frames")
def test_a_sample_of_the_corpus(shared: Path) -> None:
    if not (shared / "oracle" / "tshark").is_dir():
        pytest.skip("../shared/oracle is absent")
    total = Comparison()
    for name in captures(shared):
        if zlib.crc32(name.encode()) % 16 == 0 and (shared / "corpus" / name).stat().st_size < 1 << 20:
            compare(shared, name, total)
    assert total.frames > 1000
    assert total.moved == []
    assert dict(total.unlike) == {}
