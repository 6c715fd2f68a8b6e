"""Bits per byte: documents do not see each other, and nothing is charged twice."""

import math

import numpy as np
import pytest

from k2mlx.data.pack import END
from k2mlx.train.evaluate import document_nats, split_documents
from tests.models import TINY, build, random_weights


@pytest.fixture(scope="module")
def model():
    return build(TINY, random_weights(TINY, 0))


def shard(*sizes, last_end=True):
    r = np.random.default_rng(1)
    documents = [np.append(r.integers(20, 90, size - 1), END) for size in sizes]
    tokens = np.concatenate(documents).astype("<u2")
    return tokens if last_end else tokens[:-1]


@pytest.mark.parametrize("last_end", [True, False])
def test_documents_keep_their_ends(last_end):
    parts = split_documents(shard(5, 1, 9, last_end=last_end))
    assert [len(part) for part in parts] == [5, 1, 9 if last_end else 8]
    assert all(part[-1] == END for part in parts[:2])


def test_documents_do_not_see_each_other(model):
    documents = split_documents(shard(30, 1, 12, 41))
    together = document_nats(model, documents, length=100, rows=1)
    alone = [document_nats(model, [document], 100, 1)[0] for document in documents]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert together[1] == pytest.approx(math.log(TINY.vocab_size))


def test_every_token_is_charged_once_whatever_the_windows(model):
    model = build(TINY, random_weights(TINY, 0) | {"lm_head.weight": np.zeros((96, 32), "f4")})
    documents = split_documents(shard(30, 12, 41))
    for length, rows in ((7, 2), (16, 3), (200, 1)):
        nats = document_nats(model, documents, length, rows)
        np.testing.assert_allclose(nats, np.log(96) * np.array([30, 12, 41]), rtol=1e-5)
