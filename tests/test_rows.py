"""Rows: how cells are written in csv, jsonl and tables, and what the columns of flows and frames hold.

Expected values are hand counts of fixtures (fixtures/README.md) or stand in RFC 4180 and RFC 8259.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange import ETHER_ARP, Wire, ethernet, ipv4, ipv6, udp

from traceflow.errors import UsageError
from traceflow.flows import FLOW, FlowSet, flat_columns
from traceflow.options import options_for
from traceflow.packets import NO_TIME
from traceflow.pipeline import FlowCollector, Run, trace
from traceflow.sinks.rows import FORMATS, CsvRows, JsonlRows, TableRows, printable
from traceflow.sinks.rows_fields import (
    FLOW_DEFAULT,
    FLOW_FIELDS,
    FRAME_DEFAULT,
    FRAME_FIELDS,
    Field,
    Kind,
    choose_fields,
)
from traceflow.sinks.rows_flows import CHUNK_FLOWS, flow_columns
from traceflow.sinks.rows_frames import frame_columns
from traceflow.sinks.rows_text import end_texts, range_texts, span_texts, time_texts
from traceflow.sources import open_source

DOCS = Path(__file__).resolve().parents[1] / "docs" / "columns.md"

NUMBER, WORD, TEXT = Field("n", Kind.INTEGER), Field("w", Kind.WORD), Field("t", Kind.TEXT)
NASTY = ["plain", "a,b", 'say "x"', "two\nlines", "", None, "caf\u00e9", "tab\tx"]


def written(name: str, fields: list[Field], *batches: list[list[Any]]) -> str:
    stream = io.StringIO()
    writer = FORMATS[name](stream, fields)
    for columns in batches:
        writer.write(columns)
    writer.close()
    return stream.getvalue()


# --- the formats -----------------------------------------------------------------------------------------------


def test_csv_by_hand() -> None:
    text = written("csv", [NUMBER, TEXT], [[1, None], ["a,b", 'say "x"']], [[3], ["c"]])
    assert text == 'n,t\n1,"a,b"\n,"say ""x"""\n3,c\n'  # RFC 4180, 2.6 and 2.7


def test_csv_is_read_back_by_the_csv_module() -> None:
    text = written("csv", [NUMBER, TEXT], [list(range(len(NASTY))), NASTY])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [["n", "t"], *([str(at), cell or ""] for at, cell in enumerate(NASTY))]


def test_csv_of_one_column_has_no_empty_lines() -> None:
    assert written("csv", [NUMBER], [[None, 5]]) == 'n\n""\n5\n'
    assert written("csv", [TEXT], [["", "x"]]) == 't\n""\nx\n'


def test_jsonl_is_read_back_by_json() -> None:
    decimal = Field("d", Kind.DECIMAL)
    columns = [[7] * len(NASTY), ["0.000004"] * len(NASTY), ["w"] * len(NASTY), NASTY]
    text = written("jsonl", [NUMBER, decimal, WORD, TEXT], columns)
    assert [json.loads(line) for line in text.splitlines()] == [
        {"n": 7, "d": 0.000004, "w": "w", "t": cell} for cell in NASTY
    ]
    assert text.isascii(), "every reader of any encoding takes it"


def test_jsonl_writes_null_and_all_digits() -> None:
    time = Field("time", Kind.DECIMAL)
    assert written("jsonl", [time, WORD], [["1700000000.000000001", None], [None, "x"]]) == (
        '{"time":1700000000.000000001,"w":null}\n{"time":null,"w":"x"}\n'
    )


def test_table_aligns_and_grows() -> None:
    text = written("table", [NUMBER, WORD], [[1, 22], ["ab", None]], [[333], ["abcd"]])
    assert text == " n  w\n 1  ab\n22\n333  abcd\n"


def test_table_shows_control_characters_as_escapes() -> None:
    assert written("table", [TEXT], [["\x1b[31m\nred"]]) == "t\n\\x1b[31m\\nred\n"
    assert printable("caf\u00e9 \udcff") == "caf\u00e9 \\udcff"


@pytest.mark.parametrize(("name", "head"), [("csv", "n,w\n"), ("jsonl", ""), ("table", "n  w\n")])
def test_no_rows_leave_the_head(name: str, head: str) -> None:
    assert written(name, [NUMBER, WORD]) == head


