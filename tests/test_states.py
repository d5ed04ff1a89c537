"""The room `states`: TCP states and history, exchange by exchange.

Expected words and letters are derived by hand from Zeek's documentation of `conn.log`; where the derivation is not
plain it stands beside the case. A letter is upper case for the originator `a`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exchange import Exchange, Wire

import traceflow
from traceflow.flows import Flow
from traceflow.states import _EVENTS, _TABLE, HISTORY_OCTETS, UNSEEN
from traceflow.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN

Script = Callable[[Exchange], object]


def flows_of(e: Exchange, where: Path, **options: object) -> list[Flow]:
    return list(traceflow.trace(e.pcap(where, nanosecond=True), **options))  # type: ignore[arg-type]


def said(e: Exchange, where: Path, **options: object) -> list[tuple[str, str]]:
    """(conn_state, history) of all flows of an exchange."""
    return [(flow.conn_state.text, flow.history) for flow in flows_of(e, where, **options)]


def lost_syn(e: Exchange, *then: str) -> None:
    """A SYN+ACK without its SYN: the capture begins with the responder."""
    e.a._spoke = True
    e.a.next_seq += 1
    e.b.syn_ack()
    for name in then:
        getattr(e.b, name)()


def half_closed(e: Exchange) -> None:
    e.open()
    e.talk()
    e.a.fin()
    e.b.ack()


STATES: dict[str, tuple[Script, str, str]] = {
    "one SYN": (lambda e: e.a.syn(), "S0", "S"),
    "handshake": (lambda e: e.open(), "S1", "ShA"),
    "T01": (lambda e: e.connection(), "SF", "ShADdFaf"),
    "refused": (lambda e: [e.a.syn(), e.b.rst_ack()], "REJ", "Sr"),
    "originator closes": (lambda e: [e.open(), e.a.fin(), e.b.ack()], "S2", "ShAFa"),
    "responder closes": (lambda e: [e.open(), e.b.fin(), e.a.ack()], "S3", "ShAf"),
    "originator aborts": (lambda e: [e.open(), e.talk(), e.a.rst()], "RSTO", "ShADdR"),
    "responder aborts": (lambda e: [e.open(), e.talk(), e.b.rst()], "RSTR", "ShADdr"),
    "attempt aborted": (lambda e: [e.a.syn(), e.a.rst()], "RSTOS0", "SR"),
    # The receiver of the SYN+ACK is the originator, though it never sent: ^ says that who sent first is not.
    "SYN+ACK and RST": (lambda e: lost_syn(e, "rst"), "RSTRH", "^hr"),
    "SYN and FIN": (lambda e: [e.a.syn(), e.a.fin()], "SH", "SF"),
    "SYN+ACK and FIN": (lambda e: lost_syn(e, "fin"), "SHR", "^hf"),
    "mid-connection": (lambda e: [e.a.data(b"x"), e.b.data(b"y"), e.a.ack()], "OTH", "DdA"),
    # Only the SYN is missing: the ACK that follows the SYN+ACK establishes the originator.
    "SYN missed": (lambda e: [lost_syn(e), e.a.ack(), e.talk()], "S1", "^hADd"),
    # os RESET, rs silent, and no S at the head of the history: the one OTH with a RST.
    "RST alone": (lambda e: e.a.rst(), "OTH", "R"),
    # A SYN that was acknowledged before the RST is no RSTOS0: an A stands between S and R.
    "SYN, ACK, RST": (lambda e: [e.a.syn(), e.a.ack(), e.a.rst()], "OTH", "SAR"),
    # Some acknowledge before they answer; that makes no partial connection of it.
    "early ACK": (lambda e: [e.a.syn(), e.b.ack(), e.b.syn_ack(), e.a.ack()], "S1", "SahA"),
    # RST of both without an octet of data: Zeek takes it for a refusal. With data it is the responder's.
    "RST of both": (lambda e: [e.open(), e.a.rst(), e.b.rst()], "REJ", "ShARr"),
    "data, RST of both": (lambda e: [e.open(), e.a.data(b"x"), e.a.rst(), e.b.rst()], "RSTR", "ShADRr"),
    # A RST after the FINs of both changes nothing; after one FIN the FIN of the other side makes it good.
    "RST after close": (lambda e: [e.connection(), e.b.rst()], "SF", "ShADdFafr"),
    "FIN, RST, FIN": (lambda e: [e.open(), e.a.fin(), e.a.rst(), e.b.fin()], "SF", "ShAFRf"),
}


@pytest.mark.parametrize("name", STATES)
def test_states(name: str, tmp_path: Path) -> None:
    script, state, history = STATES[name]
    e = Exchange()
    script(e)
    assert said(e, tmp_path) == [(state, history)]


def test_all_thirteen_are_covered() -> None:
    assert {state for _, state, _ in STATES.values()} == {state.text for state in traceflow.ConnState}


@pytest.mark.parametrize("name", STATES)
def test_profile_zeek_says_the_same(name: str, tmp_path: Path) -> None:
    """Where the flow opens with a SYN, or neither port is a server's, both name the same originator."""
    script, state, history = STATES[name]
    if history.startswith("^"):
        pytest.skip("without a SYN, profile zeek decides by ports")
    e = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
    script(e)
    assert said(e, tmp_path, profile="zeek") == [(state, history)]


