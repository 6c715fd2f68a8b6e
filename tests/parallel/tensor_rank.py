"""One rank of a real ring: mlx.launch ... -- python tensor_rank.py FOLDER OUT HOW.

HOW: plain, thread or compiled. Loads its share, answers, and writes OUT/RANK.npz, with the bytes
that it holds and how often Python came by a sum.
"""

import sys
from pathlib import Path
from threading import Event

import mlx.core as mx
import numpy as np

from k2mlx import model as model_module
from k2mlx.generate import thread
from k2mlx.parallel import tensor
from tests.parallel.shares import answers


def main(folder: Path, out: Path, how: str) -> None:
    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(strict=True, backend="ring")
    model = tensor.load_share(folder, mx.float32, group)
    held = sum(value.nbytes for value in model.named_parameters().values())
    if how == "compiled":
        model_module.decodes_compiled = lambda tokens: tokens.shape[1] == 1
    sums, add_up = [0], tensor.all_sum

    def counted(x: mx.array, among: mx.distributed.Group) -> mx.array:
        sums[0] += 1
        return add_up(x, among)

    tensor.all_sum = counted
    results: list[np.ndarray] = []
    if how == "thread":
        ended = Event()

        def work() -> None:
            try:
                results.extend(answers(model, 1))
            finally:
                ended.set()

        thread.run(work)
        ended.wait()
    else:
        results = answers(model, 1)
    arrays = {str(i): a for i, a in enumerate(results)}
    aside = out / f"{group.rank()}.part.npz"
    np.savez(aside, **arrays, facts=np.array([held, sums[0]]))
    aside.rename(out / f"{group.rank()}.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