@pytest.mark.parametrize("kind", [CsvRows, JsonlRows, TableRows])
def test_batches_do_not_matter(kind: type) -> None:
    whole, pieces = io.StringIO(), io.StringIO()
    one, many = kind(whole, [NUMBER, TEXT]), kind(pieces, [NUMBER, TEXT])
    one.write([[1, 2, 3], ["a", "b", "c"]])
    for number, cell in ((1, "a"), (2, "b"), (3, "c")):
        many.write([[number], [cell]])
    assert whole.getvalue() == pieces.getvalue()


# --- text of columns -------------------------------------------------------------------------------------------


def test_times_by_hand() -> None:
    coarse = np.zeros(4, np.bool_)
    times = np.array([0, 999, 1_000, 1_700_000_000_123_456_789], np.int64)
    assert time_texts(times, coarse) == ["0.000000", "0.000000", "0.000001", "1700000000.123456"]
    mixed = np.array([False, True, True, True])
    assert time_texts(times, mixed) == ["0.000000", "0.000000999", "0.000001000", "1700000000.123456789"]
    assert time_texts(np.array([-1_500_000_000, 5_000], np.int64), np.zeros(2, np.bool_)) == ["-1.500000", "0.000005"]


def test_spans_reach_over_the_whole_range_of_times() -> None:
    # from -2**62 to 2**62 ns: 2**63 = 9223372036854775808
    assert span_texts(np.array([2**63], np.uint64), np.ones(1, np.bool_)) == ["9223372036.854775808"]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[1, 2, 3, 7]], ["1-3,7"]),
        ([[1, 2], [3], [4, 6]], ["1-2", "3", "4,6"]),
        ([[], [5], []], [None, "5", None]),
        ([[], []], [None, None]),
        ([[2], [1, 3], []], ["2", "1,3", None]),
        ([], []),
    ],
)
def test_ranges_by_hand(lists: list[list[int]], expected: list[str | None]) -> None:
    numbers = np.array([number for some in lists for number in some], np.uint32)
    assert range_texts(np.array([len(some) for some in lists], np.int64), numbers) == expected


def test_addresses_of_both_versions() -> None:
    mapped = 0xFFFF << 32
    upper = np.array([0, 0x20010DB8 << 32], np.uint64)
    lower = np.array([mapped | 0xC0000201, 1], np.uint64)
    assert end_texts(upper, lower, np.array([4, 6], np.uint8)) == ["192.0.2.1", "2001:db8::1"]
    # zero octets at either end are not lost on the way through bytes
    four = np.array([mapped | 0x0A000000, mapped], np.uint64)
    assert end_texts(np.zeros(2, np.uint64), four, np.array([4, 4], np.uint8)) == ["10.0.0.0", "0.0.0.0"]


# --- fields ----------------------------------------------------------------------------------------------------


def test_every_column_of_a_flow_is_a_field() -> None:
    # addresses and causes are text in both
    assert set(flat_columns(np.zeros(0, FLOW))) <= set(FLOW_FIELDS)


def test_the_defaults_are_fields() -> None:
    assert set(FLOW_DEFAULT) <= set(FLOW_FIELDS)
    assert set(FRAME_DEFAULT) <= set(FRAME_FIELDS)