def gap(e: Exchange) -> None:
    """`b` acknowledges ten octets of `a` that are not in the capture."""
    e.a.next_seq += 10
    e.b.ack()


# Five states, and the letters G, W, I and Q, are not in the logs that Zeek's tests expect (test_zeek.py; but g). Their
# definitions, in our words, from Zeek's documentation of conn.log, and what follows from them for an exchange:
DERIVED: dict[str, tuple[Script, str, str, str]] = {
    "REJ": (
        lambda e: [e.a.syn(), e.b.rst_ack()],
        "REJ",
        "Sr",
        "REJ: the attempt was rejected. S: SYN of the originator; r: RST of the responder; its ACK is no pure one.",
    ),
    "REJ after three SYNs": (
        lambda e: [e.a.syn(seq=100), e.a.syn(seq=100), e.a.syn(seq=100), e.b.rst_ack()],
        "REJ",
        "Sr",
        "The SYN is the same one again: S stands once, and nothing but a RST answers.",
    ),
    "S2": (
        lambda e: [e.open(), e.talk(), e.a.fin(), e.b.ack()],
        "S2",
        "ShADdFa",
        "S2: established, the originator closes (F), of the responder no close: its ACK (a) is none.",
    ),
    "S2, data after the half close": (
        lambda e: [e.open(), e.a.fin(), e.b.ack(), e.b.data(b"more"), e.a.ack()],
        "S2",
        "ShAFad",
        "A half close: the responder goes on (d) and has not closed. A was written for the handshake.",
    ),
    "S3": (
        lambda e: [e.open(), e.talk(), e.b.fin(), e.a.ack()],
        "S3",
        "ShADdf",
        "S3: established, the responder closes (f), the originator does not; its ACK is no new letter.",
    ),
    "RSTOS0": (
        lambda e: [e.a.syn(), e.wait(ms=1), e.a.rst()],
        "RSTOS0",
        "SR",
        "RSTOS0: SYN and then RST of the originator, no SYN+ACK of the responder was seen.",
    ),
    "RSTOS0, an ACK of the responder": (
        lambda e: [e.a.syn(), e.b.ack(), e.a.rst()],
        "RSTOS0",
        "SaR",
        "The responder did send (a challenge ACK), but no SYN+ACK.",
    ),
    "RSTRH": (
        lambda e: lost_syn(e, "rst"),
        "RSTRH",
        "^hr",
        "RSTRH: SYN+ACK and then RST of the responder, no SYN of the originator. ^: who sent first responds.",
    ),
    "G": (
        lambda e: [e.open(), gap(e), e.talk()],
        "S1",
        "ShAaGDd",
        "G: octets of the originator were acknowledged (a) and never seen. It talks on behind them: D, answered by d.",
    ),
    "W, w": (
        lambda e: [e.open(), e.a.ack(window=0), e.b.ack(window=0)],
        "S1",
        "ShAWaw",
        "W: a window of zero, of the originator, then of the responder, whose first pure ACK is also an a.",
    ),
    "I, i": (
        lambda e: [e.open(), e.a.segment(FIN | RST), e.b.segment(FIN | RST)],
        "REJ",
        "ShAIi",
        "I: contradicting flags, FIN and RST, so neither F nor R. Both have reset without data: as RST of both.",
    ),
    "Q, q": (
        lambda e: [e.a.segment(SYN | FIN, seq=100), e.b.segment(SYN | FIN | ACK, seq=900, ack=101)],
        "SF",
        "Qq",
        "Q: SYN and FIN in one segment, so neither S, H nor F; both ends have closed.",
    ),
}


