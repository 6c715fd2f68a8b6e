"""Trains a small sentencepiece vocabulary whose first ids are K2's markers.

The settings keep text exactly as it is: no normalisation, no added space, bytes for what is not in
the vocabulary, one token a digit, a newline its own token. Markers are control symbols, so
ordinary text can never encode to one.
"""

import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from k2mlx.errors import ConfigError
from k2mlx.tokenizer import SPECIAL_TOKENS

# sentencepiece leaves out longer sentences without a word.
MAX_SENTENCE_BYTES = 4000
# Characters that get a piece of their own however rare they are in the sample.
ALWAYS = "".join(map(chr, range(33, 127))) + "\t‘’“”–—…°£€×÷éèàüöçñ"


def take(texts: Iterable[str], size: int) -> Iterator[str]:
    """Yields texts until `size` bytes of UTF-8 have gone by."""
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """Cuts texts into lines short enough for the trainer; a newline is a fixed piece anyway."""
    for text in texts:
        for line in text.split("\n"):
            while len(line.encode()) > MAX_SENTENCE_BYTES:
                cut = line.rfind(" ", 1, MAX_SENTENCE_BYTES // 4)
                cut = cut if cut > 0 else MAX_SENTENCE_BYTES // 4
                yield line[:cut]
                line = line[cut:]
            if line:
                yield line


def train_sentencepiece(texts: Iterable[str], path: Path, vocab_size: int = 8192) -> None:
    """Trains a BPE model on `texts` and writes it to `path`.

    Raises: ConfigError when the texts are too few for the size.
    """
    import sentencepiece

    model = io.BytesIO()
    settings = _settings(vocab_size)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(texts), model_writer=model, **settings
        )
    except RuntimeError as error:
        # Its message says which size would do.
        reason = str(error).rsplit("] ", 1)[-1]
        raise ConfigError(f"vocabulary of {vocab_size} pieces: {reason}") from error
    # Written beside and renamed: a reader never sees half a model.
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(model.getvalue())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _settings(vocab_size: int) -> dict[str, Any]:
    pad, unk, bos, eos, *controls = SPECIAL_TOKENS
    return {
        "model_type": "bpe",
        "vocab_size": vocab_size,
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": 2,
        "eos_id": 3,
        "pad_piece": pad,
        "unk_piece": unk,
        "bos_piece": bos,
        "eos_piece": eos,
        "unk_surface": unk,
        "control_symbols": controls,
        "user_defined_symbols": ["\n"],
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 0.9999,
        "required_chars": ALWAYS,
        "max_sentence_length": MAX_SENTENCE_BYTES + 192,
        "num_threads": 2,
        "minloglevel": 1,
    }
