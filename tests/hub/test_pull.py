"""Pulls from a hub on loopback that behaves: what comes, where to, from which commit."""

import json
import os
import shutil

import pytest

from k2mlx.errors import BusyError, CheckpointError, HubError, RequestError
from k2mlx.home import find_model, locked
from k2mlx.hub.store import Record
from k2mlx.weights.files import read_header, weight_files
from tests.hub.conftest import LAYERS, NEEDED, model_files, shard_name
from tests.hub.loopback import Fault


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "pull.json"}


def models(tmp_path):
    return sorted(path.name for path in (tmp_path / "home" / "models").iterdir())


def wanted(hub):
    return {name: data for name, data in model_files().items() if name in NEEDED}


def test_all_that_a_model_needs_and_nothing_else(hub, fetch, tmp_path):
    pulled = fetch()
    sha = hub.branches["main"]
    assert contents(pulled.path) == wanted(hub)
    assert models(tmp_path) == [f"moonshot--tiny-k2@{sha[:12]}"]
    assert (pulled.commit, pulled.files) == (sha, len(NEEDED))
    assert pulled.bytes == pulled.received == sum(map(len, wanted(hub).values()))
    record = Record.read(pulled.path)
    assert record is not None
    assert (record.repo, record.commit, record.whole, record.complete) == (
        hub.repo,
        sha,
        True,
        True,
    )
    assert record.files.keys() == NEEDED
    assert all(f["hash"].startswith(("git:", "sha256:")) for f in record.files.values())


def test_the_only_requests_are_the_listing_and_the_files(hub, fetch, monkeypatch):
    # The library asks for its list of coding agents once a process, unless telemetry is off.
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    fetch()
    sha = hub.branches["main"]
    small = {name for name in NEEDED if not name.endswith((".safetensors", ".model"))}
    paths = [served.path for served in hub.served]
    assert paths[0] == f"/api/models/{hub.repo}"
    assert sorted(paths[1:]) == sorted(
        [f"/{hub.repo}/resolve/{sha}/{name}" for name in NEEDED]
        + [f"/{sha}/{name}" for name in NEEDED - small]
    )
    agents = {served.agent for served in hub.served}
    assert all("torch" not in agent and "agent/" not in agent for agent in agents)


@pytest.mark.parametrize("spell", ["{owner}/{name}", "{name}", "{OWNER}/{NAME}", "{name}@{sha}"])
def test_a_pulled_model_is_found_by_its_name(hub, fetch, spell):
    path = fetch().path
    owner, name = hub.repo.split("/")
    name = spell.format(
        owner=owner, name=name, OWNER=owner.upper(), NAME=name.upper(), sha=path.name[-12:-4]
    )
    assert find_model(name) == path
    assert len(weight_files(find_model(name))) == 3


def test_a_short_name_of_two_owners_is_asked_back(hub, fetch, tmp_path):
    path = fetch().path
    shutil.copytree(path, path.with_name(path.name.replace("moonshot", "other")))
    with pytest.raises(CheckpointError, match=r"could be moonshot/tiny-k2 or other/tiny-k2"):
        find_model("tiny-k2")
    assert find_model("moonshot/tiny-k2") == path


def test_a_second_pull_fetches_nothing(hub, fetch):
    before = fetch()
    hub.served.clear()
    again = fetch()
    assert (again.path, again.received, again.bytes) == (before.path, 0, before.bytes)
    assert [served.path for served in hub.served] == [f"/api/models/{hub.repo}"]


def test_verify_hashes_again_and_brings_back_what_rotted(hub, fetch):
    path = fetch().path / shard_name(1)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert fetch().received == 0
    assert fetch(verify=True).received == len(data)
    assert path.read_bytes() == data