@pytest.mark.parametrize("name", DERIVED)
def test_what_the_logs_of_zeek_lack(name: str, tmp_path: Path) -> None:
    script, state, history, derivation = DERIVED[name]
    e = Exchange()
    script(e)
    assert said(e, tmp_path) == [(state, history)], derivation


def test_the_logs_of_zeek_lack_nothing_else(shared: Path) -> None:
    """What is neither in the logs nor derived above: nothing. X is of protocol analyzers, `-` is no history."""
    states, letters = {state for _, state, _, _ in DERIVED.values()}, set("".join(row[2] for row in DERIVED.values()))
    for line in (shared / "oracle" / "zeek_conns.jsonl").read_text("utf-8").splitlines():
        for conn in json.loads(line)["conns"]:
            states.add(conn.get("conn_state"))
            letters |= set(conn.get("history", ""))
    assert states - {None} == {state.text for state in traceflow.ConnState}
    assert {letter.upper() for letter in letters} - set("X-") == set("SHADFRCGTWIQ^")


def repeat(times: int, script: Script) -> Script:
    def run(e: Exchange) -> None:
        e.open()
        for _ in range(times):
            script(e)

    return run


def resend(e: Exchange) -> None:
    e.a.data(b"0123456789", seq=101)


LETTERS: dict[str, tuple[Script, str]] = {
    "S once for one number": (lambda e: [e.a.syn(seq=100), e.a.syn(seq=100), e.b.syn_ack()], "Sh"),
    "F again for another number": (lambda e: [e.open(), e.a.fin(seq=101), e.a.fin(seq=111)], "ShAFF"),
    "F once for one number": (lambda e: [e.open(), e.a.fin(seq=101), e.a.fin(seq=101)], "ShAF"),
    "R again for another number": (lambda e: [e.open(), e.b.rst(seq=901), e.b.rst(seq=901), e.b.rst(seq=950)], "ShArr"),
    "A is a pure ACK": (lambda e: [e.open(), e.b.segment(PSH | ACK, b"x"), e.b.ack()], "ShAda"),
    "no letter without a flag": (lambda e: [e.open(), e.a.segment(PSH)], "ShA"),
    "I is FIN and RST": (lambda e: [e.open(), e.a.segment(FIN | RST), e.a.segment(FIN | RST)], "ShAI"),
    "I outranks Q": (lambda e: e.a.segment(SYN | FIN | RST), "I"),
    "Q is SYN and FIN": (lambda e: e.a.segment(SYN | FIN), "Q"),
    "Q is SYN and RST": (lambda e: e.a.segment(SYN | RST), "Q"),
    # The 1st, 10th, 100th are written. `a` sends its ten octets once (D) and then again.
    "T of 1": (repeat(2, resend), "ShADT"),
    "T of 9": (repeat(10, resend), "ShADT"),
    "T of 10": (repeat(11, resend), "ShADTT"),
    "T of 99": (repeat(100, resend), "ShADTT"),
    "T of 100": (repeat(101, resend), "ShADTTT"),
    "T of a keep-alive with an octet": (lambda e: [e.open(), e.talk(), e.a.data(b"T", seq=103)], "ShADdT"),
    "no T of one without": (lambda e: [e.open(), e.talk(), e.a.ack(seq=103)], "ShADd"),
    "G of 1": (repeat(1, gap), "ShAaG"),
    "G of 10": (repeat(10, gap), "ShAaGG"),
    "no G in mid-connection": (lambda e: [e.a.data(b"x"), gap(e)], "Da"),
    "W of 1": (repeat(1, lambda e: e.b.ack(window=0)), "ShAaw"),
    "W of 10": (repeat(10, lambda e: e.b.ack(window=0)), "ShAaww"),
    "no W of a RST": (lambda e: [e.open(), e.b.segment(RST, window=0)], "ShAr"),
    # The window of a side means nothing once the other has sent its FIN.
    "no W after the other's FIN": (lambda e: [half_closed(e), e.b.ack(window=0)], "ShADdFa"),
    "payload in a SYN (TFO)": (lambda e: [e.a.segment(SYN, b"early"), e.b.syn_ack(), e.a.ack()], "ShA"),
    "ECN": (lambda e: [e.a.segment(SYN | ECE | CWR), e.b.segment(SYN | ACK | ECE), e.a.ack()], "ShA"),
    "datagrams": (lambda e: [e.a.udp(b"?"), e.a.udp(b"?"), e.b.udp(b"!")], "Dd"),
    "a protocol without ports": (lambda e: e.a.ip(89, b"hello"), ""),
}


