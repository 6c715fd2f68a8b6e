"""A model cut into stages, one a rank: receive, run, send.

    rank 0     embeds, runs its layers, sends [tokens, hidden] on; gets the chosen ids back
    others     receive, run theirs, send on
    the last   receives, runs its layers, norm and head, chooses, sends the ids to rank 0

Between stages goes one array a step, and nothing is gathered. Neighbours in a ring are enough, so
each rank sends to the right only and receives from the left.

Whatever is received is waited for by the host, never by the device: on CUDA (MLX 0.32.4) a device
that waits for the network lets nothing else through, and two ranks that wait for each other stop
for ever.

Prompts go over mx.distributed. While a stage computes a chunk, the next one is already on its way:
its receiving is started first, on a stream of its own, where the caller knows that there will be
one. Should it not come after all (the request was cancelled), the next call of whatever kind takes
a blank one off the wire first: all ranks make the same calls, so all know.

Decoded tokens go over link.py. What a step makes is sent when the host next has to wait, so that it
prepares the step of another lane while the device computes.

Legend: B sequences, L tokens of each, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..cache import BatchCache, LatentCache
from ..model import Model
from ..runner import Pending, Pick, Runner, shaped
from .agreement import Agreement
from .link import Expected, Link

FEW = 16  # tokens of a step that no layer computes in parts
RECENT = 64  # steps whose ids may still have to be read
AHEAD = 2  # a stage's arrays that may wait for the next stage to take them, for each of the stages


class Pipeline(Runner):
    """This rank's stage of a model.

    model: this rank's layers. wire, link: to its neighbours, for chunks of prompts and for what is
    decoded.
    """

    shared = True

    def __init__(
        self, model: Model, vocabulary: int, agreement: Agreement, wire: Wire, link: Link
    ) -> None:
        super().__init__(model, vocabulary, agreement.clock)
        self.lanes = wire.size
        self._agreement, self._wire, self._link = agreement, wire, link
        self._first, self._last = wire.rank == 0, wire.rank == wire.size - 1
        self._hidden = model.config.hidden_size
        self._chosen: deque[Expected] = deque(maxlen=RECENT)  # ids, on rank 0
        self._newest: mx.array | None = None  # what the last `choose` returned
        self._coming: mx.array | None = None  # the next chunk, promised and being received
        self._promised: tuple[int, ...] | None = None  # its shape, on all ranks

    def fill(self, tokens: Sequence[int], cache: list[LatentCache], following: int = 0) -> Pending:
        """As Runner.fill: this stage's part of it."""
        self._link.flush()
        x = self._enter(tokens)
        if following:
            self._promised = (1, following, self._hidden)
            if not self._first:
                self._coming = self._wire.begin(self._promised, self.model.dtype)
        x = self.model.run(x, cache)
        pending = [layer.state for layer in cache]
        if not self._last:
            self._wire.send(x)
        mx.async_eval(pending)
        return pending

    def choose(self, ids: mx.array, cache: list[LatentCache] | BatchCache, pick: Pick) -> mx.array:
        """As Runner.choose. On rank 0 and the last the ids are those chosen; the ranks between
        never see them as arrays, and get zeros in their place.

        A step of single tokens is described while what it starts from is on its way; describing
        one of many may compute, to bound memory."""
        self._unpromise()
        tokens_BL = shaped(ids, cache)
        if self._first:
            coming, x = ids, self.model.embed(tokens_BL)
        else:
            shape = (*tokens_BL.shape, self._hidden)
            coming = x = self._link.expect(shape, self.model.dtype).x
        if tokens_BL.shape[1] > 1 or ids.size > FEW:
            self._link.arrive(coming)
        x = self.model.run(x, cache)
        if self._last:
            x = pick(self.model.head(x)[..., : self.vocabulary]).astype(mx.int32)
        self._link.arrive(coming)
        self._link.post(x)
        if self._last:
            self._newest = x
        elif self._first:
            self._chosen.append(self._link.expect(ids.shape, mx.int32))
            self._newest = self._chosen[-1].x
        else:
            self._newest = mx.zeros(ids.shape, mx.int32)
        return self._newest

    def present(self, ids: mx.array) -> mx.array:
        self._arrive(ids)
        return ids

    def read(self, ids: mx.array) -> list[int]:
        self._arrive(ids)
        for chosen in self._chosen:
            if chosen.x is ids:
                return self._agreement.read(np.frombuffer(chosen.content, np.int32).tolist())
        return self._agreement.read(ids)

    def settle(self) -> None:
        self._unpromise()
        self._link.drain()

    def _enter(self, tokens: Sequence[int]) -> mx.array:
        """What this stage starts from for a chunk, [1, L, H]."""
        shape = (1, len(tokens), self._hidden)
        if shape == self._promised:
            self._promised = None
        else:
            self._unpromise()
        if self._first:
            return self.model.embed(mx.array([tokens]))
        x, self._coming = self._coming, None
        if x is None:
            x = self._wire.begin(shape, self.model.dtype)
        self._wire.wait()
        return x

    def _arrive(self, ids: mx.array) -> None:
        """Wait for ids of `choose` where they come to. Those of the newest step may still depend on
        what this rank has not sent."""
        if ids is self._newest:
            self._link.flush()
        self._link.arrive(ids)

    def _unpromise(self) -> None:
        """A promised chunk does not come: take a blank one off the wire."""
        shape, self._promised = self._promised, None
        if shape is not None:
            if not self._last:
                self._wire.send(mx.zeros(shape, self.model.dtype))
            if self._coming is not None:
                self._wire.wait()
                self._coming = None


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

    def begin(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        """What the left neighbour sends next, received in the background."""
        group, stream = self._group, self._in
        x = mx.distributed.recv(shape, dtype, self._left, group=group, stream=stream)
        mx.async_eval(x)
        return x

    def wait(self) -> None:
        """Until what was begun is there. Waits for the stream: for an array of a CPU stream, MLX's
        CUDA backend looks again after ever longer pauses."""
        mx.synchronize(self._in)
