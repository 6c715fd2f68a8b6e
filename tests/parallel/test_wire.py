"""Frames: what is sent is what is received, and anything else is refused, soon and for little."""

import ast
import socket
import struct
import threading
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import k2mlx.parallel
from k2mlx.parallel.wire import LIMITS, Frame, Kind, WireError, encode, pack, receive, unpack

HEAD = 10  # bytes before a frame's content
PATIENCE = 5.0  # seconds; whoever waits longer would wait for ever
kinds = st.sampled_from(Kind)


@st.composite
def frames(draw):
    kind = draw(kinds)
    return Frame(kind, draw(st.binary(max_size=min(LIMITS[kind], 300))))


@contextmanager
def arriving(data):
    """A socket at which these bytes arrive, and then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)

        def send():
            try:
                theirs.sendall(data)
                theirs.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other end has heard enough

        sender = threading.Thread(target=send)
        sender.start()
        yield ours
        ours.close()
        theirs.close()
        sender.join(PATIENCE)
        assert not sender.is_alive()


def everything(connection):
    """All frames, and what ended them."""
    found = []
    try:
        while True:
            found.append(receive(connection))
    except (EOFError, WireError) as error:
        return found, error


@given(st.lists(frames(), max_size=5))
def test_what_is_sent_is_received(sent):
    with arriving(b"".join(encode(*frame) for frame in sent)) as connection:
        found, error = everything(connection)
    assert found == sent
    assert isinstance(error, EOFError)


@pytest.mark.parametrize("kind", Kind)
def test_a_frame_of_every_kind_may_be_as_long_as_its_bound_and_no_longer(kind):
    content = b"\x5a" * LIMITS[kind]
    with arriving(encode(kind, content)) as connection:
        assert receive(connection) == (kind, content)
    with pytest.raises(WireError, match=kind.name):
        encode(kind, content + b"\0")
    head = b"K2MX" + struct.pack("<BBI", 1, kind, LIMITS[kind] + 1)
    with arriving(head) as connection, pytest.raises(WireError, match=f"kind {kind.value} "):
        receive(connection)


@given(st.lists(frames(), min_size=1, max_size=3), st.data())
def test_a_frame_that_is_cut_off_is_none(sent, data):
    whole = b"".join(encode(*frame) for frame in sent)
    kept = data.draw(st.integers(0, len(whole) - 1))
    with arriving(whole[:kept]) as connection:
        found, error = everything(connection)
    assert isinstance(error, EOFError)
    assert found == sent[: len(found)]
    assert len(found) < len(sent)


@given(frames(), frames(), st.integers(0, HEAD - 1), st.integers(1, 255))
def test_a_head_that_is_changed_is_refused_or_another_frame_and_never_waits(sent, after, at, flip):
    """Magic and version are refused. A kind or a length can be changed to another that is allowed:
    then what follows it is at a wrong place, or the end is met."""
    data = bytearray(encode(*sent) + encode(*after))
    data[at] ^= flip
    with arriving(bytes(data)) as connection:
        found, error = everything(connection)
    if at < 5:
        assert found == [] and isinstance(error, WireError)
    for frame in found:
        assert len(frame.content) <= LIMITS[frame.kind]
    assert found != [sent, after]


@given(st.binary(max_size=400))
def test_noise_is_refused(noise):
    with arriving(noise) as connection:
        found, error = everything(connection)
    if not noise.startswith(b"K2MX\1"):
        assert found == []
    if len(noise) >= HEAD and not noise.startswith(b"K2MX\1"):
        assert isinstance(error, WireError)


@pytest.mark.parametrize("sent", [0, 1000, 3 << 20])
def test_a_length_that_is_only_claimed_costs_nothing(sent):
    """Memory grows with what has come, not with what is announced."""
    head = b"K2MX" + struct.pack("<BBI", 1, Kind.TELL, LIMITS[Kind.TELL])
    with arriving(head + bytes(sent)) as connection:
        tracemalloc.start()
        try:
            with pytest.raises(EOFError):
                receive(connection)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2 * sent + (2 << 20)  # a piece, and the buffer that doubles


@given(frames(), kinds)
def test_only_the_kind_that_is_due_is_taken(sent, due):
    """Of another not even the content is waited for: a stranger's first word could be 64 MB."""
    data = encode(*sent)
    with arriving(data if sent.kind is due else data[:HEAD]) as connection:
        if sent.kind is due:
            assert receive(connection, due) == sent
        else:
            with pytest.raises(WireError, match=f"{due.name} was due"):
                receive(connection, due)


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_a_list_is_unpacked_as_it_was_packed(parts):
    assert unpack(pack(parts)) == parts


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5), st.data())
def test_a_list_that_is_cut_off_is_refused_or_ends_between_parts(parts, data):
    whole = pack(parts)
    kept = data.draw(st.integers(0, len(whole) - 1))
    ends = [len(pack(parts[:count])) for count in range(len(parts))]
    if kept in ends:
        assert unpack(whole[:kept]) == parts[: ends.index(kept)]
    else:
        with pytest.raises(WireError):
            unpack(whole[:kept])


@given(st.binary(max_size=200))
def test_a_list_made_of_noise_is_refused_or_is_that_noise(noise):
    try:
        parts = unpack(noise)
    except WireError:
        return
    assert pack(parts) == noise


# --- What must not be there ----------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def evaluators(source):
    """What in a module could run what came over a connection."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & FORBIDDEN_MODULES
        elif isinstance(node, ast.Call):
            # mx.eval computes arrays; only the builtins are meant.
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            found |= {name} & FORBIDDEN_CALLS
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.add("allow_pickle")
    return found


SOURCES = sorted(Path(k2mlx.parallel.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_between_ranks_is_unpickled_or_evaluated(path):
    assert not evaluators(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from marshal import loads", "x = eval(content)", "f(allow_pickle=True)"],
)
def test_the_check_notices(source):
    assert evaluators(source)
    assert len(SOURCES) > 5