@pytest.mark.parametrize("name", LETTERS)
def test_letters(name: str, tmp_path: Path) -> None:
    script, history = LETTERS[name]
    e = Exchange()
    script(e)
    assert [flow.history for flow in flows_of(e, tmp_path)] == [history]


def test_every_letter_is_covered() -> None:
    """C stands in `test_a_wrong_checksum`."""
    seen = {letter for _, history in LETTERS.values() for letter in history.upper()}
    seen |= {letter for _, _, history in STATES.values() for letter in history.upper()}
    assert seen == set("SHADFRGTWIQ^")


def test_data_out_of_order_is_no_gap(tmp_path: Path) -> None:
    """Four segments, the 1st last: three islands behind a hole, then the hole is filled, then all is acknowledged.

    The late one lies before the highest number: T.
    """
    e = Exchange()
    e.open()
    for seq in (111, 121, 131, 101):
        e.a.data(b"0123456789", seq=seq)
    e.b.ack(ack=141)
    assert said(e, tmp_path) == [("S1", "ShADTa")]


@pytest.mark.parametrize("order", [(121, 141), (141, 121)])
def test_two_holes_are_two_gaps(order: tuple[int, int], tmp_path: Path) -> None:
    """Octets 111-120 and 131-140 are missing: nine more holes later the tenth is written."""
    e = Exchange()
    e.open()
    for seq in (101, *order):
        e.a.data(b"0123456789", seq=seq)
    e.b.ack(ack=151)
    late = "" if order == (121, 141) else "T"
    assert said(e, tmp_path) == [("S1", f"ShAD{late}aG")]
    for _ in range(8):
        gap(e)
    assert said(e, tmp_path) == [("S1", f"ShAD{late}aGG")]


def test_a_wrong_checksum(tmp_path: Path) -> None:
    """It counts as a frame, and says nothing of the connection; unless checksums are not verified."""
    e = Exchange()
    e.open()
    for _ in range(10):
        e.a.data(b"bad")
        frame = e.wire.frames[-1]
        e.wire.frames[-1] = dataclasses.replace(frame, octets=frame.octets[:-1] + b"!")
    assert said(e, tmp_path, checksums=True) == [("S1", "ShACC")]
    assert [flow.orig.packets for flow in flows_of(e, tmp_path, checksums=True)] == [12]
    assert said(e, tmp_path) == [("S1", "ShAD")]


