"""PACKET rows to flow numbers: the one flow table, which decides what a flow is and nothing else.

It holds all state of live flows, and knows no files, no clock and no bytes. Its clock is the running maximum of the
time stamps it was shown (flow-rules 12-14); before a packet is handled, every flow that is due by then has
ended, so batches cannot matter. Flows that end are handed out in the order in which they ended.

A live flow is a row of LIVE; rows of ended flows are used again, so memory follows the number of live flows. What
happens to a row when a packet comes stands in tracking.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from traceflow.analysis import analysis_rows
from traceflow.directions import DIRECTIONS
from traceflow.endings import assemble_flows
from traceflow.flows import FLOW, Account, EndCause
from traceflow.harvest import Harvest
from traceflow.keys import TUNNEL_MASK, VLAN_MASK, find_first_rows, hash_keys, reindex
from traceflow.live import HOT, as_octets, cache_line_rows, live_rows
from traceflow.options import LIKELY_SERVER_PORTS, MOST_FLOWS, Options
from traceflow.packets import Verdict
from traceflow.quotes import NO_QUOTES, Quotes
from traceflow.states import TIMINGS
from traceflow.steering import NO_PLAN, STEER, STEERED, Plan
from traceflow.timeouts import GONE_NS, HEAP, NEVER_NS, clear_heap, grown_heap, when_due
from traceflow.tracking import FROM_RESPONDER, FROM_UPPER, GONE_ROWS, MANY_ROWS, MARK, STATE, TCP_END, tick, track

__all__ = ["FROM_RESPONDER", "FROM_UPPER", "LATE", "MARK", "FlowTable"]

LATE = np.dtype([("number", "u8"), ("flow", "u8"), ("direction", "u1"), ("behind", "u8")], align=True)
"""As MARK, of a frame that was handled before: a fragment whose first one came behind it, as frame `behind`."""

_KEY_MASKS = {"vlan": VLAN_MASK, "tunnel": TUNNEL_MASK}
_TCP, _UDP = 6, 17
_FIRST_ROWS, _FIRST_SLOTS = 1 << 18, 2048
_MANY_SLOTS = 1 << 19
"""From so many slots on, 4 MiB, the index may be taken by half, as at first, before by a quarter: then nine of ten
look-ups find their flow in the first slot, and a frame takes 3 ns less. A larger index would cost 2 ns more."""
_FIRST_RECORDS = 1 << 27  # words: 1 GiB, which is there when it is touched; a system may refuse much more
_NO_HINTS = _NO_HASHES = np.zeros(0, np.uint32)
_ROWS_IN_ORDER = np.arange(GONE_ROWS, dtype=np.uint32)
_PART_FLOWS = 4096


def _in_order(due_ns: npt.NDArray[np.int64], numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """The order by due time, and by flow number where it is the same: as np.lexsort, in half the time where few tie."""
    order = np.argsort(due_ns)
    ordered = due_ns[order]
    same = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    ties = order[tied]
    order[tied] = ties[np.lexsort((numbers[ties], due_ns[ties]))]
    return order


class FlowTable:
    """The flow table. Feed it with `track`, take what ended with `drain`, close it with `end`.

    Args:
        options: The rules.
        seed: Seed of the hash; None takes a fresh one. No result depends on it.
        plan: The plugins that see the packets.
        helped: Whether another thread calls `help` now and then.

    Attributes:
        options: As given.
        plan: As given.
        shots: uint64 words: what the plugins have of the sender of each frame of the batch, right after it; where the
            plan wants them. Nothing of frames without a flow.
        ended_records: uint64[k, 2, plan.record_words]: what the plugins kept of the lower and of the upper end of the
            flows that `drain` returned last.
    """

    def __init__(
        self, options: Options, seed: int | None = None, plan: Plan = NO_PLAN, *, helped: bool = False
    ) -> None:
        self.options = options
        self._state = np.zeros(1, STATE)
        state = self._state[0]
        words = np.random.Generator(np.random.PCG64(secrets.randbits(128) if seed is None else seed))
        self._secret = np.zeros(24, np.uint64)[8:14]  # in lines of its own, see `hash_keys`
        self._secret[:] = words.integers(0, 2**64, 6, np.uint64)
        timeouts = {
            "other": options.idle_timeout_other_ns,
            "idle": options.idle_timeout_tcp_ns,
            "closed": options.linger_ns,
            "attempt": options.attempt_timeout_ns or options.idle_timeout_tcp_ns,
            "handshake": options.handshake_timeout_ns or options.idle_timeout_tcp_ns,
        }
        state["timeouts_ns"] = [NEVER_NS if timeouts[name] is None else timeouts[name] for name in TIMINGS]
        state["fixed"][TIMINGS.index("attempt")] = options.attempt_timeout_ns is not None
        state["fixed"][TIMINGS.index("closed")] = options.wait_from == "close"
        for protocol, bit in ((_TCP, 1), (_UDP, 2)):
            state["server_ports"][list(LIKELY_SERVER_PORTS[protocol])] |= bit
        state["direction"] = DIRECTIONS[options.direction]
        state["zeek_reuse"] = options.reuse == "originator"
        state["reuse_closed"] = options.reuse == "closed"
        state["active_ns"] = NEVER_NS if options.active_timeout_ns is None else options.active_timeout_ns
        state["key_mask"] = sum(_KEY_MASKS[part] for part in options.key)
        self._most = MOST_FLOWS if options.when_full == "grow" else options.max_flows
        state["max_flows"] = self._most
        state["skip_when_full"] = options.when_full == "skip"
        state["directed"] = options.directed
        state["tcp_only"] = options.tcp_only
        state["syn_opens"] = options.syn_opens
        state["tcp_end"] = TCP_END[options.tcp_end]
        state["analysis"] = options.analysis
        state["quick"] = not plan.rows.size and options.active_timeout_ns is None
        state["plugins"], state["record_words"], state["shots"] = len(plan.rows), plan.record_words, plan.shots
        state["pause_ns"], state["many_rows"] = NEVER_NS, MANY_ROWS
        self.plan = plan
        self._both_words = 2 * plan.record_words
        self._steered, self._records = cache_line_rows(0, STEERED), np.zeros(0, np.uint64)
        gone = GONE_ROWS if len(plan.rows) else 0
        self._gone_steered, self._gone_records = (
            cache_line_rows(gone, STEERED),
            np.zeros(gone * self._both_words, np.uint64),
        )
        self._steer, self.shots = np.zeros(1, STEER), np.zeros(0, np.uint64)
        self._shots_left = self.shots
        self._ended_records: list[npt.NDArray[np.uint64]] = []
        self.ended_records = np.zeros((0, 2, plan.record_words), np.uint64)
        # What plugins keep is taken over together with the rows.
        self._harvest = Harvest(analysis=options.analysis, helped=helped and not len(plan.rows))
        self._marks, self._hashes = np.zeros(0, MARK), np.zeros(0, np.uint32)
        self._frames = 0
        self.on_pause: Callable[[], None] | None = None  # no method of this: a circle would outlive the last user
        self._live, self._deep = live_rows(0), analysis_rows(0)
        self._heap = np.zeros(0, HEAP)
        self._slots = np.zeros(0, np.uint64)
        self._make_room()

    def _make_room(self) -> None:
        """Have a free row, unless as many as may are live, and room in the index."""
        state = self._state[0]
        if not state["free"] and state["fresh"] == len(self._live) < self._most:
            self._grow()
        if state["live"] >= state["index_room"]:
            old, self._slots = self._slots, np.zeros(max(_FIRST_SLOTS, 4 * len(self._slots)), np.uint64)
            state["index_room"] = len(self._slots) // (4 if _FIRST_SLOTS < len(self._slots) < _MANY_SLOTS else 2)
            if len(old):  # of none there is nothing to move, and no kernel to wait for
                reindex(old, self._slots)

    def _grow(self) -> None:
        """Have eight times the rows, or as many as may live. Those never used cost no memory: they are not touched."""
        old = len(self._live)
        first = max(1, min(_FIRST_ROWS, _FIRST_RECORDS // max(self._both_words, 1)))
        rows = min(max(first, 8 * old), self._most)
        live = live_rows(rows)
        as_octets(live)[:old] = as_octets(self._live)
        self._live, self._heap = live, grown_heap(self._heap, rows)
        if self.options.analysis:
            deep = analysis_rows(rows)
            as_octets(deep)[:old] = as_octets(self._deep)
            self._deep = deep
        if len(self.plan.rows):
            steered, records = cache_line_rows(rows, STEERED), np.zeros(rows * self._both_words, np.uint64)
            steered[:old], records[: len(self._records)] = self._steered, self._records
            self._steered, self._records = steered, records
        self._set_words()

    def _set_words(self, shots: npt.NDArray[np.uint64] | None = None) -> None:
        """Gather what the kernel is handed as words, see `words` of `track`. `shots`: where it begins with them."""
        self._shots_left = self._shots_left if shots is None else shots
        kept = (self._steered, self._gone_steered, self._records, self._gone_records)
        hooks = (*kept, self.plan.rows, self.plan.shared, self._steer, self._shots_left)
        live, deep = (part.view(np.uint64) for part in (self._live, self._deep))
        gone, gone_deep = self._harvest.gone.words
        self._words = (live, gone, deep, gone_deep, hooks, self._live.view(HOT), _NO_HINTS, _NO_HASHES)

    def track(
        self,
        frames: npt.NDArray[np.void],
        packets: npt.NDArray[np.void],
        first_number: int,
        quotes: Quotes = NO_QUOTES,
        *,
        shots_at: int = 0,
        hashes: npt.NDArray[np.uint32] | None = None,
        hints: npt.NDArray[np.uint32] = _NO_HINTS,
    ) -> npt.NDArray[np.void]:
        """Give each packet its flow.

        Args:
            frames: FRAME[m], consecutive.
            packets: PACKET[m] of the same frames; a profile may set a Verdict.
            first_number: Number of the first frame, counted from 1 over all captures.
            quotes: What ICMP errors among these frames quote; their flows are filled in.
            shots_at: Frames before these whose records in `shots` are still wanted.
            hashes: uint32[m], what `hash_keys` gave for the same packets; None: they are hashed here.
            hints: uint32[m], what `find_hints` gave for them; or nothing.

        Returns:
            MARK[m], valid until the next call.
        """
        if len(self._marks) < len(packets):
            self._marks, self._hashes = np.zeros(len(packets), MARK), np.zeros(len(packets), np.uint32)
        marks, state = self._marks[: len(packets)], self._state
        if hashes is None:
            hashes = self.hash_keys(packets, self._hashes)
        quoted = _NO_HASHES
        if len(quotes.packets):
            quoted = self.hash_keys(quotes.packets, np.zeros(len(quotes.packets), np.uint32))
        state["at"], state["first"] = 0, first_number
        if self.plan.shots:
            self._place_shots(shots_at, shots_at + len(packets))
        batch = frames, packets, marks, hashes, quotes.packets, quotes.quoted
        while True:
            rows = self._live, self._slots, self._heap, self._deep
            track(state, *rows, (*self._words[:-2], hints, quoted), batch)
            if state[0]["at"] == len(packets):
                break
            if state[0]["clock_ns"] >= state[0]["pause_ns"]:
                state[0]["pause_ns"] = NEVER_NS
                if self.on_pause is not None:
                    self.on_pause()
            self._take_gone()
            self._make_room()
        self._frames += len(packets)
        return marks

    def hash_keys(self, packets: npt.NDArray[np.void], hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Hash the keys of packets, which needs nothing of the flows: another thread may do it while this one tracks.

        Args:
            packets: PACKET[m].
            hashes: uint32[k], k >= m, filled.

        Returns:
            uint32[m].
        """
        # No line that `track` writes is read for each packet here: it would go to and fro between two processors.
        some = hashes[: len(packets)]
        hash_keys(packets, self.options.directed, self._secret, self._state[0]["key_mask"], some)
        return some

    def find_hints(self, hashes: npt.NDArray[np.uint32], found: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Look up the rows of packets that will be tracked soon: another thread may do it while this one tracks.

        Args:
            hashes: uint32[m], what `hash_keys` gave.
            found: uint32[k], k >= m, filled.

        Returns:
            uint32[m], for `track`. No result depends on them.
        """
        find_first_rows(self._slots, hashes, found[: len(hashes)])
        return found[: len(hashes)]

    def _place_shots(self, first: int, behind: int) -> None:
        """Have the kernel copy records to `shots` from frame `first` on, and room for all up to `behind`."""
        size = self.plan.record_words
        if len(self.shots) < behind * size:
            longer = np.zeros(behind * size, np.uint64)
            longer[: first * size] = self.shots[: first * size]
            self.shots = longer
        self._set_words(self.shots[first * size :])

    def track_late(
        self, frame: npt.NDArray[np.void], packet: npt.NDArray[np.void], number: int, *, shots_at: int = 0
    ) -> tuple[int, int]:
        """Count a frame in a flow that had the Verdict FRAGMENT_WITHOUT_PORTS before.

        Args:
            frame: FRAME[1].
            packet: PACKET[1], with ports.
            number: Number of the frame that was tracked last: the clock stands there, and stays.
            shots_at: As in `track`.

        Returns:
            Flow (0: none, a profile has a Verdict for it) and direction as in MARK.
        """
        mark = self.track(frame, packet, number, shots_at=shots_at)[0]
        self._frames -= 1
        self._state[0]["verdicts"][Verdict.FRAGMENT_WITHOUT_PORTS] -= 1
        return int(mark["flow"]), int(mark["direction"])

    def _take_gone(self) -> None:
        """Move what ended out of the buffer of the kernels."""
        ended = int(self._state[0]["ended"])
        if ended:
            flows = self._harvest.take_gone(ended)
            if len(self.plan.rows):
                self._keep_records(flows, _ROWS_IN_ORDER[:ended], of_gone=True)
            gone, gone_deep = self._harvest.gone.words
            self._words = (self._words[0], gone, self._words[2], gone_deep, *self._words[4:])
            self._state[0]["ended"] = 0

    def _take_live(self, rows: npt.NDArray[np.uint32], cause: EndCause) -> None:
        """End live flows, in the order of their rows."""
        flows = self._harvest.take_live(self._live, rows, self._deep, cause)
        if len(self.plan.rows):
            self._keep_records(flows, rows, of_gone=False)

    def help(self) -> None:
        """Do what can be done for this table beside `track`: another thread may call it at any time."""
        self._harvest.help()

    def _keep_records(self, flows: npt.NDArray[np.void], rows: npt.NDArray[np.uint32], *, of_gone: bool) -> None:
        """Keep what the plugins have of flows that ended, and whether one of them raised the alarm."""
        if of_gone:  # in their order: slices take a fifth of the time of an index
            count, size = len(rows), self.plan.record_words
            flows["alarm"] = self._gone_steered["alarm"][:count]
            self._ended_records.append(self._gone_records[: count * 2 * size].reshape(count, 2, size).copy())
        else:
            flows["alarm"] = self._steered["alarm"][rows]
            self._ended_records.append(self._records.reshape(-1, 2, self.plan.record_words)[rows])

    def drain(self) -> npt.NDArray[np.void]:
        """Take the flows that have ended since the last call: FLOW[k] in the order in which they ended."""
        self._take_gone()
        if self._ended_records:
            self.ended_records, self._ended_records = np.concatenate(self._ended_records), []
        else:
            self.ended_records = self.ended_records[:0]
        return self._harvest.drain()

    def pause_at(self, now_ns: int | None) -> None:
        """Have `on_pause` called once, before the first frame at or behind a time; None: never."""
        self._state[0]["pause_ns"] = NEVER_NS if now_ns is None else now_ns

    @property
    def handled(self) -> int:
        """Frames handled so far, also while `on_pause` runs."""
        state = self._state[0]
        return int(state["first"]) + int(state["at"]) - 1 if state["first"] else 0

    @property
    def undrained(self) -> int:
        """Flows that have ended since `drain` was called last."""
        return self._harvest.undrained + int(self._state[0]["ended"])

    @property
    def opened(self) -> int:
        """Flows opened so far."""
        return int(self._state[0]["opened"])

    @property
    def most_live(self) -> tuple[int, int]:
        """Flows, and directions of flows, that were live at once, at most."""
        return int(self._state[0]["most_live"]), int(self._state[0]["most_directions"])

    @property
    def clock_ns(self) -> int:
        """The latest time stamp of all frames so far."""
        return int(self._state[0]["clock_ns"])

    def tick(self, now_ns: int) -> None:
        """Let time go on without a frame, as on a quiet link: end the flows that are due at `now_ns`.

        Args:
            now_ns: Time; where it lies before the clock, nothing happens.
        """
        state = self._state
        while True:
            done = tick(state, self._live, self._slots, self._heap, self._words, np.int64(now_ns))
            self._take_gone()
            if done:
                return

    def end(self, cause: EndCause = EndCause.END_OF_INPUT) -> None:
        """End all live flows, the one nearest to its timeout first."""
        for _ in self.end_in_parts(cause):
            pass

    def end_in_parts(self, cause: EndCause = EndCause.END_OF_INPUT) -> Iterator[None]:
        """As `end`, some thousand flows at a time, so that they can be drained in between.

        The iterator must be used up: only then are there no live flows any more.
        """
        state = self._state[0]
        self._take_gone()
        # Sorted at once: taken from the heap one by one, 66 000 flows took a microsecond each.
        live = int(state["live"])
        rows, numbers, due_ns = np.empty(live, np.uint32), np.empty(live, np.uint64), np.empty(live, np.int64)
        when_due(self._live, int(state["fresh"]), rows, numbers, due_ns)
        rows = rows[_in_order(due_ns, numbers)]
        for at in range(0, len(rows) - _PART_FLOWS, _PART_FLOWS):
            self._take_live(rows[at : at + _PART_FLOWS], cause)
            yield
        self._take_live(rows[(len(rows) - 1) // _PART_FLOWS * _PART_FLOWS :], cause)
        state["live"] = state["free"] = state["fresh"] = state["directions"] = 0
        self._slots[:] = 0
        clear_heap(self._heap)
        yield

    @property
    def live(self) -> int:
        """Live flows."""
        return int(self._state[0]["live"])

    def row_of(self, number: int) -> int | None:
        """The row of a live flow, None where it has ended. The row stays the same while the flow lives.

        Args:
            number: Its number. The flow that opened last is found at once, any other by a search through all.
        """
        state = self._state[0]
        if not state["live"]:
            return None
        rows = [int(state["newest"])]
        if number != state["opened"]:
            rows = np.flatnonzero(self._live["number"][: int(state["fresh"])] == number).tolist()
        return rows[0] if rows and self._live["due_ns"][rows[0]] != GONE_NS else None

    def snapshot(self, row: int, cause: EndCause = EndCause.END_OF_INPUT) -> npt.NDArray[np.void]:
        """What `drain` would hand out of a live flow, were it ended now: FLOW[1]. Nothing changes.

        Args:
            row: Its row, see `row_of`.
            cause: What would end it; what closed the flow outranks it.
        """
        flow, rows = np.zeros(1, FLOW), np.array([row], np.uint32)
        assemble_flows(self._live, rows, self._deep, flow, analysis=self.options.analysis, cause=cause)
        if len(self.plan.rows):
            flow["alarm"] = self._steered["alarm"][rows]
        return flow

    def account(self) -> Account:
        """What became of every frame so far; flows are counted once they have ended and been taken over."""
        self._take_gone()
        state, causes = self._state[0], self._harvest.causes
        verdicts = {verdict: int(state["verdicts"][verdict]) for verdict in Verdict}
        return Account(
            frames=self._frames,
            in_flows=verdicts.pop(Verdict.FLOW),
            verdicts=verdicts,
            flows=int(causes.sum()),
            causes={cause: int(causes[cause]) for cause in EndCause},
            frames_out_of_order=int(state["out_of_order"]),
            forward_jumps=int(state["forward_jumps"]),
        )
