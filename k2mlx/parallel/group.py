"""The processes that run one model together, as this one of them sees it.

`join` finds the group that mlx.launch made: nothing is configured. The ranks open the side channel
(channel.py), on which they notice within seconds when one of them is gone, compare what they are
(facts.py) and agree who holds what (split.py). Then each loads its own part.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from ..config import ModelConfig
from ..errors import ClusterError, K2Error
from ..model import Model
from ..runner import Runner
from .agreement import Agreement, Together
from .channel import SECRET, SILENCE, Channel, Listener, open_channel
from .facts import check_facts, facts
from .link import Link, LinkError, open_link
from .pipeline import Pipeline, Wire
from .split import Member, split_layers, this_member
from .tensor import check_shares
from .watchdog import watched

FORMING = 60.0  # seconds for MLX to connect the ranks
CONNECTING = 30.0  # seconds for all ranks to open the channel
SAYING = 1.0  # seconds for rank 0 to say why nothing starts: mlx.launch ends all when one ends


class Group:
    """This rank among the others. layers: of the model, that it holds; all of them, a share of each
    matrix, where `tensor`."""

    def __init__(
        self, ring: mx.distributed.Group, channel: Channel, layers: range, tensor: bool = False
    ) -> None:
        self.rank, self.size, self.leads = ring.rank(), ring.size(), ring.rank() == 0
        self.layers, self.tensor = layers, tensor
        self.ring, self._channel = ring, channel
        self._link: Link | None = None
        self.tell, self.hear = channel.tell, channel.hear
        self.vote, self.total = channel.vote, channel.total
        self.report, self.ask_to_stop = channel.report, channel.ask_to_stop

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Goodbye; where an error leads here, the others are told of it."""
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self.failed(error)
        self._channel.close()
        if self._link is not None:
            self._link.close()

    def runner(self, model: Model, vocabulary: int) -> Runner:
        """What computes this rank's part; called on the thread that uses it, on all ranks."""
        agreement = Agreement(self._channel)
        if self.tensor:
            return Together(model, vocabulary, agreement)
        if self._link is None:
            self._link = open_link(_address(self.rank, self._channel), self._channel, CONNECTING)
        return Pipeline(model, vocabulary, agreement, Wire(self.ring), self._link)

    def on_failure(self, call: Callable[[ClusterError], None]) -> None:
        """`call` gets the error, once, on a thread of the channel's, when a rank is lost or has
        failed."""
        self._channel.on_failure = call

    def on_stop(self, call: Callable[[], None]) -> None:
        """On rank 0: `call` when another rank asks for the end, on a thread of the channel's."""
        self._channel.on_stop = call

    def failed(self, error: BaseException) -> BaseException:
        """An error on this rank: the others are told, unless it is one of theirs that ours came
        from. Returns what the readers are to get."""
        if self._channel.error is not None:
            return self._channel.error
        if isinstance(error, LinkError) or "[ring]" in str(error) or "[jaccl]" in str(error):
            # A neighbour is gone: the channel is about to know which rank that is, and why.
            self._channel.failed.wait(SILENCE + 1)
        if self._channel.error is None:
            kind = "" if isinstance(error, K2Error) else f"{type(error).__name__}: "
            self._channel.fail(f"{kind}{error}")
        return self._channel.error or error


def launched() -> bool:
    """Whether mlx.launch started this process as one of several. For a single host it writes an
    empty host file, which MLX takes for a broken one."""
    hostfile = os.environ.get("MLX_HOSTFILE")
    if hostfile is not None and not Path(hostfile).read_text().strip():
        return False
    return "MLX_RANK" in os.environ