def test_a_history_is_bounded(tmp_path: Path) -> None:
    """S and 47 of R have room; 60 of R have not, and a + says so."""
    e = Exchange()
    e.a.syn()
    for seq in range(47):
        e.a.rst(seq=200 + seq)
    assert [flow.history for flow in flows_of(e, tmp_path)] == ["S" + "R" * 47]
    for seq in range(13):
        e.a.rst(seq=300 + seq)
    (flow,) = flows_of(e, tmp_path)
    assert flow.history == "S" + "R" * 46 + "+"
    assert len(flow.history) == HISTORY_OCTETS


def test_partial(tmp_path: Path) -> None:
    """Met in mid-connection: the first segment of the originator is no SYN, or that of the responder none."""
    for script, partial in (
        (lambda e: e.connection(), 0),
        (lambda e: e.a.data(b"x"), 1),
        (lambda e: [lost_syn(e), e.a.ack()], 0),
        (lambda e: e.a.syn_ack(), 0),
        (lambda e: e.a.udp(b"x"), 0),
    ):
        e = Exchange()
        script(e)
        assert [flow.partial for flow in flows_of(e, tmp_path)] == [partial]


def test_numbers_wrap(tmp_path: Path) -> None:
    """Initial numbers at both ends of the range (T25): neither T nor G."""
    for isn in ((0, 2**32 - 1), (2**32 - 3, 0)):
        e = Exchange()
        e.open(isn)
        e.talk(b"0123456789" * 10, b"0123456789" * 10)
        e.talk()
        e.close()
        assert said(e, tmp_path) == [("SF", "ShADdFaf")]


def with_new_numbers(e: Exchange) -> None:
    e.connection(isn=(50_000, 90_000))


def t07(e: Exchange) -> None:
    """SYN+ACK before SYN, as two capture cards give it."""
    e.a._spoke = True
    e.a.next_seq = 101
    e.b.syn_ack(ack=101)
    e.a.syn(seq=100)
    e.a.ack()
    e.talk()
    e.close()


def t08(wait_s: int) -> Script:
    """The last ACK is lost, and the FIN of `b` comes again."""

    def script(e: Exchange) -> None:
        e.open()
        e.talk()
        e.a.fin()
        e.b.ack()
        e.b.fin(seq=907)
        e.wait(s=wait_s)
        e.b.fin(seq=907)

    return script


def t09(e: Exchange) -> None:
    e.open()
    e.a.fin(seq=131)
    for seq in (101, 111, 121):
        e.a.data(b"0123456789", seq=seq)
    e.b.fin()


def t10(e: Exchange) -> None:
    e.open()
    e.a.fin()
    e.b.ack()
    for _ in range(20):
        e.b.data(bytes(50_000))
        e.a.ack()
    e.b.fin()
    e.a.ack()


def t27(e: Exchange) -> None:
    """Simultaneous open. The SYN+ACKs repeat the numbers of the SYNs, so no H is written."""
    e.a.syn()
    e.b.syn()
    e.a.segment(SYN | ACK, seq=100, ack=901)
    e.b.segment(SYN | ACK, seq=900, ack=101)
    e.talk()
    e.close()


