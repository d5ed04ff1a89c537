"""`-f EXPR` in every command, and `trace(..., filter=)`: numbers, accounts, exit codes, other rules.

A filtered frame is like one without a flow: it is read, numbered and counted, it lets time go on, and that is all. So
the flows of `-f EXPR` are those of the capture that `tcpdump -w` would write, with other frame numbers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exchange import ETHER_ARP, ICMP, UDP, Exchange, Wire, ethernet, ipv4, pcap_octets, udp

from traceflow.cli.exits import Exit
from traceflow.errors import IncompleteWarning, LibraryMissingError, UsageError
from traceflow.flows import FlowSet
from traceflow.libpcap import library
from traceflow.packets import Verdict
from traceflow.pipeline import trace

Cli = Callable[..., tuple[int, str, str]]

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture(autouse=True, scope="module")
def _present() -> None:
    try:
        library()
    except LibraryMissingError:
        pytest.skip("libpcap is not installed")


def mixed(where: Path) -> Path:
    """Frames 1-3 the handshake to port 80, 4 a query and 5 its answer, 6 an ARP packet, 7-10 data and ACKs."""
    talk = Exchange(f"{A}:1000", f"{B}:80")
    talk.open()
    other = Exchange(f"{A}:2000", f"{B}:53", wire=talk.wire)
    other.a.udp(b"?")
    other.b.udp(b"!")
    talk.wire.frame(ethernet(bytes(28), ETHER_ARP))
    talk.a.data(b"GET")
    talk.b.ack()
    talk.b.data(b"200")
    talk.a.ack()
    return talk.pcap(where)


def frames_of(flows: FlowSet) -> list[list[int]]:
    return [list(flow.frames) for flow in flows]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


# --- what is traced -------------------------------------------------------------------------------------------------


def test_frames_keep_their_numbers(tmp_path: Path) -> None:
    flows = trace(mixed(tmp_path), filter="tcp port 80")
    assert frames_of(flows) == [[1, 2, 3, 7, 8, 9, 10]]
    account = flows.account
    assert (account.frames, account.in_flows, account.verdicts[Verdict.FILTERED]) == (10, 7, 3)
    assert account.verdicts[Verdict.NOT_IP] == 0  # the ARP packet is filtered before anybody asks
    assert frames_of(trace(tmp_path / "capture.pcap", filter="not tcp")) == [[4, 5]]
    assert frames_of(trace(tmp_path / "capture.pcap", filter="")) == [[1, 2, 3, 7, 8, 9, 10], [4, 5]]


def test_flows_are_those_of_the_filtered_capture(tmp_path: Path) -> None:
    """Every other frame of a conversation goes away, whatever that does to the flow."""
    talk = Exchange()
    for _ in range(3):
        talk.connection()
        talk.wait(s=100)
    path = talk.pcap(tmp_path)
    kept = [frame for frame in talk.wire.frames if len(frame.octets) > 54]  # 14 + 20 + 20: with payload
    (tmp_path / "kept.pcap").write_bytes(pcap_octets(kept))
    numbers = [at + 1 for at, frame in enumerate(talk.wire.frames) if len(frame.octets) > 54]
    ours, theirs = trace(path, filter="greater 55"), trace(tmp_path / "kept.pcap")
    assert frames_of(ours) == [[numbers[frame - 1] for frame in frames] for frames in frames_of(theirs)]
    assert len(kept) == 6
    for name in ("packets", "orig", "resp", "history", "conn_state", "first_ns", "last_ns", "end_cause"):
        mine, other = ([str(getattr(flow, name)) for flow in flows] for flows in (ours, theirs))
        assert mine == other, name


def test_time_goes_on_with_filtered_frames(tmp_path: Path) -> None:
    """A flow is idle since frame 1; the ARP packet two hours later ends it, although it is filtered."""
    wire = Wire()
    wire.packet(ipv4(A, B, UDP, udp(A, B, 1, 2)))
    wire.wait(s=7200)
    wire.frame(ethernet(bytes(28), ETHER_ARP))
    (flow,) = trace(wire.pcap(tmp_path), filter="udp")
    assert flow.end_cause.text == "idle"


def test_later_fragments_have_no_ports(tmp_path: Path) -> None:
    """As for tcpdump: `udp port 53` is the first fragment alone; by host or protocol all three are there."""
    wire, datagram = Wire(), udp(A, B, 1000, 53, bytes(24))
    for at, more in ((0, True), (2, True), (3, False)):
        part = datagram[at * 8 : at * 8 + (16 if at == 0 else 8)]
        wire.packet(ipv4(A, B, UDP, part, ident=7, fragment=at, more=more))
    path = wire.pcap(tmp_path)
    assert frames_of(trace(path, filter="udp port 53")) == [[1]]
    assert frames_of(trace(path, filter="udp")) == [[1, 2, 3]]
    rest = trace(path, filter="ip[6:2] & 0x1fff != 0")
    assert (len(rest), rest.account.verdicts[Verdict.FRAGMENT_WITHOUT_PORTS]) == (0, 2)


def test_duplicates_are_counted_among_all_frames(tmp_path: Path) -> None:
    """Frames 1 and 2 are equal, and so are 3 and 4. What is filtered has the Verdict of that, not of a duplicate."""
    wire = Wire()
    for port in (53, 53, 80, 80):
        wire.packet(ipv4(A, B, UDP, udp(A, B, 1000, port)))
    flows = trace(wire.pcap(tmp_path), filter="port 53", duplicates="remove", duplicate_window_ns=None)
    assert frames_of(flows) == [[1]]
    assert flows.account.duplicates == 2
    assert (flows.account.verdicts[Verdict.DUPLICATE], flows.account.verdicts[Verdict.FILTERED]) == (1, 2)


def test_quotes_point_at_flows_that_pass(tmp_path: Path, cli: Cli) -> None:
    """Frame 2 is an error about frame 1. tcpdump's `udp` looks at the outer packet only."""
    wire, packet = Wire(), ipv4(A, B, UDP, udp(A, B, 1000, 53))
    wire.packet(packet)
    wire.packet(ipv4(B, A, ICMP, b"\x03\x03" + bytes(6) + packet))
    path = wire.pcap(tmp_path)
    for expression, expected in (("icmp or udp", [("1", ""), ("2", "1")]), ("icmp", [("2", "")]), ("udp", [("1", "")])):
        code, out, _ = cli("frames", path, "-f", expression, "--fields", "frame,quoted_flow")
        assert code == Exit.OK
        assert [(row["frame"], row["quoted_flow"]) for row in rows_of(out)] == expected


