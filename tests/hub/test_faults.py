"""Pulls from a hub that stalls, cuts, corrupts and refuses, and onto a disk that is full."""

import errno
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2mlx.errors import CheckpointError, HubError, MissingExtraError
from k2mlx.home import find_model
from k2mlx.hub import transfer
from k2mlx.hub.remote import library
from k2mlx.weights.hashes import hash_file
from tests.hub.conftest import NEEDED, QUICK, model_files, shard_name
from tests.hub.loopback import Fault

SHARD_NAME = shard_name(1)
DATA = model_files()[SHARD_NAME]
SIZE = len(DATA)


def check(pulled):
    files = model_files()
    for name in NEEDED:
        assert (pulled.path / name).read_bytes() == files[name], name


def ranges(hub, name=SHARD_NAME):
    return [served.range for served in hub.gets(name)]


def left(tmp_path):
    """Names below the models folder that are not hidden, and the hidden ones."""
    names = {p.name for p in (tmp_path / "home").rglob("*") if p.is_file()}
    return {n for n in names if n[0] != "."}, {n for n in names if n[0] == "."}


# --- Connections that break ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
def test_a_broken_connection_is_continued_where_it_broke(hub, fetch, kind):
    hub.fail(SHARD_NAME, Fault(kind, 50_000), Fault(kind, 30_000))
    check(fetch(jobs=1))
    first, second, third = ranges(hub)
    assert first is None
    if kind == "reset":  # what was under way is lost, what had arrived is not
        assert second != "bytes=0-"
        assert SIZE <= hub.sent(SHARD_NAME) <= SIZE + 80_000
    else:
        assert (second, third) == ("bytes=50000-", "bytes=80000-")
        assert hub.sent(SHARD_NAME) == SIZE
    assert any("asking again" in line for line in fetch.lines)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, SIZE // 6), min_size=1, max_size=5))
def test_wherever_it_breaks_no_byte_is_sent_twice(hub, fetch, cuts, tmp_path):
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    hub.served.clear()
    hub.fail(SHARD_NAME, *(Fault("cut", at) for at in cuts))
    check(fetch())
    assert hub.sent(SHARD_NAME) == SIZE
    begins = [sum(cuts[:i]) for i in range(1, len(cuts) + 1)]
    assert ranges(hub)[1:] == [f"bytes={begin}-" for begin in begins]


def test_a_dead_hub_is_given_up_and_the_next_pull_goes_on(hub, fetch, tmp_path):
    hub.fail(SHARD_NAME, Fault("cut", 70_000))
    hub.always[SHARD_NAME] = Fault("stall", 0)
    with pytest.raises(
        HubError, match=r"4 times in a row, at 70.0 kB of .* goes on there"
    ) as error:
        fetch(patience=replace(QUICK, timeout=0.15))
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="only a part is here; 'k2mlx pull'"):
        find_model("tiny-k2")
    visible, hidden = left(tmp_path)
    assert SHARD_NAME not in visible
    assert [name for name in hidden if SHARD_NAME in name]
    hub.always.clear()
    check(fetch())
    assert hub.sent(SHARD_NAME) == SIZE
    assert ranges(hub)[-1] == "bytes=70000-"


def test_failures_in_a_row_count_only_while_nothing_comes(hub, fetch):
    hub.fail(SHARD_NAME, *(Fault("cut", 1000) for _ in range(3 * QUICK.tries)))
    check(fetch())
    assert hub.sent(SHARD_NAME) == SIZE


@pytest.mark.parametrize("kind", ["whole", "shifted", "long"])
def test_a_hub_that_answers_ranges_wrongly_does_no_harm(hub, fetch, kind):
    hub.fail(SHARD_NAME, Fault("cut", 50_000), Fault(kind))
    check(fetch())
    again = {"whole": SIZE, "shifted": SIZE - 50_000 + 10, "long": SIZE - 50_000}[kind]
    assert hub.sent(SHARD_NAME) >= 50_000 + again


def test_a_part_longer_than_the_file_is_no_obstacle(hub, fetch, tmp_path):
    hub.always[SHARD_NAME] = Fault("status", status=404)
    with pytest.raises(HubError, match="404"):
        fetch(jobs=1)
    hub.always.clear()
    hub.fail(SHARD_NAME, Fault("cut", 10))
    hub.always[SHARD_NAME] = Fault("status", status=404)
    with pytest.raises(HubError, match="404"):
        fetch()
    hub.always.clear()
    (part,) = (tmp_path / "home").rglob(f".{SHARD_NAME}*")
    part.write_bytes(b"x" * (SIZE + 5))
    check(fetch())


# --- Bytes that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SHARD_NAME, "config.json", "tiktoken.model"])
def test_a_corrupt_file_is_fetched_again(hub, fetch, name):
    hub.fail(name, Fault("flip", 1))
    check(fetch())
    assert hub.sent(name) == 2 * len(model_files()[name])
    assert f"{name}: wrong hash, fetching it again" in fetch.lines


def test_a_corrupt_beginning_is_found_after_the_end_was_resumed(hub, fetch):
    hub.fail(SHARD_NAME, Fault("cut", 50_000))
    hub.always[SHARD_NAME] = Fault("stall")
    with pytest.raises(HubError):
        fetch(patience=replace(QUICK, timeout=0.1))
    hub.always.clear()
    part = next(find for find in all_parts(hub) if SHARD_NAME in find.name)
    part.write_bytes(b"\0" * 50_000)
    check(fetch())


def all_parts(hub):
    from k2mlx.home import home

    return list(home().rglob("*.part"))