WHOLE = ("SF", "ShADdFaf")
CASES: dict[str, tuple[Script, list[tuple[str, str]]]] = {
    "T01": (lambda e: e.connection(), [WHOLE]),
    "T02": (lambda e: [e.connection(), e.wait(s=5), with_new_numbers(e)], [WHOLE, WHOLE]),
    "T03": (lambda e: [e.connection(), with_new_numbers(e)], [WHOLE, WHOLE]),
    "T04": (lambda e: [e.open(), e.a.data(b"x"), e.b.rst(), with_new_numbers(e)], [("RSTR", "ShADr"), WHOLE]),
    "T05": (lambda e: [e.open(), e.talk(), e.wait(s=5), with_new_numbers(e)], [("S1", "ShADd"), WHOLE]),
    "T06": (lambda e: [*(e.a.syn(seq=100) for _ in range(3)), e.connection(isn=(100, 900))], [WHOLE]),
    # The direction is right from the first frame on; the SYN's number was known from the SYN+ACK: established.
    "T07": (t07, [("SF", "^hSADdFaf")]),
    "T08, 30 s": (t08(30), [WHOLE]),
    # The late FIN is a flow of its own: originator closed, responder never heard, which Zeek calls SH.
    "T08, 90 s": (t08(90), [WHOLE, ("SH", "F")]),
    "T09": (t09, [("SF", "ShAFDTf")]),
    "T10": (t10, [("SF", "ShAFadf")]),
    "T11, FIN and RST": (lambda e: [e.open(), e.talk(), e.a.fin(), e.a.rst()], [("RSTO", "ShADdFR")]),
    "T11, RST of both": (lambda e: [e.open(), e.talk(), e.a.rst(), e.b.rst()], [("RSTR", "ShADdRr")]),
    "T12, refused": (lambda e: [e.a.syn(), e.b.rst_ack()], [("REJ", "Sr")]),
    "T12, no answer": (lambda e: [e.a.syn(seq=1), e.a.syn(seq=2)], [("S0", "S"), ("S0", "S")]),
    "T13": (lambda e: [e.connection(), e.a.udp(b"?"), e.b.udp(b"!")], [WHOLE, ("SF", "Dd")]),
    "T14": (lambda e: [e.talk(), with_new_numbers(e)], [("OTH", "DdA"), WHOLE]),
    "T27": (t27, [("SF", "SsDdAFaf")]),
    # SYN and ACK make its receiver the originator (rule 2); the sender is the responder who resets.
    "T27, all flags": (lambda e: e.a.segment(0xFF), [("RSTRH", "^i")]),
}


@pytest.mark.parametrize("name", CASES)
def test_cases_of_the_rules(name: str, tmp_path: Path) -> None:
    script, expected = CASES[name]
    e = Exchange()
    script(e)
    assert said(e, tmp_path) == expected


def test_a_connection_to_itself(tmp_path: Path) -> None:
    """T27: one flow; both directions have the same key end, so all of it counts as the originator's."""
    e = Exchange("127.0.0.1:5000", "127.0.0.1:5000")
    e.a.syn(seq=100)
    e.a.segment(SYN | ACK, seq=100, ack=101)
    e.a.data(b"echo")
    assert said(e, tmp_path) == [("S0", "SD")]


# --- profile zeek: boundaries ------------------------------------------------------------------------------------


def test_an_attempt_ends_five_seconds_after_its_first_syn(tmp_path: Path) -> None:
    """Tries at 0, 3, 4.999..., 5 and 9 s: the fourth is the first of a second flow, however short the silence was."""
    e = Exchange(wire=Wire(start_ns=10**18))
    for at in (0, 3 * 10**9, 5 * 10**9 - 1, 5 * 10**9, 9 * 10**9):
        e.wire.at(10**18 + at)
        e.a.syn(seq=100)
    assert [flow.packets for flow in flows_of(e, tmp_path, profile="zeek")] == [3, 2]
    assert [flow.packets for flow in flows_of(e, tmp_path)] == [5]


def test_a_closed_flow_waits_five_seconds_from_its_close(tmp_path: Path) -> None:
    """ACKs 4 s and 8 s after the FIN of `b`: the first belongs, and does not prolong it."""
    e = Exchange()
    e.connection()
    for _ in range(2):
        e.wait(s=4)
        e.a.ack()
    assert said(e, tmp_path, profile="zeek") == [WHOLE, ("OTH", "A")]
    assert said(e, tmp_path) == [WHOLE]


