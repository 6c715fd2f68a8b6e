"""A slow hub: what one host sends reaches the others a while later.

python -m tests.cluster.relay SECONDS PID...     an eth0 in the network of each of these processes

For kernels without netem. Runs until it is ended, or its input is.
"""

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, TAP, NO_HEADER = 0x400454CA, 0x0002, 0x1000
NETWORK = 0x40000000  # CLONE_NEWNET


def tap(pid):
    """A network device `eth0` where the process is; frames are read from and written to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as there:
        if libc.setns(there.fileno(), NETWORK):
            raise OSError(ctypes.get_errno(), "setns")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", TAP | NO_HEADER))
    return device


def main(delay, pids):
    devices, waiting = [tap(pid) for pid in pids], deque()
    print("ready", flush=True)
    while True:
        pause = max(waiting[0][0] - time.monotonic(), 0) if waiting else None
        ready, _, _ = select.select([0, *devices], [], [], pause)
        if 0 in ready:
            return
        for device in ready:
            frame = os.read(device, 65536)
            waiting.append((time.monotonic() + delay, device, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, sender, frame = waiting.popleft()
            for device in devices:
                if device != sender:
                    try:
                        os.write(device, frame)
                    except OSError:  # its cable is pulled
                        continue


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
