"""What ranks compare: whatever differs is refused and named, and what may differ is not."""

import copy
import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2mlx.errors import ClusterError
from k2mlx.parallel import facts as module
from k2mlx.parallel.facts import DESCRIPTION, check_facts, facts
from k2mlx.parallel.split import Member
from k2mlx.parallel.wire import LIMITS, Kind, pack
from tests.weights.slices import grouped_config, official_slice

GB = 10**9


def member(rank):
    return Member(f"host{rank}", 100 * GB, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An official checkpoint of a file a layer, with what describes it."""
    folder = official_slice(tmp_path_factory.mktemp("facts"), "int4", config=grouped_config(3))
    for name in DESCRIPTION[1:]:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def gathered(folders):
    """Each rank's facts as they come over the channel."""
    everyone = [facts(folder, member(rank)) for rank, folder in enumerate(folders)]
    return [json.loads(json.dumps(one)) for one in everyone]


def refusal(everyone):
    with pytest.raises(ClusterError) as refused:
        check_facts(everyone)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_same_model_in_other_folders_is_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    check_facts(gathered([folder, tmp_path / "copy", folder]))


@given(st.data())
def test_any_version_that_differs_is_named_with_both(folder, data):
    size = data.draw(st.integers(2, 5))
    rank = data.draw(st.integers(1, size - 1))
    key = data.draw(st.sampled_from(["k2mlx", "mlx", "python"]))
    everyone = [gathered([folder])[0] for _ in range(size)]
    for number, one in enumerate(everyone):
        one["member"]["host"] = f"host{number}"
    other = f"9.{data.draw(st.integers(0, 99))}"
    mine = everyone[0][key]
    everyone[rank][key] = other
    what = {"k2mlx": "k2mlx", "mlx": "MLX", "python": "Python"}[key]
    expected = (
        f"rank {rank} (host{rank}) has {what} {other}, rank 0 (host0) {mine}; wanted the same"
    )
    assert refusal(everyone).startswith(expected)


def test_the_versions_are_those_that_run(folder):
    import platform

    import k2mlx

    found = facts(folder, member(0))
    assert found["k2mlx"] == k2mlx.__version__
    assert found["mlx"] == mx.__version__
    assert platform.python_version().startswith(found["python"] + ".")


@pytest.mark.parametrize("name", DESCRIPTION)
@pytest.mark.parametrize("how", ["changed", "missing", "missing on rank 0"])
def test_a_description_that_differs_or_is_missing_is_refused(folder, tmp_path, name, how):
    """The same length and date: by content alone. A tokenizer that only one has matters, too."""
    other = shutil.copytree(folder, tmp_path / "other")
    if how == "changed":
        content = (other / name).read_bytes()
        (other / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        (other / name).unlink()
    folders = [other, folder] if how == "missing on rank 0" else [folder, other]
    message = refusal(gathered(folders))
    assert message.startswith(f"{name}: got ")
    assert "rank 1 (host1)" in message and "rank 0 (host0)" in message
    assert ("none" in message) == (how != "changed")


def retrained(path):
    """The same tensors, other values, as another training of the same architecture has."""
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    values = np.frombuffer(content, np.uint8, offset=begin)
    values ^= np.random.default_rng(0).integers(1, 255, values.size, np.uint8)
    path.write_bytes(content)


def renamed(path):
    """Another header of the same length."""
    content = path.read_bytes()
    changed = content.replace(b"layers", b"layerz", 1).replace(b"embed", b"embex", 1)
    assert changed != content
    path.write_bytes(changed)


def longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("change", [retrained, renamed, longer])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_weights_that_differ_are_refused_by_the_name_of_their_file(
    folder, tmp_path, change, number
):
    other = shutil.copytree(folder, tmp_path / "other")
    path = sorted(other.glob("*.safetensors"))[number]
    change(path)
    message = refusal(gathered([folder, folder, other]))
    assert message.startswith(f"{path.name}: got ")
    assert "rank 2 (host2)" in message and "copy or pull it again" in message


@given(st.data())
def test_files_that_only_some_ranks_have_are_no_difference(folder, data):
    """Each rank needs its own layers' alone."""
    size = data.draw(st.integers(2, 4))
    whole = gathered([folder])[0]
    everyone = []
    for _ in range(size):
        one = copy.deepcopy(whole)
        kept = data.draw(st.sets(st.sampled_from(sorted(whole["weights"]))))
        one["weights"] = {name: whole["weights"][name] for name in kept}
        everyone.append(one)
    check_facts(everyone)


def test_a_big_models_facts_fit_into_a_message(folder, tmp_path, monkeypatch):
    """K2: 61 layers in 62 files; host names as long as they may be, a group of 64."""
    monkeypatch.setattr(module, "fingerprint", lambda path: "0" * 32)
    for name in DESCRIPTION:
        (tmp_path / name).write_bytes(b"x")
    for number in range(1, 63):
        (tmp_path / f"model-{number:06d}-of-000062.safetensors").touch()
    one = json.dumps(facts(tmp_path, Member("h" * 253, 2**50, 8.19e11))).encode()
    assert len(re.findall(b"safetensors", one)) == 62
    assert len(one) < LIMITS[Kind.GATHER] / 4
    assert len(pack([one] * 64)) < LIMITS[Kind.GATHERED]


def test_a_fingerprint_is_as_long_as_the_message_was_measured_with(folder):
    assert {len(value) for value in facts(folder, member(0))["weights"].values()} == {32}
