"""One rank of a real ring: mlx.launch ... -- python tensor_rank.py FOLDER OUT HOW.

HOW: plain, thread, expanded or compiled. Loads its share, answers, and writes OUT/RANK.npz, with
the bytes that it holds.
"""

import sys
from pathlib import Path
from threading import Thread

import mlx.core as mx
import numpy as np

from k2mlx import model as model_module
from k2mlx.load import expand_all_but_experts
from k2mlx.parallel.tensor import load_share
from tests.parallel.shares import answers


def main(folder: Path, out: Path, how: str) -> None:
    mx.set_default_device(mx.cpu)
    group = mx.distributed.init(strict=True, backend="ring")
    model = load_share(folder, mx.float32, group)
    held = sum(value.nbytes for value in model.named_parameters().values())
    if how == "expanded":
        expand_all_but_experts(model)
    if how == "compiled":
        model_module.decodes_compiled = lambda tokens: tokens.shape[1] == 1
    results: list[np.ndarray] = []
    if how == "thread":
        thread = Thread(target=lambda: results.extend(answers(model, 1)))
        thread.start()
        thread.join()
    else:
        results = answers(model, 1)
    used = model._decode is not None
    arrays = {str(i): a for i, a in enumerate(results)}
    aside = out / f"{group.rank()}.part.npz"
    np.savez(aside, **arrays, facts=np.array([held, used]))
    aside.rename(out / f"{group.rank()}.npz")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
