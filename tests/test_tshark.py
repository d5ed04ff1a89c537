"""Profile `tshark` and the TCP analysis held against tshark's own words: a sample; tests/corpus has them all."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from tshark_oracle import LEFT_OUT, Comparison, captures, compare, meant, numbers_of, ranges_of, recorded_flags


@pytest.mark.slow_plain("thousands of frames")
def test_a_sample_of_the_corpus(shared: Path) -> None:
    if not (shared / "oracle" / "tshark").is_dir():
        pytest.skip("../shared/oracle is absent")
    total, listed, recorded = Comparison(), meant(), recorded_flags()
    for name in captures(shared):
        small = (shared / "corpus" / name).stat().st_size < 1 << 20
        if zlib.crc32(name.encode()) % 16 == 0 and small and name not in LEFT_OUT:
            compare(shared, name, total, recorded)
    assert total.frames > 1000
    assert sorted(total.differences - set().union(*listed.values())) == []


def test_ranges() -> None:
    assert numbers_of("3,7-9") == [3, 7, 8, 9]
    assert ranges_of([3, 7, 8, 9]) == "3,7-9"
    assert ranges_of([]) == ""
