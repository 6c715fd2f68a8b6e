"""A process that talks over the side channel, for test_channel.py to kill, stop and cut off.

python -m tests.parallel.chatter RANK SIZE PORT SECRET SILENCE TIMEOUT JOB

Prints JSON lines: rank 0 the port that it listens on, everyone when the channel is open, and how it
ended. JOB is a function below.
"""

import json
import platform
import sys
import time

from k2mlx.errors import ClusterError
from k2mlx.parallel import channel as module
from k2mlx.parallel.channel import Closed, Listener, open_channel

BEATS = 6  # in SILENCE seconds, as it is in the product


def say(**facts):
    print(json.dumps(facts), flush=True)


def talk(channel):
    """For ever: rank 0 tells, all hear, and all vote at times."""
    step = 0
    while True:
        if channel.rank == 0:
            channel.tell(step.to_bytes(8, "little"))
            time.sleep(0.003)
        else:
            assert int.from_bytes(channel.hear(), "little") == step
        if step % 10 == 0:
            assert channel.vote(step + channel.rank) == step
        step += 1


def hear(channel):
    """Followers wait in `hear`, for nothing."""
    if channel.rank == 0:
        channel.failed.wait()
        raise channel.error
    channel.hear()


def vote(channel):
    """Everyone waits in `vote` for the last rank, which never comes."""
    if channel.rank == channel.size - 1:
        channel.hear()
    channel.vote(channel.rank)


def flood(channel):
    """Rank 0 tells faster than a rank that is stopped takes it; says how long a tell may last."""
    if channel.rank == 0:
        longest, payload = 0.0, bytes(1 << 20)
        for _ in range(400):
            began = time.monotonic()
            channel.tell(payload)
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.002)
            if channel.error is not None:
                break
        say(longest=longest)
        channel.failed.wait()
        raise channel.error
    heard = 0
    while True:
        try:
            heard += len(channel.hear())
        except ClusterError:
            say(heard=heard)
            raise


def goodbye(channel):
    """Rank 0 tells much and closes; the others hear all of it, and then the end."""
    if channel.rank == 0:
        for number in range(3000):
            channel.tell(number.to_bytes(4, "little") + bytes(3000))
        channel.close()
        return
    heard = []
    try:
        while True:
            heard.append(int.from_bytes(channel.hear()[:4], "little"))
    except Closed:
        say(closed=heard == list(range(3000)))
    channel.close()


def slow_goodbye(channel):
    """The others read slowly and beat often: much is on its way when rank 0 closes, and it has not
    read all that they sent."""
    goodbye(channel)


def slowed(receive):
    def slow(connection, *only):
        time.sleep(0.0002)
        return receive(connection, *only)

    return slow


def fail(channel):
    """The last rank cannot go on."""
    if channel.rank == channel.size - 1:
        time.sleep(0.3)
        channel.fail("ValueError: no such luck")
        raise channel.error
    talk(channel)


def wait(channel):
    """Until somebody ends it."""
    channel.failed.wait()
    raise channel.error


def main():
    rank, size, port = (int(word) for word in sys.argv[1:4])
    secret, silence, timeout = bytes.fromhex(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
    module.SILENCE, module.BEAT = silence, silence / BEATS
    if sys.argv[7] == "slow_goodbye" and rank:
        module.BEAT, module.receive = 0.002, slowed(module.receive)
    platform.node = lambda: f"host{rank}"
    listener = None
    if rank == 0:
        listener = Listener("127.0.0.1")
        say(port=listener.port)
    calls = []
    try:
        channel = open_channel(
            rank, size, address="127.0.0.1", port=port, secret=secret, timeout=timeout,
            listener=listener,
        )  # fmt: skip
        channel.on_failure = calls.append
        say(open=channel.names)
        globals()[sys.argv[7]](channel)
    except ClusterError as error:
        at = time.time()
        time.sleep(0.3)  # a second call would come now
        say(error=str(error), at=at, calls=[str(call) for call in calls])
        sys.exit(3)
    say(ended=True)


if __name__ == "__main__":
    main()