def test_a_commit_stays_pinned_while_the_branch_moves(hub, fetch):
    first, old = fetch(), hub.branches["main"]
    new = hub.commit(model_files(seed=1))
    second = fetch()
    assert (first.commit, second.commit) == (old, new)
    assert contents(first.path) == wanted(hub)
    assert contents(second.path) != contents(first.path)
    assert find_model(hub.repo) == second.path
    assert find_model(f"{hub.repo}@{old}") == first.path
    assert fetch(revision=old).path == first.path
    os.utime(first.path / "pull.json")  # the one pulled last is the one that is meant
    assert find_model(hub.repo) == first.path


def test_the_files_come_from_the_commit_even_if_the_branch_moves_in_between(
    hub, fetch, monkeypatch
):
    old, describe = hub.branches["main"], hub.describe

    def move_after(sha):
        answer = describe(sha)
        hub.commit(model_files(seed=1))
        return answer

    monkeypatch.setattr(hub, "describe", move_after)
    pulled = fetch()
    assert pulled.commit == old
    assert contents(pulled.path) == wanted(hub)


def test_what_a_new_revision_shares_is_not_fetched_again(hub, fetch):
    first = fetch()
    changed = {**model_files(), "chat_template.jinja": b"another template"}
    hub.commit(changed)
    hub.served.clear()
    second = fetch()
    assert second.path != first.path
    assert second.received == len(b"another template")
    assert contents(second.path) == {n: d for n, d in changed.items() if n in NEEDED}
    shard = shard_name(0)
    assert (second.path / shard).samefile(first.path / shard)  # no second copy on disk either
    shutil.rmtree(first.path)
    assert (second.path / shard).read_bytes() == changed[shard]


def test_a_shared_file_that_rotted_is_fetched_and_the_other_left_alone(hub, fetch):
    first = fetch()
    rotten = first.path / shard_name(0)
    rotten.write_bytes(b"\0" * rotten.stat().st_size)
    changed = {**model_files(), "chat_template.jinja": b"another template"}
    hub.commit(changed)
    assert (fetch().path / shard_name(0)).read_bytes() == changed[shard_name(0)]
    assert not any(rotten.read_bytes())


def test_a_pull_that_was_interrupted_before_the_branch_moved_is_used_up(hub, fetch):
    shard = shard_name(2)
    hub.fail(shard, Fault("cut", 40_000))
    hub.always[shard] = Fault("status", status=404)
    with pytest.raises(HubError):
        fetch(jobs=1)
    hub.always.clear()
    old = hub.branches["main"]
    changed = {**model_files(), "chat_template.jinja": b"another template"}
    hub.commit(changed)
    hub.served.clear()
    pulled = fetch()
    assert contents(pulled.path) == {n: d for n, d in changed.items() if n in NEEDED}
    assert [served.range for served in hub.gets(shard)] == ["bytes=40000-"]
    assert pulled.received == len(b"another template") + len(changed[shard]) - 40_000
    assert pulled.left_over == [f"moonshot--tiny-k2@{old[:12]}.partial"]


def test_a_part_under_way_survives_another_ranks_pull(hub, fetch):
    fetch(split=(2, 3), rank=0)
    shard = shard_name(1)
    hub.fail(shard, Fault("cut", 40_000))
    hub.always[shard] = Fault("status", status=404)
    with pytest.raises(HubError):
        fetch()
    hub.always.clear()
    fetch(split=(2, 3), rank=0)
    assert contents(fetch().path) == wanted(hub)
    assert hub.sent(shard) == len(model_files()[shard])


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"repo": 1}', '{"repo": "a", "commit": "b", "files": 3}']
)
def test_a_folder_whose_record_is_damaged_is_left_alone(hub, fetch, damage):
    path = fetch().path
    (path / "pull.json").write_text(damage)
    hub.served.clear()
    with pytest.raises(RequestError, match="has files that no pull wrote; move it away"):
        fetch()
    assert len(hub.served) == 1


