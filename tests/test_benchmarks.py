"""The table of docs/cases.md: what counts as right, on accounts written by hand, and how some outputs are read.

No tool runs here. Accounts of T02 follow its hand count: two connections of 6 + 4 frames on the same ports.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

for folder in ("benchmarks", "fixtures"):
    sys.path.append(str(ROOT / folder))

import case_table  # noqa: E402 - found by the path above
import other_tools  # noqa: E402
from flow_facts import Account, Flow, directions, expected_flows, judge  # noqa: E402

CLIENT, SERVER = ("10.0.0.1", 1000), ("10.0.0.2", 80)
FIRST = Flow(6, CLIENT, SERVER, (6, 4), (3, 6), ((1, 3, 4, 6, 7, 10), (2, 5, 8, 9)), "fin")
SECOND = Flow(6, CLIENT, SERVER, (6, 4), (3, 6), ((11, 13, 14, 16, 17, 20), (12, 15, 18, 19)), "fin")
T02 = [FIRST, SECOND]
COUNTED = ("ends", "packets", "originator")
ALL = (*COUNTED, "payload", "frames", "end")


def plain(orig: tuple[str, int], resp: tuple[str, int], packets: tuple[int, int]) -> Flow:
    """A flow of a tool that tells neither payload nor frames."""
    return Flow(6, orig, resp, packets)


def verdict(flows: list[Flow], facts: tuple[str, ...], *, complaint: str = "", error: bool = False) -> tuple[bool, str]:
    found = judge(T02, Account(flows, complaint), facts, error=error, one_way=False)
    return found.right, found.wrong


def test_flows_of_the_right_number_and_facts_are_right_in_any_order() -> None:
    assert verdict([SECOND, FIRST], ALL) == (True, "")
    assert verdict([plain(CLIENT, SERVER, (6, 4))] * 2, COUNTED) == (True, "")


def test_two_connections_taken_for_one_are_wrong() -> None:
    assert verdict([plain(CLIENT, SERVER, (12, 8))], COUNTED) == (False, "number")


def test_the_right_number_with_packets_in_the_wrong_flow_is_wrong() -> None:
    assert verdict([plain(CLIENT, SERVER, (7, 4)), plain(CLIENT, SERVER, (5, 4))], COUNTED) == (False, "packets")


def test_the_originator_counts_where_it_is_told() -> None:
    turned = [plain(SERVER, CLIENT, (4, 6)), plain(CLIENT, SERVER, (6, 4))]
    assert verdict(turned, COUNTED) == (False, "originator")
    assert verdict(turned, ("ends", "packets")) == (True, "")


def test_payload_frames_and_end_count_where_they_are_told() -> None:
    def with_second(**changed: object) -> list[Flow]:
        facts = {name: getattr(SECOND, name) for name in Flow.__slots__}
        return [FIRST, Flow(**{**facts, **changed})]  # type: ignore[arg-type]

    assert verdict(with_second(payload=(3, 7)), ALL) == (False, "payload")
    assert verdict(with_second(frames=(SECOND.frames[0], (12, 15, 18, 21))), ALL) == (False, "frames")  # type: ignore[index]
    assert verdict(with_second(end="rst"), ALL) == (False, "end")
    assert verdict(with_second(end="rst", payload=(3, 7)), COUNTED) == (True, "")


def test_payload_is_not_compared_where_it_was_not_counted_by_hand() -> None:
    uncounted = [plain(CLIENT, SERVER, (6, 4))]
    found = judge(uncounted, Account([FIRST]), (*COUNTED, "payload"), error=False, one_way=False)
    assert found.right


def test_what_stands_for_ports_in_other_protocols_is_not_compared() -> None:
    echo = Flow(1, ("10.0.0.1", 7), ("10.0.0.2", 7), (1, 1))
    said = Flow(1, ("10.0.0.1", 0), ("10.0.0.2", 2048), (1, 1))
    assert judge([echo], Account([said]), COUNTED, error=False, one_way=False).right
    assert not judge([FIRST], Account([said]), COUNTED, error=False, one_way=False).right


def test_a_record_a_direction_is_held_against_directions() -> None:
    records = [plain(CLIENT, SERVER, (6, 0)), plain(SERVER, CLIENT, (4, 0))]
    facts = ("ends", "packets")
    assert judge([FIRST], Account(records), facts, error=False, one_way=True).right
    assert not judge(T02, Account(records), facts, error=False, one_way=True).right
    unanswered = plain(CLIENT, SERVER, (3, 0))
    assert [flow.packets for flow in directions([unanswered])] == [(3, 0)]


def test_a_damaged_file_has_to_be_called_damaged() -> None:
    assert verdict(T02, ALL, error=True) == (False, "no error")
    assert verdict(T02, ALL, error=True, complaint="cut short") == (True, "")


@pytest.mark.once("pages are the same on every Python")
def test_the_hand_count_is_read_as_it_stands(tmp_path: Path) -> None:
    asked = {question.name: question for question in case_table.questions(tmp_path)}
    assert asked["T02"].flows == T02
    assert [path.name for path in asked["T29"].captures] == ["T29a.pcap", "T29b.pcap"]
    assert asked["T32-cut"].error
    assert not asked["T02"].error
    assert asked["T17"].captures[0].is_file()
    assert (asked["T15a"].idle_s, asked["T15e"].idle_s, asked["T02"].idle_s) == (300, 60, None)


@pytest.mark.parametrize(("name", "text"), [("T02", "**✗** 1"), ("T15a", "differs 1")])
def test_nobody_is_wrong_about_a_rule_of_choice(name: str, text: str) -> None:
    question = case_table.Question(name, "", [], T02, False)
    tool = other_tools.TOOLS[0]
    assert case_table.cell(tool, question, Account([FIRST])) == text


def test_argus_records_of_a_flow_that_goes_on_are_one_flow() -> None:
    # as ra 3.0.8 prints them, with -s proto,saddr,sport,daddr,dport,spkts,dpkts,sappbytes,dappbytes,state,cause
    head = "Proto,SrcAddr,Sport,DstAddr,Dport,SrcPkts,DstPkts,SAppBytes,DAppBytes,State,Cause\n"
    opened = "tcp,10.0.0.1,1000,10.0.0.2,80,4,2,3,6,CON,Start\n"
    closed = "tcp,10.0.0.1,1000,10.0.0.2,80,6,4,3,6,FIN,Start\n"
    status = "tcp,10.0.0.1,1000,10.0.0.2,80,6,4,3,6,FIN,Status\n"
    assert [flow.packets for flow in other_tools.argus_flows(head + opened + status)] == [(10, 6)]
    assert [flow.packets for flow in other_tools.argus_flows(head + closed + status)] == [(6, 4), (6, 4)]


def test_a_conn_log_of_zeek_is_read() -> None:
    # fields of conn.log by base/protocols/conn/main.zeek; counters that are unset are left out in JSON
    log = (
        '{"id.orig_h":"10.0.0.1","id.orig_p":1000,"id.resp_h":"10.0.0.2","id.resp_p":80,"proto":"tcp",'
        '"orig_pkts":6,"resp_pkts":4}\n'
        '{"id.orig_h":"fe80::1","id.orig_p":128,"id.resp_h":"fe80::2","id.resp_p":129,"proto":"icmp","orig_pkts":1}\n'
    )
    tcp, echo = other_tools.zeek_flows(log)
    assert tcp == plain(CLIENT, SERVER, (6, 4))
    assert (echo.protocol, echo.packets) == (58, (1, 0))


def test_a_tool_that_is_not_there_is_not_run() -> None:
    tool = other_tools.Tool("x", None, "no-such-package-of-anybody", other_tools.nfstream, COUNTED)
    assert other_tools.installed(tool, [sys.executable]) is None


def test_the_page_names_every_tool() -> None:
    page = (ROOT / "docs" / "cases.md").read_text("utf-8")
    missing = [tool.name for tool in other_tools.TOOLS if not re.search(rf"\b{re.escape(tool.name)}\b", page)]
    assert missing == []


@pytest.mark.once("pages are the same on every Python")
def test_every_row_of_the_page_is_a_case(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "cases.md").read_text("utf-8")
    rows = set(re.findall(r"^\| (T\d[\w-]*) \|", page, flags=re.MULTILINE))
    assert len(rows) > 60
    assert rows <= {question.name for question in case_table.questions(tmp_path)}


def test_expected_flows_are_complete() -> None:
    case = {"flows": [{"protocol": 17, "orig": ["2001:DB8::0:1", 5], "resp": ["::1", 6], "orig_frames": [1],
                       "resp_frames": [], "cause": "idle"}]}  # fmt: skip
    assert expected_flows(case) == [Flow(17, ("2001:db8::1", 5), ("::1", 6), (1, 0), None, ((1,), ()), "idle")]
