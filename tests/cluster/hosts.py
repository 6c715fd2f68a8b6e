"""Hosts to try k2mlx on: namespaces of this machine that share nothing but the file system.

    with hosts(2) as (a, b):
        print(a.run("ssh", b.name, "hostname").stdout)

Each has its own network, processes, host name, accounts, sshd and K2MLX_HOME; two are joined by a
veth pair, more by a bridge, in a network of its own. Nothing is named outside of them, so runs at
the same time do not meet, and all ends with the process that made them: each host's first process
reads a pipe of ours, and takes all others with it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")
SSHD, SSH = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"), shutil.which("ssh")
PREFIX = "k2mlx-hosts-"
NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--ipc")
BOOT = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/sshd
for name in passwd shadow hosts; do mount --bind "$1/$name" "/etc/$name"; done
hostname "$2"
ip link set lo up
echo ready
read -r _ || true
"""
SSHD_CONFIG = """
ListenAddress {address}:22
HostKey {folder}/host_key
AuthorizedKeysFile {shared}/key.pub
PidFile none
UsePAM no
StrictModes no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintLastLog no
MaxStartups 100
SetEnv {environment}
"""
SSH_CONFIG = """
IdentityFile {shared}/key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {shared}/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
"""


def missing() -> str:
    """Why hosts cannot be made here; '' if they can."""
    if sys.platform != "linux":
        return "needs Linux's network namespaces"
    tools = ("ip", "tc", "unshare", "nsenter", "ssh-keygen", "ps", "bash")
    absent = [tool for tool in tools if not shutil.which(tool)]
    absent += [name for name, path in (("sshd", SSHD), ("ssh", SSH)) if not path]
    if absent:
        return f"needs {', '.join(absent)}; .ci/run installs them"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--mount-proc", "mount", "-t", "tmpfs", "t", "/run"],
        capture_output=True, text=True,
    )  # fmt: skip
    return f"namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Host:
    """address: in the network of all of them. pid: its first process, as seen from outside."""

    def __init__(self, shared: Path, name: str, address: str, everyone: dict[str, str]) -> None:
        self.name, self.address, self.shared = name, address, shared
        self.folder, self.home = shared / name, shared / name / "k2mlx"
        self.home.mkdir(parents=True)
        own = {"K2MLX_HOME": self.home, "PYTHONPATH": ROOT, "MLX_DISABLE_COMPILE": "1"}
        self.environment = {key: str(value) for key, value in own.items()}
        _accounts(self.folder)
        names = [f"{address} {name}" for name, address in everyone.items()]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        self._init = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--mount-proc", "bash", "-c", BOOT, "boot",
             self.folder, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._init.stdout is not None
        assert self._init.stdout.readline() == b"ready\n", f"{name} does not start"
        self.pid = _children(self._init.pid)[0]

    def enter(self, *argv: object) -> list[str]:
        """What runs `argv` in it, from outside. setns forgets the working directory."""
        into = ["nsenter", "-t", self.pid, "--net", "--uts", "--mount", "--pid", "--ipc"]
        return [str(word) for word in (*into, "env", "-C", ROOT, *argv)]

    def start(self, *argv: object, **options: object) -> subprocess.Popen:
        path = f"{self.shared / 'bin'}:{os.environ['PATH']}"
        environment = os.environ | self.environment | {"PATH": path, "HOME": str(self.folder)}
        return subprocess.Popen(self.enter(*argv), env=environment, **options)

    def run(self, *argv: object, timeout: float = 60) -> subprocess.CompletedProcess:
        """A command to its end. Raises: AssertionError where that is not a good one."""
        pipe = subprocess.PIPE
        with self.start(*argv, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                _end(process)
                raise
        done = subprocess.CompletedProcess(argv, process.returncode, out, err)
        assert done.returncode == 0, f"{self.name}: {done}"
        return done

    def boot(self) -> None:
        """Start sshd, as `kill` has ended it too."""
        self.run(SSHD, "-f", self.folder / "sshd_config", "-E", self.folder / "sshd.log")

    def kill(self, *pids: int, number: int = signal.SIGKILL) -> None:
        """Processes by their numbers here; all, sshd too, where none are given."""
        self.run("kill", f"-{number}", "--", *(pids or [-1]))

    def processes(self) -> dict[int, str]:
        """What runs here but the first process and the sshd that waits for connections."""
        listed = self.run("ps", "-ww", "-eo", "pid=,stat=,args=").stdout.splitlines()
        found = {}
        for pid, state, args in (line.split(None, 2) for line in listed):
            own = pid == "1" or "[listener]" in args or args.startswith("ps -ww")
            if not own and not state.startswith("Z"):
                found[int(pid)] = args
        return found

    def cut(self) -> None:
        """Pull its cable."""
        self.run("ip", "link", "set", "eth0", "down")

    def mend(self) -> None:
        self.run("ip", "link", "set", "eth0", "up")

    def slow(self, rate: str) -> None:
        """What it sends goes at this rate, such as 50mbit."""
        limit = ("rate", rate, "burst", "32kbit", "latency", "400ms")
        self.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *limit)

    def close(self) -> None:
        assert self._init.stdin is not None and self._init.stdout is not None
        self._init.stdin.close()
        try:
            self._init.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._init.wait()
        self._init.stdout.close()