# --- commands -------------------------------------------------------------------------------------------------------


def test_frames_shows_what_passes(tmp_path: Path, cli: Cli) -> None:
    path = mixed(tmp_path)
    code, out, err = cli("frames", path, "-f", "port 53 or arp")
    assert code == Exit.OK
    assert [(row["frame"], row["flow"], row["verdict"]) for row in rows_of(out)] == [
        ("4", "1", ""), ("5", "1", ""), ("6", "", "not ip"),
    ]  # fmt: skip
    assert "frames read 10 = in flows 2 + without a flow 8" in err
    assert "not ip 1," in err
    assert "filtered 7" in err
    code, out, _ = cli("frames", path, "-f", "tcp", "--flow", "1", "--fields", "frame")
    assert out.split() == ["frame", "1", "2", "3", "7", "8", "9", "10"]


def test_a_limit_counts_frames_that_are_read(tmp_path: Path, cli: Cli) -> None:
    """-c 5: frames 1 to 5, of which 4 and 5 pass."""
    code, out, err = cli("frames", mixed(tmp_path), "-f", "udp", "-c", "5", "--fields", "frame")
    assert (code, out.split()) == (Exit.OK, ["frame", "4", "5"])
    assert "frames read 5 = in flows 2" in err


def test_flows_summary_and_stream(tmp_path: Path, cli: Cli) -> None:
    path = mixed(tmp_path)
    code, out, _ = cli("flows", path, "-f", "udp port 53", "--fields", "flow,resp_port,frames")
    assert (code, rows_of(out)) == (Exit.OK, [{"flow": "1", "resp_port": "53", "frames": "4-5"}])
    code, out, _ = cli("flows", path, "-f", "udp port 53", "--stream", "--fields", "resp_port")
    assert (code, out.split()) == (Exit.OK, ["resp_port", "53"])
    code, out, _ = cli("flows", path, "-f", "udp port 53", "--summary", "-T", "jsonl")
    totals = json.loads(out)
    assert (totals["frames"], totals["frames_filtered"], totals["flows"], totals["complete"]) == (10, 8, 1, "yes")


