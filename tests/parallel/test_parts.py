"""A model cut into ranks computes what the whole one does: the same kernels in the same order, so
the same bits, for any cut, chunks, and streams."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from k2mlx.model import Model
from tests.generate.conftest import tiny_config
from tests.parallel.company import cut, part

LAYERS = 5


def whole():
    mx.random.seed(1)
    model = Model(tiny_config(num_hidden_layers=LAYERS, max_position_embeddings=512))
    model.reset(seed=3)
    mx.eval(model.parameters())
    return model


WHOLE = whole()


@st.composite
def cuts(draw):
    """Layers of each of 1 to 4 ranks."""
    size = draw(st.integers(1, 4))
    ends = sorted(draw(st.sets(st.integers(1, LAYERS - 1), min_size=size - 1, max_size=size - 1)))
    return [b - a for a, b in zip([0, *ends], [*ends, LAYERS], strict=True)]


class Parts:
    """The ranks of a cut, one after another."""

    def __init__(self, counts):
        self.models = [part(WHOLE, layers) for layers in cut(LAYERS, counts)]

    def caches(self, batch):
        return [m.make_batch_cache() if batch else m.make_cache() for m in self.models]

    def logits(self, tokens, caches):
        x = self.models[0].embed(tokens)
        for model, cache in zip(self.models, caches, strict=True):
            x = model.run(x, cache)
        return np.array(self.models[-1].head(x))


prompts = st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=40), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(cuts(), prompts, st.integers(1, 24), st.data())
def test_the_same_bits(counts, prompts, chunk, data):
    """Prompts shorter and longer than a chunk, then steps alone, then all streams in one batch."""
    ranks, alone = Parts(counts), Parts([LAYERS])
    batch = [ranks.caches(True), alone.caches(True)]
    for prompt in prompts:
        caches = [ranks.caches(False), alone.caches(False)]
        for start in range(0, len(prompt), chunk):
            tokens = mx.array([prompt[start : start + chunk]])
            got, wanted = ranks.logits(tokens, caches[0]), alone.logits(tokens, caches[1])
            np.testing.assert_array_equal(got, wanted)
        step = mx.array([[data.draw(st.integers(0, 255))]])
        got, wanted = ranks.logits(step, caches[0]), alone.logits(step, caches[1])
        np.testing.assert_array_equal(got, wanted)
        for together, own in zip(batch, caches, strict=True):
            for many, one in zip(together, own, strict=True):
                many.admit(one)
    for _ in range(2):
        tokens = mx.array([[data.draw(st.integers(0, 255))] for _ in prompts])
        got, wanted = ranks.logits(tokens, batch[0]), alone.logits(tokens, batch[1])
        np.testing.assert_array_equal(got, wanted)


def test_a_rank_has_only_what_it_needs():
    """Embedding on the first, norm and head on the last, and each layer once."""
    for counts in ([LAYERS], [2, 3], [1, 1, 1, 2]):
        models = Parts(counts).models
        names = [set(model.named_parameters()) for model in models]
        assert set.union(*names) == set(WHOLE.named_parameters())
        assert sum(map(len, names)) == len(WHOLE.named_parameters())