@contextmanager
def hosts(count: int, delay: float = 0.0) -> Iterator[list[Host]]:
    """delay: seconds that a frame takes from one to another."""
    _sweep()
    names = {f"studio-{'abc'[i]}": f"10.77.0.{i + 1}" for i in range(count)}
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")
        shared = Path(stack.enter_context(folder))
        _ssh(shared)
        made = []
        for name, address in names.items():
            made.append(Host(shared, name, address, names))
            stack.callback(made[-1].close)
            _sshd(made[-1])
        if delay:
            stack.enter_context(_relay(made, delay))
        elif count == 2:
            _cable(made[0].pid, "eth0", made[1].pid, "eth0")
        else:
            bridge = Host(shared, "bridge", "", {})
            stack.callback(bridge.close)
            bridge.run("ip", "link", "add", "br0", "type", "bridge")
            bridge.run("ip", "link", "set", "br0", "up")
            for i, host in enumerate(made):
                _cable(host.pid, "eth0", bridge.pid, f"port{i}")
                bridge.run("ip", "link", "set", f"port{i}", "master", "br0", "up")
        for host in made:
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.mend()
            host.boot()
        yield made


def launch(made: list[Host], *command: object, **options: object) -> subprocess.Popen:
    """mlx.launch on the first host, a rank on each."""
    addresses = ",".join(host.address for host in made)
    words = (LAUNCH, "--hosts", addresses, "--backend", "ring", "--", *command)
    # A pipe that stays open: mlx.launch would look at an input that has ended again and again.
    return made[0].start(*words, stdin=subprocess.PIPE, **options)


def _cable(one: int, name: str, other: int, its: str) -> None:
    ends = ("name", name, "netns", one, "type", "veth", "peer", "name", its, "netns", other)
    subprocess.run(["ip", "link", "add", *map(str, ends)], check=True)


@contextmanager
def _relay(made: list[Host], delay: float) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.cluster.relay", delay, *(host.pid for host in made)]
    pipe = subprocess.PIPE
    with subprocess.Popen(map(str, command), stdin=pipe, stdout=pipe, cwd=ROOT) as relay:
        try:
            assert relay.stdout is not None and relay.stdout.readline() == b"ready\n"
            yield
        finally:
            relay.terminate()


def _ssh(shared: Path) -> None:
    """An `ssh` for all hosts that knows nothing of the user's own."""
    _key(shared / "key")
    (shared / "ssh_config").write_text(SSH_CONFIG.format(shared=shared))
    wrapper = shared / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {SSH} -F {shared}/ssh_config "$@"\n')
    wrapper.chmod(0o755)


def _sshd(host: Host) -> None:
    _key(host.folder / "host_key")
    public = (host.folder / "host_key.pub").read_text()
    with (host.shared / "known_hosts").open("a") as known:
        known.write(f"{host.name},{host.address} {public}")
    environment = " ".join(f"{key}={value}" for key, value in host.environment.items())
    config = SSHD_CONFIG.format(
        address=host.address, folder=host.folder, shared=host.shared, environment=environment
    )
    (host.folder / "sshd_config").write_text(config)


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _accounts(folder: Path) -> None:
    """The current user, with a home of its own, and sshd's, whom it becomes for a while."""
    me = pwd.getpwuid(os.getuid())
    users = [
        f"{me.pw_name}:x:{me.pw_uid}:{me.pw_gid}::{folder}:/bin/bash",
        "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin",
    ]
    (folder / "passwd").write_text("\n".join([*users, ""]))
    (folder / "shadow").write_text("".join(f"{u.split(':')[0]}:*:20000::::::\n" for u in users))


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _end(process: subprocess.Popen) -> None:
    """nsenter, and what it waits for."""
    for pid in (*_children(process.pid), process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _sweep() -> None:
    """Folders that test runs have left which were killed; their processes ended with them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def wait_until(true, within: float, what: str = "") -> None:
    """Raises AssertionError where it does not become true, with str(what)."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.05)