def documented(heading: str) -> set[str]:
    """Names in the first cells of the tables of a section of docs/columns.md."""
    section = re.split(r"^## ", DOCS.read_text("utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_the_docs_have_exactly_the_fields() -> None:
    assert documented("Fields of `flows`") == set(FLOW_FIELDS)
    assert documented("Fields of `frames`") == set(FRAME_FIELDS)


def test_choosing_fields() -> None:
    assert [field.name for field in choose_fields("flow, label", FLOW_FIELDS)] == ["flow", "label"]
    with pytest.raises(UsageError, match=r"unknown field 'lable'\. Did you mean label"):
        choose_fields("flow,lable", FLOW_FIELDS)
    with pytest.raises(UsageError, match="twice"):
        choose_fields("flow,label,flow", FLOW_FIELDS)
    with pytest.raises(UsageError, match="unknown field ''"):
        choose_fields("flow,", FLOW_FIELDS)


# --- flows -----------------------------------------------------------------------------------------------------


def flow_rows(flows: FlowSet, names: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for columns in flow_columns(flows, choose_fields(names, FLOW_FIELDS)):
        rows += zip(*columns, strict=True)
    return rows


def test_kinds_of_flow_cells(fixtures_folder: Path) -> None:
    """What a field declares is what its cells are: the formats rely on it."""
    flows = trace(fixtures_folder / "http.pcap")
    for name, field in FLOW_FIELDS.items():
        cells = {cell for (cell,) in flow_rows(flows, name) if cell is not None}
        _check_kind(field, cells)


def _check_kind(field: Field, cells: set[Any]) -> None:
    if field.kind is Kind.INTEGER:
        assert all(type(cell) is int for cell in cells), field
    elif field.kind is Kind.DECIMAL:
        assert all(re.fullmatch(r"-?(0|[1-9]\d*)\.(\d{6}|\d{9})", cell) for cell in cells), field
    else:
        assert all(type(cell) is str and cell for cell in cells), field
        if field.kind is Kind.WORD:
            assert all(re.fullmatch(r"[ !#-+\--\[\]-~]+", cell) for cell in cells), field


def test_flows_of_http(fixtures_folder: Path) -> None:
    # fixtures/README.md, the row of http.pcap
    rows = flow_rows(
        trace(fixtures_folder / "http.pcap"), "flow,protocol_name,frames,orig_frames,resp_frames,end_cause"
    )
    assert rows == [
        (1, "UDP", "3-6,58-59", "3-4,58", "5-6,59", "end of input"),
        (2, "TCP", "7-17,49-52", "7,9-10,13,15,17,50-51", "8,11-12,14,16,49,52", "fin"),
        (3, "TCP", "18-20,24,26,28-29,32-35", "18,20,24,32,34", "19,26,28-29,33,35", "rst"),
        (4, "TCP", "21-23,25,27,30-31,37-40,53-55", "21,23,25,31,37,40,53,55", "22,27,30,38-39,54", "fin"),
        (5, "TCP", "36,41,48", "36,41,48", None, "end of input"),
        (6, "ICMP", "42-47", "42,44,46", "43,45,47", "end of input"),
    ]


def test_what_is_undefined_is_empty(fixtures_folder: Path) -> None:
    flows = trace(fixtures_folder / "http.pcap")
    names = "protocol,orig_port,resp_port,orig_syn,resp_first_ns,resp_opened_frame,orig_base_seq,resp_base_seq"
    rows = {row[0]: row[1:] for row in flow_rows(flows, names)}  # the last flow of each protocol
    assert rows[1][:3] == (0x1234, 0x1234, None), "ICMP echoes have an identifier for both ports, and no flags"
    assert rows[1][5:] == (None, None)
    unanswered = flow_rows(flows, names)[4]  # flow 5: three SYNs
    assert unanswered[:6] == (6, 49155, 8080, 3, None, None)
    assert unanswered[7] is None, "nothing came from the responder, and no acknowledgment went there"


def test_durations_and_times(fixtures_folder: Path) -> None:
    # T18a: five packets 0.2 ms apart; T18b: five packets 1 ns apart, clock of nanoseconds
    ((duration, duration_ns),) = flow_rows(trace(fixtures_folder / "T18a.pcap"), "duration,duration_ns")
    assert (duration, duration_ns) == ("0.000800", 800_000)
    ((duration, duration_ns),) = flow_rows(trace(fixtures_folder / "T18b.pcap"), "duration,duration_ns")
    assert (duration, duration_ns) == ("0.000000004", 4)


def test_first_last_and_label_agree_with_the_columns(fixtures_folder: Path) -> None:
    for name in ("T01.pcap", "T18b.pcap", "negative-time.pcapng", "time-zero.pcap"):
        flows = trace(fixtures_folder / name)
        for row, flow in zip(flow_rows(flows, "first,first_ns,last,last_ns,label"), flows, strict=True):
            first, first_ns, last, last_ns, label = row
            for text, number in ((first, first_ns), (last, last_ns)):
                digits = len(text.partition(".")[2])
                sign, rest = ("-", text[1:]) if number < 0 else ("", text)
                assert f"{sign}{rest.replace('.', '')}" == f"{sign}{abs(number) // 10 ** (9 - digits):0{digits + 1}d}"
            assert label == flow.label


def test_flat_columns_are_the_same_in_rows(fixtures_folder: Path) -> None:
    """Where a cell is not empty, it is what the library shows."""
    flows = trace(fixtures_folder / "http.pcap")
    for name, column in flat_columns(flows.columns).items():
        for (cell,), value in zip(flow_rows(flows, name), column, strict=True):
            assert cell is None or cell == value, name


def test_totals_of_both_directions(fixtures_folder: Path) -> None:
    # T01: 3 and 6 octets of payload in 10 frames, link header 14 octets each
    ((packets, wire, ip, payload),) = flow_rows(
        trace(fixtures_folder / "T01.pcap"), "packets,wire_octets,ip_octets,payload_octets"
    )
    assert (packets, payload) == (10, 9)
    assert (wire, ip) == (10 * 54 + 9, 10 * 40 + 9)


def test_chunks_of_flows_cannot_matter(fixtures_folder: Path) -> None:
    """More flows than are rendered at once: http.pcap's rows again and again, each with its own number."""
    flows = trace(fixtures_folder / "http.pcap")
    times = CHUNK_FLOWS // len(flows) + 2
    many = FlowSet(np.tile(flows.columns, times), flows.frame_map, flows.account)
    many.columns["number"] = np.arange(1, len(many) + 1)
    rows = flow_rows(many, "flow,orig_addr,first")
    assert [row[0] for row in rows] == list(range(1, len(many) + 1))
    assert [row[1:] for row in rows] == [row[1:] for row in flow_rows(flows, "flow,orig_addr,first")] * times


def test_no_flows_no_rows(fixtures_folder: Path) -> None:
    assert flow_rows(trace(fixtures_folder / "not-ip.pcap"), "flow,frames,orig_frames,first") == []


# --- frames ----------------------------------------------------------------------------------------------------


def frame_rows(paths: list[Path], names: str, flow: int | None = None, **how: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    fields = choose_fields(names, FRAME_FIELDS)
    with open_source(*paths, **how) as captures:
        run = Run(captures, options_for())
        collector = FlowCollector(run)
        for step in run.steps():
            collector.take(step)
            if step.batch is not None:
                rows += zip(*frame_columns(step, captures.interfaces, fields, flow), strict=True)
    return rows


def test_kinds_of_frame_cells(fixtures_folder: Path) -> None:
    paths = [fixtures_folder / name for name in ("http.pcap", "verdicts.pcapng", "vlan-stacks.pcap", "links-sll2.pcap")]
    for name, field in FRAME_FIELDS.items():
        _check_kind(field, {cell for (cell,) in frame_rows(paths, name) if cell is not None})


def test_frames_of_t01(fixtures_folder: Path) -> None:
    # SYN, SYN-ACK, ACK, data, data, ACK, FIN, ACK, FIN, ACK; 3 octets to the server, 6 back
    rows = frame_rows([fixtures_folder / "T01.pcap"], "frame,flow,direction,verdict,flags,src,src_port,dst_port")
    client, server = ("10.0.0.1", 1000, 80), ("10.0.0.2", 80, 1000)
    assert [row[0] for row in rows] == list(range(1, 11))
    assert {row[1] for row in rows} == {1}
    assert [row[0] for row in rows if row[2] == "orig"] == [1, 3, 4, 6, 7, 10]
    assert [row[5:] for row in rows] == [client if row[2] == "orig" else server for row in rows]
    assert {row[3] for row in rows} == {None}
    assert [row[4] for row in rows][:3] == ["......S.", "...A..S.", "...A...."]
    assert [row[0] for row in rows if row[4].endswith("F")] == [7, 9]


def test_frames_of_verdicts(fixtures_folder: Path) -> None:
    rows = frame_rows([fixtures_folder / "verdicts.pcapng"], "frame,flow,direction,verdict,src,payload_octets")
    assert [row[3] for row in rows] == [
        None,
        "not ip",
        "truncated link",
        "truncated ip",
        "truncated ports",
        "malformed ip",
        "fragment without ports",
        "unsupported link",
    ]
    assert [(row[1] is None, row[2] is None) for row in rows] == [(False, False), *[(True, True)] * 7]
    assert [row[4] is None for row in rows] == [False, True, True, True, False, True, False, True]


def test_one_of_flow_and_verdict_is_empty(fixtures_folder: Path) -> None:
    for path in sorted(fixtures_folder.glob("*.pcap*")):
        for flow, direction, verdict in frame_rows([path], "flow,direction,verdict"):
            assert (flow is None) != (verdict is None)
            assert (flow is None) == (direction is None)


def test_cut_tcp_headers_leave_cells_empty(fixtures_folder: Path) -> None:
    # fixtures/README.md, truncated.pcap: 7, 8 and 15 have their ports, and no whole TCP header
    rows = frame_rows([fixtures_folder / "truncated.pcap"], "frame,src_port,flags,ack,window,protocol")
    for frame, src_port, flags, ack, window, protocol in rows:
        assert (src_port is not None) == (frame in (7, 8, 15))
        if protocol == 6 and src_port is not None and flags is None:
            assert (ack, window) == (None, None)


def test_vlan_tags(fixtures_folder: Path) -> None:
    rows = frame_rows([fixtures_folder / "vlan-stacks.pcap"], "frame,vlan_tags,vlan_outer,vlan_inner")
    for _frame, tags, outer, inner in rows:
        assert (outer is None) == (not tags)
        assert (inner is None) == (tags is None or tags < 2)
    assert rows[-1][1] is None, "18 is cut in its second tag"
    assert rows[13][1:] == (0, None, None), "14 has no tag"


def test_ttl_read_by_hand(fixtures_folder: Path, tmp_path: Path) -> None:
    # IPv4: octet 8 of its header, behind 14 of Ethernet; IPv6: octet 7
    octets = (fixtures_folder / "T01.pcap").read_bytes()
    rows = frame_rows([fixtures_folder / "T01.pcap"], "offset,ttl")
    assert rows == [(offset, octets[offset + 14 + 8]) for offset, _ in rows]
    assert len(rows) == 10
    wire = Wire()
    payload = udp("10.0.0.1", "10.0.0.2", 1, 2)
    inner = ipv4("10.0.0.1", "10.0.0.2", 17, payload, ttl=9)
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", 17, payload, ttl=1))
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", 17, payload, ttl=255), tags=[(0x8100, 5)])
    wire.packet(ipv6("2001:db8::1", "2001:db8::2", 17, udp("2001:db8::1", "2001:db8::2", 1, 2), hop_limit=3))
    wire.packet(ipv4("192.0.2.1", "192.0.2.2", 4, inner, ttl=200))  # IP in IP: the innermost packet
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", 17, payload, ttl=0))
    wire.frame(ethernet(bytes(28), ETHER_ARP))
    wire.packet(ipv4("10.0.0.1", "10.0.0.2", 17, payload, ttl=7), captured=14 + 19)  # a header that was cut
    rows = frame_rows([wire.pcap(tmp_path)], "ttl")
    assert [ttl for (ttl,) in rows] == [1, 255, 3, 9, 0, None, None]


def test_several_captures(fixtures_folder: Path) -> None:
    # T29: a connection of ten frames cut over two files
    paths = [fixtures_folder / "T29a.pcap", fixtures_folder / "T29b.pcap"]
    rows = frame_rows(paths, "frame,file,frame_in_file,flow")
    firsts = [row for row in rows if row[1] == str(paths[0])]
    assert [row[0] for row in rows] == list(range(1, 11))
    assert {row[3] for row in rows} == {1}
    in_file = list(range(1, len(firsts) + 1)) + list(range(1, 11 - len(firsts)))
    assert 0 < len(firsts) < 10
    assert [row[2] for row in rows] == in_file


def test_offsets_lead_to_the_octets(fixtures_folder: Path) -> None:
    path = fixtures_folder / "T01.pcap"
    octets = path.read_bytes()
    # pcap: a file header of 24 octets, 16 before each record, the captured length in octets 8 to 11 of them
    expected, at = [], 24
    while at < len(octets):
        captured = int.from_bytes(octets[at + 8 : at + 12], "little")
        expected.append((at + 16, captured))
        at += 16 + captured
    assert frame_rows([path], "offset,captured_octets") == expected


@pytest.mark.parametrize("batch_frames", [1, 3, 4096])
def test_one_flow_only(fixtures_folder: Path, batch_frames: int) -> None:
    rows = frame_rows([fixtures_folder / "http.pcap"], "frame,flow", flow=4, batch_frames=batch_frames)
    assert rows == [(frame, 4) for frame in (21, 22, 23, 25, 27, 30, 31, 37, 38, 39, 40, 53, 54, 55)]
    assert frame_rows([fixtures_folder / "http.pcap"], "frame", flow=7) == []


def test_batches_of_frames_cannot_matter(fixtures_folder: Path) -> None:
    names = ",".join(FRAME_FIELDS)
    for name in ("http.pcap", "T32-many.pcapng", "verdicts.pcapng", "vlan-stacks.pcap"):
        path = fixtures_folder / name
        assert frame_rows([path], names, batch_frames=1) == frame_rows([path], names), name


def test_a_frame_without_a_time_has_none(fixtures_folder: Path) -> None:
    seen = 0
    fields = choose_fields("time,time_ns", FRAME_FIELDS)
    with open_source(fixtures_folder / "T32-blocks.pcapng") as captures:
        for step in Run(captures, options_for()).steps():
            if step.batch is None:
                continue
            timeless = (step.batch.frames["time_bits"] & NO_TIME != 0).tolist()
            seen += sum(timeless)
            rows = zip(*frame_columns(step, captures.interfaces, fields), strict=True)
            assert [row == (None, None) for row in rows] == timeless
    assert seen, "the fixture has a Simple Packet Block"
