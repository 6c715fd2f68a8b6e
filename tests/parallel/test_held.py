"""A rank reads its own layers' tensors and no others: counted on official checkpoints."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from k2mlx.errors import CheckpointError
from k2mlx.weights.files import INDEX, Stored, read_folder
from k2mlx.weights.load import load_model
from tests.parallel.company import cut
from tests.weights.slices import grouped_config, official_slice

LAYERS = 5
SPLITS = [[3, 2], [1, 4], [2, 1, 2], [1] * 5]
FORMS = ["int4", "fp8", "bf16"]


@pytest.fixture(scope="module", params=FORMS)
def folder(request, tmp_path_factory):
    """A file a layer, and one with embedding, norm and head, as official checkpoints have."""
    config = replace(grouped_config(2), num_hidden_layers=LAYERS)
    return official_slice(tmp_path_factory.mktemp("held"), request.param, config=config)


@pytest.fixture(scope="module")
def whole(folder):
    return dict(tree_flatten(load_model(folder, mx.float32).parameters()))


def of_rank(name, layers):
    """Whether a tensor is of these layers, from the issue's words."""
    if name.startswith("model.layers."):
        return int(name.split(".")[2]) in layers
    return (0 if "embed_tokens" in name else LAYERS - 1) in layers


def file_of(folder, name):
    return json.loads((folder / INDEX).read_text())["weight_map"][name]


@contextmanager
def counted():
    """Bytes that are really read of tensors, by file and place."""
    read = {}
    inside = Stored.read_into

    def count(self, out):
        inside(self, out)
        assert out.nbytes >= self.nbytes
        read[self.path.name, self.offset] = self.nbytes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stored, "read_into", count)
        yield read


def spoilt(folder, to, kept, how):
    """A copy without, or with garbage in, the files that hold nothing of these tensors. Of a file
    that holds some of them the other bytes are garbage, too."""
    shutil.copytree(folder, to)
    wanted = {name: tensor for name, tensor in read_folder(folder).items() if kept(name)}
    needed = {tensor.path.name for tensor in wanted.values()}
    rng = np.random.default_rng(0)
    for path in to.glob("*.safetensors"):
        if path.name not in needed:
            if how == "missing":
                path.unlink()
            else:
                path.write_bytes(rng.bytes(path.stat().st_size))
            continue
        data = bytearray(path.read_bytes())
        mask = np.ones(len(data), bool)
        mask[: 8 + int.from_bytes(data[:8], "little")] = False
        for tensor in wanted.values():
            if tensor.path.name == path.name:
                mask[tensor.offset : tensor.offset + tensor.nbytes] = False
        values = np.frombuffer(data, np.uint8)
        values[mask] = 0xFF  # NaN in every floating point format
        path.write_bytes(data)
    return to


@pytest.mark.parametrize("how", ["missing", "garbage"])
@pytest.mark.parametrize("counts", SPLITS, ids=str)
def test_a_rank_reads_its_own_tensors_and_needs_no_others(folder, whole, tmp_path, counts, how):
    stored, seen, held = read_folder(folder), [], []
    for layers in cut(LAYERS, counts):

        def kept(name, layers=layers):
            return of_rank(name, layers)

        other = spoilt(folder, tmp_path / str(layers), kept, how)
        progress = []
        with counted() as read:
            model = load_model(
                other,
                mx.float32,
                held=layers,
                on_bytes=lambda *at: progress.append(at),  # noqa: B023
            )
        mine = {(t.path.name, t.offset): t.nbytes for name, t in stored.items() if kept(name)}
        # Rows of a tensor may be read apart: by their sum per file, and none outside.
        assert total(read) == total(mine)
        seen.append(sum(mine.values()))

        values = dict(tree_flatten(model.parameters()))
        held.append(set(values))
        assert held[-1] == {name for name in whole if of_rank(name, layers)}
        assert all(mx.array_equal(value, whole[name]) for name, value in values.items())
        check_progress(progress, seen[-1])
    assert sum(seen) == sum(tensor.nbytes for tensor in stored.values())
    assert sum(map(len, held)) == len(whole)  # each on exactly one rank
    assert [any("embed_tokens" in name for name in one) for one in held] == [
        rank == 0 for rank in range(len(counts))
    ]
    assert [any("lm_head" in name for name in one) for one in held] == [
        rank == len(counts) - 1 for rank in range(len(counts))
    ]


def total(read):
    """Bytes by file; a place that is looked at twice counts once."""
    found = {}
    for (file, _), size in read.items():
        found[file] = found.get(file, 0) + size
    return found


def check_progress(progress, size):
    """It only grows, to the bytes that this rank reads."""
    done = [at for at, _ in progress]
    assert done == sorted(done)
    assert {of for _, of in progress} == {size}
    assert progress[-1] == (size, size)
    assert len(set(done)) > 5


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_file_of_its_own_that_is_damaged_is_named(folder, tmp_path, damage):
    shutil.copytree(folder, tmp_path / "other")
    path = tmp_path / "other" / file_of(folder, "model.layers.3.self_attn.o_proj.weight")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    load_model(tmp_path / "other", mx.float32, held=range(3))
    with pytest.raises(CheckpointError, match=path.name):
        load_model(tmp_path / "other", mx.float32, held=range(3, 5))
