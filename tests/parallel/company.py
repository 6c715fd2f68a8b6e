"""Several ranks in one process: engines whose channel and wire are queues, to prove what does not
depend on processes: that all ranks stay in step, whatever is asked of them."""

import queue
import socket
import threading
from contextlib import contextmanager

import mlx.core as mx

from k2mlx.errors import ClusterError
from k2mlx.generate.engine import Engine
from k2mlx.load import Loaded
from k2mlx.model import Model
from k2mlx.parallel.agreement import Agreement
from k2mlx.parallel.link import Link
from k2mlx.parallel.pipeline import Pipeline

PATIENCE = 30.0  # seconds: a rank that waits longer is out of step


class Company:
    """What the ranks share."""

    def __init__(self, size):
        self.size = size
        self.told = [queue.SimpleQueue() for _ in range(size)]
        self.wires = [queue.SimpleQueue() for _ in range(size)]
        pairs = [socket.socketpair() for _ in range(size)]  # of each rank and its right neighbour
        self.links = [Link(pairs[rank - 1][1], pairs[rank][0]) for rank in range(size)]
        self.votes = [0] * size
        self.barrier = threading.Barrier(size)


class Member:
    """One rank, as parallel.group.Group."""

    tensor = False

    def __init__(self, company, rank):
        self.rank, self.size, self.leads = rank, company.size, rank == 0
        self.failures = []
        self._company = company

    def tell(self, payload):
        for told in self._company.told[1:]:
            told.put(payload)

    def hear(self, timeout=None):
        try:
            payload = self._company.told[self.rank].get(
                timeout=PATIENCE if timeout is None else timeout
            )
        except queue.Empty:
            if timeout is None:
                raise AssertionError(f"rank {self.rank} waits for nothing") from None
            raise TimeoutError from None
        return payload

    def vote(self, value):
        return min(self._gathered(value))

    def total(self, value):
        return sum(self._gathered(value))

    def _gathered(self, value):
        company = self._company
        company.votes[self.rank] = value
        company.barrier.wait(PATIENCE)
        values = list(company.votes)
        company.barrier.wait(PATIENCE)
        return values

    def on_failure(self, call):
        pass

    def failed(self, error):
        self.failures.append(error)
        return ClusterError(f"rank {self.rank} failed: {error!r}")

    def runner(self, model, vocabulary):
        wire, link = QueueWire(self._company, self.rank), self._company.links[self.rank]
        return Pipeline(model, vocabulary, Agreement(self), wire, link)


class QueueWire:
    """As parallel.pipeline.Wire, in one process."""

    def __init__(self, company, rank):
        self.rank, self.size = rank, company.size
        self._in = company.wires[rank]
        self._out = company.wires[(rank + 1) % company.size]

    def send(self, x):
        mx.eval(x)
        self._out.put(x)

    def begin(self, shape, dtype):
        x = self._in.get(timeout=PATIENCE)
        assert x.shape == tuple(shape), (self.rank, x.shape, shape)
        assert x.dtype == dtype
        return x

    def wait(self):
        pass


def part(whole, layers):
    """The model of a rank that holds these layers, with the whole one's arrays."""
    model = Model(whole.config, held=layers)
    model.load_weights(list(whole.named_parameters().items()), strict=False)
    return model


def cut(layers, counts):
    """Ranges of so many layers each."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    assert ends[-1] == layers
    return [range(end - count, end) for end, count in zip(ends, counts, strict=True)]


@contextmanager
def company(load, counts, **options):
    """The leader's engine of as many ranks as there are counts, of layers each. Checks at the end
    that all ranks ended, and well."""
    shared = Company(len(counts))
    members = [Member(shared, rank) for rank in range(len(counts))]

    def loader(layers):
        def load_part():
            whole = load()
            model = part(whole.model, layers)
            return Loaded(model, whole.tokenizer, whole.config, whole.path, whole.bytes)

        return load_part

    splits = cut(load().config.num_hidden_layers, counts)
    engines = [
        Engine(loader(layers), group=member, **options)
        for layers, member in zip(splits, members, strict=True)
    ]
    try:
        yield engines[0]
    finally:
        for engine in engines:  # rank 0 first: it tells the others
            if engine is engines[0]:
                engine.close(PATIENCE)
            assert engine._worker.ended.wait(PATIENCE)
        for link in shared.links:
            link.close()
    for member, engine in zip(members, engines, strict=True):
        assert not member.failures, member.failures
        if not member.leads:
            engine.follow()