@pytest.mark.parametrize("name", [SHARD_NAME, "config.json"])
def test_a_file_that_stays_corrupt_ends_the_pull_and_leaves_nothing_of_it(
    hub, fetch, name, tmp_path
):
    hub.always[name] = Fault("flip", 1)
    with pytest.raises(HubError, match=r"got .*, wanted .*, 3 times; it was removed") as error:
        fetch()
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    visible, hidden = left(tmp_path)
    assert name not in visible
    assert not [part for part in hidden if part.startswith(f".{name}.")]
    with pytest.raises(CheckpointError):
        find_model("tiny-k2")
    hub.always.clear()
    check(fetch())


def test_a_model_that_is_complete_stays_so_when_its_completion_fails(hub, fetch):
    path = fetch(split=(2, 3), rank=0).path
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    hub.always[shard_name(2)] = Fault("flip", 5)
    with pytest.raises(HubError):
        fetch()
    assert find_model("tiny-k2") == path
    after = {p.name: p.read_bytes() for p in path.iterdir()}
    assert before.items() <= after.items()
    assert shard_name(2) not in after


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_asked_again(hub, fetch, status):
    for name in ("info", "config.json", SHARD_NAME):
        hub.fail(name, Fault("status", status=status), Fault("status", status=status))
    check(fetch())


def test_retry_after_is_honoured(hub, fetch, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    hub.fail("info", Fault("status", status=429, headers={"Retry-After": "7"}))
    fetch(patience=replace(QUICK, longest=60))
    assert slept == [7.0]


@pytest.mark.parametrize("status", [429, 500])
def test_a_hub_that_never_recovers_is_given_up(hub, fetch, status):
    hub.always["info"] = Fault("status", status=status)
    with pytest.raises(HubError, match=rf"tiny-k2: .*answers {status}, 4 times in a row; try aga"):
        fetch()
    hub.always.clear()
    hub.always[SHARD_NAME] = Fault("status", status=status)
    with pytest.raises(HubError, match=rf"{SHARD_NAME}: the hub answers {status}, 4 times"):
        fetch()


def test_a_listing_that_stalls_is_asked_again(hub, fetch):
    hub.fail("info", Fault("stall"))
    check(fetch())
    assert re.fullmatch(rf"{hub.repo}: {hub.url}: ReadTimeout.*, asking again", fetch.lines[0])


def test_a_hub_that_is_not_there(hub, fetch, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9: ConnectError .* try again later"):
        fetch()


def test_a_server_that_is_no_hub(hub, fetch):
    hub.listing = {"siblings": [{"name": "x"}]}
    with pytest.raises(HubError, match=r"the answer is not a hub's .* check HF_ENDPOINT"):
        fetch()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "", r"not found or not allowed \(401\); check the name and HF_TOKEN"),
        (403, "", r"not found or not allowed \(403\); check the name and HF_TOKEN"),
        (403, "GatedRepo", r"is gated; accept its conditions on its page, then set HF_TOKEN"),
        (404, "RepoNotFound", r"not found \(404\); check the name, and HF_TOKEN if it is private"),
        (400, "", r"the hub answers 400; check the name and HF_ENDPOINT"),
    ],
)
def test_refusals_say_what_to_do(hub, fetch, status, code, message):
    hub.fail("info", Fault("status", status=status, headers={"X-Error-Code": code}))
    with pytest.raises(HubError, match=message):
        fetch()
    assert len(hub.served) == 1
    hub.fail(SHARD_NAME, Fault("status", status=status, headers={"X-Error-Code": code}))
    with pytest.raises(HubError, match=f"{SHARD_NAME}: .*{message}"):
        fetch()


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, fetch, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(HubError, match="HF_TOKEN"):
        fetch()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.served.clear()
    hub.fail(SHARD_NAME, Fault("cut", 1000))
    check(fetch())
    sent = {(served.server, served.authorization) for served in hub.served}
    assert sent == {("hub", "Bearer hf_secret"), ("cdn", None)}


def test_offline_is_offline(hub, fetch, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch()
    assert hub.served == []


def test_without_the_library_the_command_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'k2mlx\[pull\]'"):
        library()


# --- Disks ---------------------------------------------------------------------------------------


def test_the_disk_is_measured_before_any_weight_is_fetched(hub, fetch, monkeypatch):
    free = SimpleNamespace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(HubError, match=r"wanted 65\d.\d kB of disk, got 400.0 kB free; free 2\d\d"):
        fetch()
    assert not any(served.path.endswith(".safetensors") for served in hub.served)
    free.free = 10**9
    check(fetch())


def test_only_what_is_missing_counts(hub, fetch, monkeypatch):
    fetch(split=(2, 3), rank=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=400_000))
    check(fetch())


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EIO, "Input/output error")]
)
def test_a_disk_that_fails_is_one_line_and_the_next_pull_goes_on(
    hub, fetch, monkeypatch, number, message
):
    append = transfer.Fetcher._append

    def fail(self, response, part, missing):
        if SHARD_NAME in part.name:
            raise OSError(number, "Input/output error")
        append(self, response, part, missing)

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Fetcher, "_append", fail)
        with pytest.raises(HubError, match=message):
            fetch()
    check(fetch())


@given(st.binary(max_size=3000))
def test_hashes_are_those_of_git_and_sha256(tmp_path_factory, data):
    import hashlib

    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(data)
    assert hash_file(path, "sha256") == "sha256:" + hashlib.sha256(data).hexdigest()
    blob = b"blob %d\0" % len(data) + data
    assert hash_file(path, "git") == "git:" + hashlib.sha1(blob).hexdigest()
