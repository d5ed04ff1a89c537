"""Plugin cicflow: dialogues by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from exchange import ACK, PSH, URG, Exchange
from plugin_runs import cells, check_values, dialogue, odd_wire, traced

from traceflow.plugins import load_plugins


def statistics(name: str) -> str:
    return " ".join(f"{name}_{short}" for short in ("max", "min", "mean", "std"))


def test_lengths() -> None:
    """All: mean 20, deviations -10, 10, 0, 0: the variance of the sample is 200 / 3. Originator: 200 / 2."""
    flows = traced(dialogue(), "cicflow")
    names = f"{statistics('pkt_len')} pkt_len_var pkt_size_avg"
    assert cells(flows, names) == pytest.approx([30, 10, 20, (200 / 3) ** 0.5, 200 / 3, 20])
    names = f"tot_fwd_pkts totlen_fwd_pkts {statistics('fwd_pkt_len')} fwd_seg_size_avg"
    assert cells(flows, names) == pytest.approx([3, 60, 30, 10, 20, 10, 20])
    names = f"tot_bwd_pkts totlen_bwd_pkts {statistics('bwd_pkt_len')} bwd_seg_size_avg"
    assert cells(flows, names) == [1, 20, 20, 20, 20, None, 20]
    assert cells(flows, "fwd_header_len fwd_seg_size_min bwd_header_len fwd_act_data_pkts") == [24, 8, 8, 3]


def test_times_and_rates() -> None:
    """Microseconds. Flow: 3, 1, 3 ms; deviations from 7/3: 2/3, -4/3, 2/3; 24/9 / 2. Originator: 3, 4 ms."""
    flows = traced(dialogue(), "cicflow")
    names = "flow_duration flow_byts_s flow_pkts_s fwd_pkts_s bwd_pkts_s down_up_ratio"
    assert cells(flows, names) == pytest.approx([7000, 80 / 0.007, 4 / 0.007, 3 / 0.007, 1 / 0.007, 1 / 3])
    assert cells(flows, statistics("flow_iat")) == pytest.approx([3000, 1000, 7000 / 3, (4 / 3) ** 0.5 * 1000])
    assert cells(flows, "fwd_iat_tot " + statistics("fwd_iat")) == pytest.approx(
        [7000, 4000, 3000, 3500, 500**0.5 * 1000**0.5]
    )
    assert cells(flows, "bwd_iat_tot " + statistics("bwd_iat")) == [0.0, *[None] * 4]


def test_active_idle_and_subflows() -> None:
    """At 0, 2, 8, 9, 19 s. Gaps above 5 s: 6 and 10. Active: 2, 1, 0 s. Above 1 s: 2, 6, 10, so four subflows."""
    talk = Exchange()
    for wait in (0, 2, 6, 1, 10):
        talk.wait(s=wait)
        (talk.b if wait == 1 else talk.a).udp(b"1234")
    flows = traced(talk, "cicflow")
    assert cells(flows, statistics("active")) == pytest.approx([2e6, 0, 1e6, 1e6])
    assert cells(flows, statistics("idle")) == pytest.approx([10e6, 6e6, 8e6, 8**0.5 * 1e6])
    names = "subflow_fwd_pkts subflow_fwd_byts subflow_bwd_pkts subflow_bwd_byts"
    assert cells(flows, names) == [1.0, 4.0, 0.25, 1.0]
    # Idle after 6 s: a gap of 6 s is not longer, so active is 0 to 9 and 19.
    flows = traced(talk, "cicflow:idle_after=6")
    assert cells(flows, statistics("active")) == pytest.approx([9e6, 0, 4.5e6, 40.5**0.5 * 1e6])
    assert cells(flows, statistics("idle")) == [10e6, 10e6, 10e6, None]


def test_bulks() -> None:
    """a: 5 x 100 octets, 10 ms apart, with an ACK between; 3 x 7 of b; 4 x 50, 20 ms apart; after 1.5 s 4 x 10.

    b breaks the first run, the silence the second: three bulks of 5, 4, 4 packets, 500 + 200 + 40 octets, and
    40 + 60 + 30 ms. b itself has no run of 4.
    """
    talk = Exchange()
    talk.open()
    for at in range(5):
        talk.wait(ms=10)
        talk.a.data(bytes(100))
        if at == 2:
            talk.wait(ms=5)
            talk.b.ack()
            talk.wait(ms=-5)
    for _ in range(3):
        talk.wait(ms=10)
        talk.b.data(bytes(7))
    for _ in range(4):
        talk.wait(ms=20)
        talk.a.data(bytes(50))
    talk.wait(ms=1490)
    for _ in range(4):
        talk.wait(ms=10)
        talk.a.data(bytes(10))
    flows = traced(talk, "cicflow")
    assert cells(flows, "fwd_byts_b_avg fwd_pkts_b_avg") == pytest.approx([740 / 3, 13 / 3])
    assert cells(flows, "fwd_blk_rate_avg") == pytest.approx([740 / 0.13])
    assert cells(flows, "bwd_byts_b_avg bwd_pkts_b_avg bwd_blk_rate_avg") == [None] * 3


def test_three_with_a_pause_of_a_second_are_no_bulk_and_four_are() -> None:
    """A gap of exactly 1 s is none of more than 1 s."""
    talk = Exchange()
    for _ in range(4):
        talk.a.udp(b"x")
        talk.wait(s=1)
    assert cells(traced(talk, "cicflow"), "fwd_pkts_b_avg fwd_blk_rate_avg") == pytest.approx([4, 4 / 3])
    talk = Exchange()
    for _ in range(4):
        talk.a.udp(b"x")
        talk.wait(s=1, ns=1)
    assert cells(traced(talk, "cicflow"), "fwd_pkts_b_avg") == [None]


def test_flags_headers_and_windows() -> None:
    """T01 with an MSS option (24 octets of header in one SYN), then PSH|URG|ACK of the client."""
    talk = Exchange()
    talk.a.syn(options=bytes.fromhex("020405b4"), window=1000)
    talk.b.syn_ack(window=2000)
    talk.a.ack(window=3000)
    talk.talk()
    talk.close()
    talk.a.segment(PSH | URG | ACK)
    flows = traced(talk, "cicflow")
    flags = "fin syn rst psh ack urg ece cwr"
    assert cells(flows, " ".join(f"{flag}_flag_cnt" for flag in flags.split())) == [2, 2, 0, 3, 10, 1, 0, 0]
    assert cells(flows, "fwd_psh_flags bwd_psh_flags fwd_urg_flags bwd_urg_flags") == [2, 1, 1, 0]
    assert cells(flows, "fwd_header_len fwd_seg_size_min bwd_header_len bwd_seg_size_min") == [7 * 20 + 4, 20, 80, 20]
    assert cells(flows, "init_fwd_win_byts init_bwd_win_byts fwd_act_data_pkts bwd_act_data_pkts") == [1000, 2000, 1, 1]


def test_forward_is_the_originator_also_where_the_responder_was_captured_first() -> None:
    """SYN-ACK, SYN, ACK, 1 ms each; what is of both directions lies with the server, who spoke first."""
    talk = Exchange()
    talk.b.syn_ack(seq=900, ack=101)
    talk.a.syn(seq=100)
    talk.wait(s=6)
    talk.a.ack()
    flows = traced(talk, "cicflow")
    assert cells(flows, "tot_fwd_pkts tot_bwd_pkts down_up_ratio") == [2, 1, 0.5]
    assert cells(flows, statistics("idle")) == [6e6, 6e6, 6e6, None]
    assert cells(flows, "active_max active_min flow_iat_min") == [1000.0, 0.0, 1000.0]


def test_odd_packets() -> None:
    flows = traced(odd_wire(), "cicflow")
    check_values(flows)
    names = "flow_duration flow_byts_s flow_iat_mean down_up_ratio active_max idle_max syn_flag_cnt bwd_pkt_len_mean"
    assert cells(flows, names) == [0.0, None, None, 0.0, 0.0, None, None, None]
    assert cells(flows, "init_fwd_win_byts init_bwd_win_byts fwd_header_len", 1) == [64240, None, 20]
    assert cells(flows, "fwd_header_len totlen_fwd_pkts totlen_bwd_pkts", 2) == [0, 12, 12]
    assert cells(flows, "flow_iat_max flow_pkts_s", 3) == [0.0, None]
    assert cells(flows, "flow_iat_max flow_duration", 4) == [10_000.0, 15_000.0]
    assert cells(flows, "totlen_fwd_pkts fwd_act_data_pkts pkt_len_mean", 5) == [0, 0, 0.0]


def test_a_flow_of_the_responder_alone_has_no_ratio() -> None:
    talk = Exchange()
    talk.b.syn_ack(seq=900, ack=101)
    assert cells(traced(talk, "cicflow"), "down_up_ratio tot_fwd_pkts fwd_iat_tot tot_bwd_pkts") == [None, 0, None, 1]


@pytest.mark.parametrize("name", ["basicstats", "tcpflags", "splt", "peafowl", "nfstream", "cicflow"])
def test_the_page_of_mapped_columns_names_every_column(name: str) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "mapped-columns.md").read_text("utf-8")
    plugin = load_plugins([name])[0]
    assert [column.name for column in plugin.columns if not re.search(rf"`(splt_)?{column.name}`", page)] == []
    assert [option.name for option in plugin.options if f"`{option.name}`" not in page] == []
    assert [column.name for column in plugin.columns if not column.description] == []


def test_all_the_built_ins_go_together() -> None:
    """No two of them have a column of the same name, nor one that a flow has already."""
    names = ("basicstats", "tcpflags", "splt", "peafowl", "nfstream", "cicflow")
    flows = traced(odd_wire(), *load_plugins(names))
    check_values(flows)
    assert cells(flows, "src2dst_packets tot_fwd_pkts outbound_packets splt_count orig_basicstats_packets") == [1] * 5
