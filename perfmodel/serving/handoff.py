"""Prompts are computed in one pool of replicas and decoded in another: reservations, and caches on their way.

Layer-wise (SGLang, Mooncake; LongCat): a decode rank reserves blocks first, then the prompt waits for a prefill
replica, and each layer's cache is sent as soon as it is computed, so that little more than the last layer's is left
when the prompt is done. Where decode has no room, prompts wait: that is the backpressure. Whole (vLLM's and
TensorRT-LLM's context-first): the prompt is computed first and its blocks are held until a decode rank has reserved its
own and the whole cache has been sent; where decode has no room, prefill replicas fill up.

The first token reaches the user when the cache has arrived, since the decode replica sends it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import simpy

from perfmodel.ops.memory import NOTHING, Beside
from perfmodel.serving.book import Book
from perfmodel.serving.links import Flow, Link, Links
from perfmodel.serving.pool import Pool
from perfmodel.serving.rank import Rank
from perfmodel.serving.replica import Replica
from perfmodel.serving.sharing import Wire


@dataclass(frozen=True, slots=True)
class KvPath:
    """The way of caches from a prefill rank to a decode rank."""

    bytes_per_token: float
    """That all GPUs of a decode rank receive together."""
    send_bytes_per_s: float
    """Of all GPUs of a prefill rank together."""
    receive_bytes_per_s: float
    """Of all GPUs of a decode rank together."""
    latency_s: float
    """From the last byte's sending to its use."""
    layers: int
    layer_wise: bool = True
    """Whether layers are sent as they are computed; False: all at once when the prompt is done."""
    flag: str = ""
    """Why to trust its bandwidth less."""
    shared: Wire = ""
    """The wire of decode ranks that their steps use too, if they do (:mod:`perfmodel.serving.sharing`)."""
    beside: Beside = NOTHING
    """Bytes of a request beside those of its tokens: states, which are whole when the prompt is done, and windows. Sent
    last."""


@dataclass(slots=True)
class _Hand:
    """A request on its way from prefill to decode."""

    submitted: bool = False
    """Whether the prefill pool has it."""
    computed: bool = False
    asked: bool = False
    """Whether the decode pool has it."""
    reserved: bool = False
    """Whether a decode rank has blocks for it."""
    flow: Flow | None = None
    owed: float = 0.0
    """Bytes computed and not given to the flow: each chunk's last layer."""