def join(
    path: Path,
    *,
    capacity: int,
    context: int,
    by_hand: list[int] | None = None,
    tensor: bool = False,
    on_report: Callable[[int, int, int], None] | None = None,
) -> Group | None:
    """The group that this process belongs to; None if it is alone.

    path: the model. capacity: bytes that this machine has for it. context: tokens that each rank
    should have room for. by_hand: layers of each rank, else by memory and bandwidth. tensor: a
    share of every matrix on each rank instead. on_report: called on rank 0 with (rank, bytes
    loaded, bytes to load).

    Raises: ClusterError for a rank that does not come or does not match, PlanError where the model
    does not fit.
    """
    found = connect(on_report)
    if found is None:
        return None
    ring, channel = found
    try:
        config = ModelConfig.load(path)
        context = min(context, config.max_position_embeddings)
        mine = json.dumps(facts(path, this_member(capacity))).encode()
        everyone = [json.loads(content) for content in channel.gather(mine)]
    except BaseException as error:  # of this rank alone, unless all know it already
        channel.fail(f"{type(error).__name__}: {error}")
        raise
    try:
        check_facts(everyone)
        if tensor:
            check_shares(config, ring.size())
            layers = range(config.num_hidden_layers)
        else:
            members = [Member(**one["member"]) for one in everyone]
            layers = split_layers(config, members, context, by_hand)[ring.rank()]
    except K2Error as error:  # found on all ranks alike: rank 0 says it
        channel.close()
        if ring.rank():
            time.sleep(SAYING)
            raise SystemExit(2) from error
        raise
    return Group(ring, channel, layers, tensor)


def connect(
    on_report: Callable[[int, int, int], None] | None = None,
) -> tuple[mx.distributed.Group, Channel] | None:
    """The ring of this process and the side channel, open; None if it is alone."""
    if not launched():
        return None
    with watched(FORMING, f"k2mlx: {_nobody(f'nothing for {FORMING:.0f} s')}"):
        try:
            ring = mx.distributed.init(strict=True, backend=_backend())
            if ring.size() == 1:
                return None
            listener, port, secret = _meet(ring)
        except RuntimeError as error:
            raise ClusterError(_nobody(str(error))) from error
    channel = open_channel(
        ring.rank(),
        ring.size(),
        address=_address(0),
        port=port,
        secret=secret,
        timeout=CONNECTING,
        listener=listener,
    )
    channel.on_report = on_report
    return ring, channel


def _backend() -> str:
    """As mlx.launch's environment tells. Its `any` would take NCCL where that is installed, which
    cannot send."""
    if "MLX_JACCL_COORDINATOR" in os.environ or "MLX_IBV_DEVICES" in os.environ:
        return "jaccl"
    return "ring" if "MLX_HOSTFILE" in os.environ else "any"


def _address(rank: int, channel: Channel | None = None) -> str:
    """Where a rank listens: its address in the host file, which the others reach; where there is
    only rank 0's, that from which it has reached rank 0 over the channel."""
    if hostfile := os.environ.get("MLX_HOSTFILE"):
        return json.loads(Path(hostfile).read_text())[rank][0].rpartition(":")[0]
    if channel is not None and rank:
        return channel.address
    coordinator = os.environ.get("MLX_JACCL_COORDINATOR", "127.0.0.1:0")
    return coordinator.rpartition(":")[0]


def _nobody(what: str) -> str:
    """The line for a ring that does not form; got `what`."""
    rank, hostfile = int(os.environ["MLX_RANK"]), os.environ.get("MLX_HOSTFILE")
    hosts = json.loads(Path(hostfile).read_text()) if hostfile else []
    near = dict.fromkeys((rank + step) % len(hosts) for step in (-1, 1)) if hosts else {}
    wanted = " and ".join(f"rank {other} at {', '.join(hosts[other])}" for other in near)
    return (
        f"rank {rank} does not find the others: got {what}, wanted {wanted or 'all ranks'} to"
        " answer; has each been started, or is a firewall in between? 'k2mlx cluster check' tells"
    )


def _meet(ring: mx.distributed.Group) -> tuple[Listener | None, int, bytes]:
    """Rank 0's listener, its port and the secret that opens it, which are told over the ring."""
    listener = Listener(_address(0)) if ring.rank() == 0 else None
    words = [0] * (SECRET + 1)
    if listener is not None:
        words = [listener.port, *secrets.token_bytes(SECRET)]
    summed = mx.distributed.all_sum(mx.array(words, mx.int32), group=ring, stream=mx.cpu)
    told: list[int] = summed.tolist()  # ty: ignore[invalid-assignment]
    return listener, told[0], bytes(told[1:])
