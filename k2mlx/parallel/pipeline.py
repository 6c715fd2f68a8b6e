"""A model cut into stages, one a rank: receive, run, send.

    rank 0     embeds, runs its layers, sends [tokens, hidden] on; gets the chosen ids back
    others     receive, run theirs, send on
    the last   receives, runs its layers, norm and head, chooses, sends the ids to rank 0

Between stages goes one array a step, and nothing is gathered. Neighbours in a ring are enough, so
each rank sends to the right only and receives from the left.

Whatever is received is waited for by the host, never by the device: on CUDA (MLX 0.32.4) a device
that waits for the network lets nothing else through, and two ranks that wait for each other stop
for ever. What is sent waits for the device on a thread of MLX's.

Prompts: while a stage computes a chunk, the next one is already on its way: its receiving is
started first, on a stream of its own, where the caller knows that there will be one. Should it
not come after all (the request was cancelled), the next call of whatever kind takes a blank one
off the wire first: all ranks make the same calls, so all know.

Legend: B sequences, L tokens of each, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mlx.core as mx

from ..cache import BatchCache, LatentCache
from ..model import Model
from ..runner import Pending, Pick, Runner, shaped
from .agreement import Agreement

AHEAD = 2  # a stage's arrays that may wait for the next stage to take them, for each of the stages


class Pipeline(Runner):
    """This rank's stage of a model.

    model: this rank's layers. wire: to its neighbours.
    """

    shared = True

    def __init__(self, model: Model, vocabulary: int, agreement: Agreement, wire: Wire) -> None:
        super().__init__(model, vocabulary, agreement.clock)
        self.lanes = wire.size
        self._agreement, self._wire = agreement, wire
        self._first, self._last = wire.rank == 0, wire.rank == wire.size - 1
        self._coming: mx.array | None = None  # the next chunk, promised and being received
        self._promised: tuple[int, ...] | None = None  # its shape, on all ranks

    def fill(self, tokens: Sequence[int], cache: list[LatentCache], following: int = 0) -> Pending:
        """As Runner.fill: this stage's part of it."""
        x = self._enter(mx.array([tokens]), kept=True)
        if following:
            self._promised = (1, following, x.shape[2])
            if not self._first:
                self._coming = self._wire.receive(self._promised, x.dtype)
                mx.async_eval(self._coming)
        x = self.model.run(x, cache)
        pending = [layer.state for layer in cache]
        if not self._last:
            self._wire.send(x)
        mx.async_eval(pending)
        return pending

    def choose(self, ids: mx.array, cache: list[LatentCache] | BatchCache, pick: Pick) -> mx.array:
        """As Runner.choose. On rank 0 and the last the ids are those chosen; the ranks between
        never see them as arrays, and get zeros in their place."""
        x = self.model.run(self._enter(shaped(self.present(ids), cache)), cache)
        if self._last:
            ids = pick(self.model.head(x)[..., : self.vocabulary]).astype(mx.int32)
            self._wire.send(ids)
        else:
            self._wire.send(x)
            blank = mx.zeros(ids.shape, mx.int32)
            ids = self._wire.receive(ids.shape, mx.int32) if self._first else blank
        mx.async_eval(ids)
        return ids

    def present(self, ids: mx.array) -> mx.array:
        if self._first:
            mx.eval(ids)
        return ids

    def read(self, ids: mx.array) -> list[int]:
        return self._agreement.read(ids)

    def settle(self) -> None:
        """Take a promised chunk that did not come off the wire."""
        shape, self._promised = self._promised, None
        if shape is None:
            return
        if not self._last:
            self._wire.send(mx.zeros(shape, self.model.dtype))
        if self._coming is not None:
            mx.eval(self._coming)
            self._coming = None

    def _enter(self, tokens_BL: mx.array, kept: bool = False) -> mx.array:
        """What this stage starts from, [B, L, H]. kept: it may be the promised chunk."""
        shape = (*tokens_BL.shape, self.model.config.hidden_size)
        if kept and shape == self._promised:
            self._promised = None
        else:
            self.settle()
        if self._first:
            return self.model.embed(tokens_BL)
        coming, self._coming = self._coming, None
        x = self._wire.receive(shape, self.model.dtype) if coming is None else coming
        mx.eval(x)
        return x


class Wire:
    """To the right and from the left neighbour; sending and receiving wait on streams of their own,
    so that neither holds up the other. Made on the thread that uses it, which has the streams."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group = group
        self._right, self._left = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        self._out, self._in = mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)
        self._sent: deque[mx.array] = deque()

    def send(self, x: mx.array) -> None:
        """Starts to; waits only where the neighbour is far behind."""
        sent = mx.distributed.send(x, self._right, group=self._group, stream=self._out)
        mx.async_eval(sent)
        self._sent.append(sent)
        while len(self._sent) > AHEAD * self.size:
            mx.eval(self._sent.popleft())

    def receive(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """Lazy: waits when it is computed."""
        group, stream = self._group, self._in
        return mx.distributed.recv(shape, dtype, self._left, group=group, stream=stream)