class Handoff:
    """Between two pools; it is the prefill replicas' :class:`~perfmodel.serving.replica.Sender` and the decode
    replicas' :class:`~perfmodel.serving.replica.Receiver`.
    """

    def __init__(self, env: simpy.Environment, path: KvPath, book: Book) -> None:
        """``prefill`` and ``decode`` are set before the first request comes."""
        self.prefill: Pool
        self.decode: Pool
        self._path, self._book = path, book
        self.shares = bool(path.shared)
        self._links = Links(env, path.latency_s, self._taken if path.shared else None)
        self._ends: dict[Rank, Link] = {}
        self._receivers: dict[Link, tuple[Replica, Rank]] = {}
        """Of links whose rank's steps use them too."""
        self._hands: dict[int, _Hand] = {}

    def start(self, request: int) -> None:
        """A request comes, or comes again since it was lost."""
        if self._book.steps[request] == 0:  # its prompt's end is its last token
            self.prefill.submit(request)
            return
        self._hands[request] = hand = _Hand()
        if self._path.layer_wise:
            self._to_decode(request, hand)
        else:
            self._to_prefill(request, hand)

    # --- what replicas tell -------------------------------------------------------------------------------------

    def computed_elsewhere(self, request: int) -> bool:
        """See :class:`~perfmodel.serving.replica.Receiver`: what has been decoded before is computed again where it
        was.
        """
        return request in self._hands

    def reserved(self, request: int) -> None:
        """See :class:`~perfmodel.serving.replica.Receiver`."""
        hand = self._hands[request]
        hand.reserved = True
        if hand.computed:
            self._send_whole(request, hand)
        elif not hand.submitted:
            self._to_prefill(request, hand)

    def computing(self, request: int, tokens: int, seconds: float) -> None:
        """See :class:`~perfmodel.serving.replica.Sender`: all layers but the last are sent while they are computed."""
        hand = self._hands.get(request)
        if hand is None or not hand.reserved or not self._path.layer_wise:
            return
        if hand.flow is None:
            hand.flow = self._flow(request)
        made = tokens * self._path.bytes_per_token
        last = made / self._path.layers
        size, hand.owed = made - last + hand.owed, last
        self._links.more(hand.flow, size, size / seconds)

    def computed(self, request: int) -> None:
        """See :class:`~perfmodel.serving.replica.Sender`."""
        hand = self._hands[request]
        hand.computed = True
        if not hand.asked:
            self._to_decode(request, hand)
        elif not hand.reserved:
            return
        elif hand.flow is None:
            self._send_whole(request, hand)
        else:
            self._links.close(hand.flow, hand.owed + self._beside(request))

    # --- transfers ----------------------------------------------------------------------------------------------

    def _to_prefill(self, request: int, hand: _Hand) -> None:
        hand.submitted = True
        self.prefill.submit(request)

    def _to_decode(self, request: int, hand: _Hand) -> None:
        hand.asked = True
        self.decode.submit(request)

    def _send_whole(self, request: int, hand: _Hand) -> None:
        hand.flow = self._flow(request)
        size = self._book.prompt[request] * self._path.bytes_per_token
        self._links.close(hand.flow, size + self._beside(request))

    def _beside(self, request: int) -> float:
        return self._path.beside.of(float(self._book.prompt[request]))

    def _flow(self, request: int) -> Flow:
        source, (replica, target) = self.prefill.place[request][1], self.decode.place[request]
        link = self._end(target, self._path.receive_bytes_per_s)
        if self.shares and link not in self._receivers:
            self._receivers[link] = (replica, target)
            link.room = lambda: replica.room
        return Flow(self._end(source, self._path.send_bytes_per_s), link, lambda: self._arrived(request))

    def _taken(self, links: dict[Link, None]) -> None:
        """Decode replicas are told what caches take of their ranks' links, in the replicas' order."""
        shares: dict[Replica, dict[Rank, float]] = {}
        for link in links:
            if link in self._receivers:
                replica, rank = self._receivers[link]
                shares.setdefault(replica, {})[rank] = link.taken
        for replica in sorted(shares, key=lambda one: one.number):
            replica.caches_come(shares[replica])

    def leaves_room(self, ranks: Iterable[Rank]) -> None:
        """See :class:`~perfmodel.serving.replica.Receiver`."""
        for rank in ranks:
            self._links.moved(self._ends[rank])

    def _end(self, rank: Rank, bytes_per_s: float) -> Link:
        if rank not in self._ends:
            self._ends[rank] = Link(bytes_per_s)
        return self._ends[rank]

    def _arrived(self, request: int) -> None:
        del self._hands[request]
        self.prefill.sent(request)
        self.decode.deliver(request)

    # --- faults -------------------------------------------------------------------------------------------------

    def decode_lost(self, request: int) -> None:
        """A decode replica was lost with this request on it."""
        hand = self._hands.get(request)
        if hand is None:
            self.start(request)
            return
        self._stop(hand)
        hand.asked = hand.reserved = False
        if hand.computed or not hand.submitted:  # else once its prompt is computed
            self._to_decode(request, hand)

    def prefill_lost(self, request: int) -> None:
        """A prefill replica was lost with this request on it."""
        hand = self._hands.get(request)
        if hand is None:  # one of a single token
            self.start(request)
            return
        self._stop(hand)
        hand.computed = False
        self._to_prefill(request, hand)

    def turned_away(self, request: int) -> None:
        """A decode replica that is drained has not reserved blocks for this request."""
        if request in self._hands:
            self.decode.submit(request)
        else:
            self.start(request)

    def slow(self, rank: Rank, bytes_per_s: float) -> None:
        """A rank's link moves so many bytes/s from now on."""
        self._links.resize(self._end(rank, bytes_per_s), bytes_per_s)

    def _stop(self, hand: _Hand) -> None:
        if hand.flow is not None:
            self._links.cancel(hand.flow)
        hand.flow, hand.owed = None, 0.0