def test_a_handshake_waits_a_minute(tmp_path: Path) -> None:
    """A SYN and an early ACK of the other side: neither end is beyond SYNs, so 60 s of silence end it, not 5 or 300."""
    for wait_s, count in ((59, 1), (61, 2)):
        e = Exchange()
        lost_syn(e)
        e.wait(s=wait_s)
        e.b.syn_ack(seq=900, ack=101)
        options = {"profile": "zeek", "direction": "syn", "attempt_timeout_ns": 100 * 10**9, "reuse": "sender"}
        assert len(flows_of(e, tmp_path, **options)) == 1  # established as far as the responder goes: 300 s
        f = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
        f.a.rst(seq=7)
        f.wait(s=wait_s)
        f.a.rst(seq=7)
        assert len(flows_of(f, tmp_path, profile="zeek")) == 2
        g = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
        g.a.syn(seq=7)
        g.wait(s=wait_s)
        g.a.syn(seq=7)
        assert len(flows_of(g, tmp_path, profile="zeek", attempt_timeout_ns=None)) == (1 if wait_s < 300 else count)


def test_simultaneous_open_is_reuse_for_zeek(tmp_path: Path) -> None:
    """Zeek compares each SYN with the originator's number, so the SYN of the other side opens a second connection.

    Its originator is `b`; the SYN+ACK of `a` is the h of the second one.
    """
    e = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
    t27(e)
    states = said(e, tmp_path, profile="zeek")
    assert states == [("S0", "S"), ("SF", "ShdDafAF")]


def test_a_syn_after_the_close_opens_for_zeek(tmp_path: Path) -> None:
    """The same number again, after both sides have closed."""
    e = Exchange()
    e.connection()
    e.a.syn(seq=100)
    assert said(e, tmp_path, profile="zeek") == [WHOLE, ("S0", "S")]
    assert len(said(e, tmp_path)) == 1


def test_who_is_the_originator_by_ports(tmp_path: Path) -> None:
    """The end with a server's port responds; where both have one, the lower port; neither: who sent first."""
    for src, dst, turned in ((80, 40000, True), (40000, 80, False), (40000, 50000, False), (80, 443, True)):
        e = Exchange(f"10.0.0.1:{src}", f"10.0.0.2:{dst}")
        e.a.data(b"x")
        (flow,) = flows_of(e, tmp_path, profile="zeek")
        assert (flow.orig_port, flow.history) == ((dst, "^d") if turned else (src, "D"))
        (flow,) = flows_of(e, tmp_path, profile="zeek", direction="first")
        assert (flow.orig_port, flow.history) == (src, "D")


def test_a_reversal_found_late(tmp_path: Path) -> None:
    """Without ports, the sender of a SYN+ACK is taken for the originator until its SYN comes: H, s, then turned."""
    e = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
    t07(e)
    (flow,) = flows_of(e, tmp_path, profile="zeek")
    assert (flow.conn_state.text, flow.history, flow.turned) == ("SF", "Hs^ADdFaf", 1)
    assert flow.orig_port == 40000