def test_trace_writes_flows_that_pass(tmp_path: Path, cli: Cli) -> None:
    path, folder = mixed(tmp_path), tmp_path / "out"
    code, _, _ = cli("trace", path, "-o", folder, "-f", "udp", "--format", "pcap")
    index = json.loads((folder / "index.json").read_text("utf-8"))
    assert (code, [entry["frames"] for entry in index["files"]]) == (Exit.OK, [[4, 5]])
    assert index["frames_without_flow"]["filtered"] == 8


@pytest.mark.parametrize("command", [["flows"], ["frames"], ["trace", "-o", "out"]])
def test_a_wrong_expression(command: list[str], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is read or made: the capture does not even exist."""
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*command, "nosuch.pcap", "-f", "tcp port eighty and")
    assert (code, out) == (Exit.USAGE, "")
    assert "the filter 'tcp port eighty and' is wrong: " in err
    assert list(tmp_path.iterdir()) == []


def test_no_frame_can_be_judged(tmp_path: Path, cli: Cli) -> None:
    for command in (["flows"], ["frames"], ["flows", "--summary"], ["trace", "-o", tmp_path / "out"]):
        code, out, err = cli(*command, mixed(tmp_path), "-f", "wlan type data")
        assert (code, out) == (Exit.FAILED, "")
        assert "failed: the filter 'wlan type data' cannot be compiled for frames of link type 1: " in err
        assert "frames read" not in err
    with pytest.raises(UsageError, match="link type 1"):
        trace(tmp_path / "capture.pcap", filter="wlan type data")


def test_some_frames_cannot_be_judged(tmp_path: Path, cli: Cli) -> None:
    """Two captures: Ethernet, and 802.11 with one data frame. What cannot be judged is filtered, and said once."""
    (tmp_path / "radio.pcap").write_bytes(pcap_octets(_radio().frames, link=105))
    paths = mixed(tmp_path), tmp_path / "radio.pcap"
    code, out, err = cli("frames", *paths, "-f", "wlan type data", "--fields", "frame")
    assert (code, out.split()) == (Exit.INCOMPLETE, ["frame", "11"])
    assert err.count("incomplete: the filter") == 1
    assert "filtered 10" in err
    with pytest.warns(IncompleteWarning, match="link type 1"):
        flows = trace(*paths, filter="wlan type data")
    assert (len(flows.errors), flows.account.verdicts[Verdict.FILTERED]) == (1, 10)


def _radio() -> Wire:
    wire = Wire(link=105)
    wire.frame(b"\x08" + bytes(23))
    return wire


def test_without_libpcap(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traceflow.libpcap._loaded", None)
    monkeypatch.setattr("traceflow.libpcap._names", list)
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    code, out, err = cli("flows", mixed(tmp_path), "-f", "tcp")
    assert (code, out) == (Exit.FAILED, "")
    assert "apt install libpcap0.8" in err
    assert cli("flows", tmp_path / "capture.pcap")[0] == Exit.OK