def test_revisions_are_branches_tags_and_commits(hub, fetch):
    tagged = hub.commit(model_files(seed=2), branch="v1/rc")
    assert fetch(revision="v1/rc").commit == tagged
    assert fetch(revision=tagged).commit == tagged
    with pytest.raises(HubError, match=r"tiny-k2@v9: no such revision; give a commit"):
        fetch(revision="v9")


def test_a_hub_that_answers_for_another_commit_is_not_believed(hub, fetch):
    hub.listing = {"sha": "0" * 40}
    with pytest.raises(HubError, match="asked for commit"):
        fetch(revision=hub.branches["main"])
    hub.listing = {"sha": "../../x"}
    with pytest.raises(HubError, match="wanted 40 hexadecimal digits"):
        fetch()


# --- Ranks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(2, 3), (1, 3, 1), (4, 1), (5,), (1, 1, 1, 1, 1)])
def test_a_rank_has_its_tensors_and_ranks_together_everything(hub, fetch, split, tmp_path):
    union, fetched = {}, 0
    for rank, count in enumerate(split):
        pulled = fetch(split=split, rank=rank, out=tmp_path / f"rank{rank}")
        union |= contents(pulled.path)
        shards = list(pulled.path.glob("*.safetensors"))
        tensors = {name for path in shards for name in read_header(path)}
        begin = sum(split[:rank])
        for layer in range(begin, begin + count):
            assert {f"model.layers.{layer}.{part}.weight" for part in "ab"} <= tensors
        assert rank or "model.embed_tokens.weight" in tensors
        assert rank < len(split) - 1 or {"model.norm.weight", "lm_head.weight"} <= tensors
        assert pulled.skipped_files == 3 - len(shards)
        assert pulled.bytes + pulled.skipped_bytes == sum(map(len, wanted(hub).values()))
        fetched += pulled.skipped_files
    assert union == wanted(hub)
    assert fetched or len(split) == 1


def test_a_ranks_part_is_completed_in_place(hub, fetch, tmp_path):
    part = fetch(split=(2, 3), rank=0)
    record = Record.read(part.path)
    assert record is not None
    assert (record.whole, record.state()) == (False, "rank 0 of 2,3")
    assert part.skipped_files == 2
    with pytest.raises(CheckpointError, match=rf"{shard_name(1)}: missing"):
        weight_files(find_model("tiny-k2"))
    whole = fetch()
    assert whole.path == part.path
    assert whole.received == part.skipped_bytes
    assert contents(whole.path) == wanted(hub)
    record = Record.read(whole.path)
    assert record is not None
    assert record.state() == "complete"


def test_a_second_rank_joins_the_first(hub, fetch):
    fetch(split=(2, 3), rank=0)
    path = fetch(split=(2, 3), rank=1).path
    record = Record.read(path)
    assert record is not None
    assert record.whole
    assert [part["rank"] for part in record.parts] == [0, 1]


def test_a_rank_of_a_model_in_one_file_takes_it_all(hub, fetch):
    hub.commit({"config.json": b"{}", "model.safetensors": b"one"})
    pulled = fetch(split=(2, 3), rank=1)
    assert contents(pulled.path).keys() == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"split": (2, 3)}, "--split and --rank go together"),
        ({"rank": 1}, "--split and --rank go together"),
        ({"split": (2, 3), "rank": 2}, "--rank 2: wanted 0 to 1 of --split 2,3"),
        ({"split": (2, 3), "rank": -1}, "--rank -1: wanted 0 to 1"),
        ({"split": (5, 0), "rank": 0}, "at least one layer for each rank"),
        ({"split": (31, 30), "rank": 0}, f"has 61 layers, the model has {LAYERS}"),
        ({"jobs": 0}, "--jobs 0: wanted 1 or more"),
    ],
)
def test_orders_that_make_no_sense(fetch, order, message):
    with pytest.raises(RequestError, match=message):
        fetch(**order)


# --- Where to ------------------------------------------------------------------------------------