ANSWERED: dict[str, tuple[Script, list[tuple[str, str]]]] = {
    "nothing follows: a scan": (lambda e: e.a.syn_ack(), [("OTH", "H")]),
    "a RST follows: a scan": (lambda e: [e.a.syn_ack(), e.b.rst()], [("REJ", "Hr")]),
    "the same SYN+ACK again": (lambda e: [e.a.syn_ack(seq=900), e.a.syn_ack(seq=900)], [("OTH", "H")]),
    "the other end acknowledges": (lambda e: [lost_syn(e), e.a.ack()], [("S1", "^hA")]),
    "the other end sends data": (lambda e: [lost_syn(e), e.a.data(b"x")], [("S1", "^hD")]),
    "the sender goes on": (lambda e: [lost_syn(e), e.b.ack(), e.b.fin()], [("SHR", "^haf")]),
    "and the whole connection": (lambda e: [lost_syn(e), e.a.ack(), e.talk(), e.close()], [("SF", "^hADdFaf")]),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_a_syn_ack_that_is_followed_up(name: str, tmp_path: Path) -> None:
    """Zeek takes who sends a SYN+ACK out of nothing for the originator, because of scans, until an ACK follows.

    Or data, from either end: then the SYN was missed, and the connection is turned (Zeek 5.1 and later).
    """
    script, expected = ANSWERED[name]
    e = Exchange("10.0.0.1:40000", "10.0.0.2:50000")
    script(e)
    assert said(e, tmp_path, profile="zeek") == expected


REPEATED: dict[str, tuple[Script, int, int]] = {
    # By flow-rules 11, counted by hand: (script, of the originator, of the responder).
    "nothing": (lambda e: e.connection(), 0, 0),
    "a SYN three times more": (lambda e: [e.a.syn(), *(e.a.syn(seq=100) for _ in range(3))], 3, 0),
    "a SYN with another number opens a flow": (lambda e: [e.a.syn(), e.a.syn(seq=5000)], 0, 0),
    "a SYN+ACK with another number": (lambda e: [e.a.syn(), e.b.syn_ack(), e.b.syn_ack(seq=700)], 0, 0),
    "data again": (lambda e: [e.open(), e.a.data(b"abc"), e.a.data(b"abc", seq=101)], 1, 0),
    "part of it again": (lambda e: [e.open(), e.a.data(b"abcd"), e.a.data(b"bc", seq=102)], 1, 0),
    "old and new": (lambda e: [e.open(), e.a.data(b"abc"), e.a.data(b"bcd", seq=102)], 0, 0),
    "what fills a hole": (lambda e: [e.open(), e.a.data(b"def", seq=104), e.a.data(b"abc", seq=101)], 0, 0),
    "what lies behind a hole, again": (lambda e: [e.open(), *(e.a.data(b"def", seq=104) for _ in range(2))], 1, 0),
    "a keep-alive": (lambda e: [e.open(), e.a.data(b"abc"), e.b.ack(), e.a.data(b"c", seq=103)], 0, 0),
    "a keep-alive without an octet": (lambda e: [e.open(), e.a.data(b"abc"), e.b.ack(), e.a.ack(seq=103)], 0, 0),
    "duplicate ACKs": (lambda e: [e.open(), e.a.data(b"abc"), *(e.b.ack() for _ in range(4))], 0, 0),
    "a FIN again": (lambda e: [e.open(), e.a.fin(), e.b.ack(), e.a.fin(seq=101)], 1, 0),
    "data that was sent, now with the FIN": (
        lambda e: [e.open(), e.a.data(b"abc"), e.a.segment(FIN | ACK, b"abc", seq=101)],
        0,
        0,
    ),
    "of the responder": (lambda e: [e.open(), e.b.data(b"abc"), e.b.data(b"abc", seq=901)], 0, 1),
    "a RST twice": (lambda e: [e.open(), e.a.rst(), e.a.rst()], 0, 0),
}


@pytest.mark.parametrize("name", REPEATED)
def test_retransmissions(name: str, tmp_path: Path) -> None:
    """Client numbers begin at 100, server numbers at 900."""
    script, orig, resp = REPEATED[name]
    e = Exchange()
    script(e)
    flow = flows_of(e, tmp_path)[0]
    assert (flow.orig.retransmitted_segments, flow.resp.retransmitted_segments) == (orig, resp)


def test_data_and_acknowledgments_move_no_end_that_was_heard() -> None:
    """What `follow_first` builds upon: the table, read as its docstring says."""
    moves = _TABLE.reshape(len(_EVENTS), 2, 8, 8)
    for event in ("data", "ack"):
        for state in range(UNSEEN + 1, 8):
            for peer in range(8):
                assert (moves[_EVENTS.index(event), :, state, peer] == state | peer << 3).all()
