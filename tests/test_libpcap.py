"""The room `libpcap`: finding the library, and programs that it compiles.

Programs are those that `tcpdump -d` (libpcap 1.10.3) prints, or follow from the header of the link type by hand.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from traceflow import libpcap
from traceflow.errors import CannotWriteError, LibraryMissingError, TraceflowError, UsageError
from traceflow.libpcap import EXPRESSION_MAX, PROGRAM, ExpressionError, compile_expression, library, version


@pytest.fixture(autouse=True)
def _present() -> None:
    try:
        library()
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")


def test_the_library_is_loaded_once() -> None:
    assert library() is library()
    assert version().startswith("libpcap version 1.") or "Npcap" in version()


def test_a_program() -> None:
    """`tcpdump -d ip` on Ethernet: ldh [12]; jeq #0x800 jt 2 jf 3; ret #262144; ret #0."""
    program = compile_expression("ip")
    assert program.dtype == PROGRAM
    assert program.tolist() == [(0x28, 0, 0, 12), (0x15, 0, 1, 0x800), (6, 0, 0, 262144), (6, 0, 0, 0)]
    assert PROGRAM.itemsize == 8  # struct sock_filter: u16, two u8, u32


def test_snaplen_is_what_the_program_returns() -> None:
    assert compile_expression("", 1, 96).tolist() == [(6, 0, 0, 96)]


@pytest.mark.parametrize(("link", "place"), [(1, 12), (113, 14), (276, 0), (9, 2)])
def test_link_types(link: int, place: int) -> None:
    """Where the protocol stands: Ethernet octet 12, Linux cooked 14, its second version 0, PPP 2."""
    for order in (None, "little"):
        assert compile_expression("ip", link, order=order)[0].tolist() == (0x28, 0, 0, place)


def test_numbers_of_raw_ip() -> None:
    """All three are raw IP: the version is the upper half of octet 0."""
    programs = [compile_expression("ip", link, order=order) for link in (12, 14, 101) for order in (None, "big")]
    assert [program[0].tolist() for program in programs] == [(0x30, 0, 0, 0)] * 6


def test_link_types_are_those_of_capture_files(tmp_path: Path) -> None:
    """The number that libpcap gives a file of each link type is the one that `pcap_open_dead` is called with."""
    if not sys.platform.startswith("linux"):
        pytest.skip("DLT_ numbers of Linux")
    pcap = ctypes.CDLL(library()._name)
    pcap.pcap_open_offline.restype = ctypes.c_void_p
    pcap.pcap_open_offline.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    pcap.pcap_datalink.argtypes = pcap.pcap_close.argtypes = [ctypes.c_void_p]
    path, said = tmp_path / "empty.pcap", ctypes.create_string_buffer(256)
    for link in range(300):
        path.write_bytes(struct.pack("=IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 96, link))
        handle = pcap.pcap_open_offline(os.fsencode(path), said)
        assert pcap.pcap_datalink(handle) == (libpcap._dlt(link) if link != 14 else 14), link
        pcap.pcap_close(handle)


def test_the_byte_order_of_a_file() -> None:
    """BSD loopback: AF_INET is 2, in the order of the machine that captured."""
    wanted = {order: int.from_bytes((2).to_bytes(4, order), "big") for order in ("little", "big")}
    assert {order: int(compile_expression("ip", 0, order=order)[1]["k"]) for order in wanted} == wanted


def test_what_only_a_live_capture_knows() -> None:
    with pytest.raises(ExpressionError, match="reading savefiles"):
        compile_expression("inbound", order="little")
    if sys.platform.startswith("linux"):  # a load at SKF_AD_OFF, -0x1000, plus SKF_AD_PKTTYPE, 4
        assert int(compile_expression("inbound")[0]["k"]) == 2**32 - 0x1000 + 4


@pytest.mark.parametrize(("text", "link", "words"), [
    ("tcp port 80 foo", 1, "syntax error"),
    ("port 70000", 1, "illegal port number 70000 > 65535"),
    ("wlan type mgt", 1, "802.11 link-layer types supported only on 802.11"),
    ("ip proto 6 and ip proto 17", 1, "expression rejects all packets"),
    ("ip", 9999, "unknown data link type 9999"),
])  # fmt: skip
def test_errors_have_libpcaps_words(text: str, link: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, link)
    assert words in caught.value.words
    assert (caught.value.expression, caught.value.link) == (text, link)
    assert f"{text!r} cannot be compiled for frames of link type {link}: " in str(caught.value)
    assert isinstance(caught.value, UsageError)


def test_what_libpcap_is_not_given() -> None:
    with pytest.raises(UsageError, match="NUL"):
        compile_expression("ip\0foo")
    with pytest.raises(UsageError, match=f"may have {EXPRESSION_MAX}"):
        compile_expression("(" * EXPRESSION_MAX + "ip)")
    with pytest.raises(ExpressionError, match="syntax error"):
        compile_expression("\udcff")


def test_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    compile_expression("tcp", order="big")
    with pytest.raises(ExpressionError):
        compile_expression("foo bar", order="big")
    assert list(tmp_path.iterdir()) == []


def test_no_folder_for_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CannotWriteError, match="cannot be written: No such file or directory; set TMPDIR to a folder"):
        compile_expression("tcp", order="little")


def test_nothing_is_left_allocated() -> None:
    """The resident size grows by less than 100 programs have octets."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    text = " or ".join(f"port {port}" for port in range(20))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(10):
        compile_expression(text)
    before = resident()
    for _ in range(100):
        compile_expression(text)
    assert resident() - before < 100 * len(compile_expression(text)) * PROGRAM.itemsize


def test_threads() -> None:
    """Eight at once, each with another expression: nobody gets the program of another."""
    expected = {port: compile_expression(f"tcp port {port}") for port in range(8)}
    found: dict[int, list[bool]] = {port: [] for port in expected}

    def work(port: int) -> None:
        for _ in range(20):
            found[port].append(np.array_equal(compile_expression(f"tcp port {port}"), expected[port]))

    threads = [threading.Thread(target=work, args=(port,)) for port in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {port: [True] * 20 for port in expected}


def test_without_libpcap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each system's package is named; a library without the functions is none."""
    monkeypatch.setattr(libpcap, "_loaded", None)
    monkeypatch.setattr(libpcap, "_names", lambda: ["/nosuch/libpcap.so", ctypes.util.find_library("c") or "libc"])
    monkeypatch.setattr(ctypes.util, "find_library", lambda _name: None)
    with pytest.raises(LibraryMissingError) as caught:
        compile_expression("ip")
    for package in ("apt install libpcap0.8", "dnf install libpcap", "brew install libpcap", "Npcap"):
        assert package in str(caught.value)
    assert isinstance(caught.value, TraceflowError)