def test_out_is_a_folder_of_the_users_own(hub, fetch, tmp_path):
    out = tmp_path / "disk" / "k2"
    assert contents(fetch(out=out).path) == wanted(hub)
    assert fetch(out=out).received == 0
    hub.commit(model_files(seed=1))
    with pytest.raises(RequestError, match="give another folder"):
        fetch(out=out)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="has files that no pull wrote"):
        fetch(out=taken)
    assert os.listdir(taken) == ["thesis.txt"]


def test_two_pulls_do_not_write_the_same_folder(hub, fetch):
    with locked(fetch().path), pytest.raises(BusyError, match="another k2mlx is writing it"):
        fetch()


@pytest.mark.parametrize("repo", ["a/b/c", "../x", "a--b/c", "", "/etc", "a/..", "a b"])
def test_names_that_no_hub_has(hub, fetch, repo):
    with pytest.raises(RequestError, match="wanted OWNER/NAME"):
        fetch(repo or " ")
    assert hub.served == []


# --- What a hub may not do -----------------------------------------------------------------------

OUTSIDE = ["../x.safetensors", "/etc/x", "a/../../x", "..\\x", "a//b", "c:/x", "x\n.json", ".."]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listing_that_leads_outside_is_refused(hub, fetch, name, tmp_path):
    hub.commit({**model_files(), name: b"evil"})
    with pytest.raises(HubError, match="a path that leads outside; not fetched"):
        fetch()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "x.bin", "x.py", 7, None, ""]
)
def test_an_index_that_leads_outside_is_refused(hub, fetch, name, tmp_path):
    index = {"weight_map": {"model.layers.0.a": shard_name(0), "model.layers.1.a": name}}
    files = {**model_files(), "model.safetensors.index.json": json.dumps(index).encode()}
    hub.commit(files)
    with pytest.raises(HubError, match="beside the index"):
        fetch()
    assert models(tmp_path)[0].endswith(".partial")
    with pytest.raises(CheckpointError, match="only a part is here"):
        find_model(hub.repo)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b""}, "has no config.json"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, r"has no model\*.safetensors"),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "wanted JSON with weight"),
        (
            {"config.json": b"{}", "model.safetensors.index.json": b"\x80"},
            "wanted JSON with weight",
        ),
        (
            {
                "config.json": b"{}",
                "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}',
            },
            "names b.safetensors, which the repository lacks",
        ),
    ],
)
def test_repositories_that_hold_no_model(hub, fetch, files, message):
    hub.commit(files)
    with pytest.raises(HubError, match=message):
        fetch()


@pytest.mark.parametrize("entry", [{"size": None}, {"size": -1}, {"blobId": None}, {"blobId": "x"}])
def test_a_listing_without_size_or_hash_is_refused(hub, fetch, entry):
    from tests.hub.loopback import describe_file

    hub.listing = {"siblings": [{**describe_file("config.json", b"{}"), **entry}]}
    with pytest.raises(HubError, match="no way to check it"):
        fetch()


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_an_out_that_is_no_folder_is_said_before_the_download(hub, fetch, tmp_path, kind):
    out = tmp_path / "out"
    out.symlink_to("out") if kind == "loop" else out.write_text("mine")
    with pytest.raises(RequestError, match="is no folder"):
        fetch(out=out)
    assert len(hub.served) == 1


def test_an_out_that_is_a_link_fills_what_it_points_to(hub, fetch, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    assert fetch(out=tmp_path / "out").path == tmp_path / "disk"
    assert contents(tmp_path / "out") == wanted(hub)


def test_an_interrupted_verify_leaves_the_model(hub, fetch, monkeypatch):
    before = fetch()
    names = {path.name for path in before.path.iterdir()}

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("k2mlx.hub.transfer.hash_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(verify=True)
    assert contents(before.path).items() >= wanted(hub).items()
    assert fetch(verify=True).received == 0
    assert {path.name for path in before.path.iterdir()} == names
