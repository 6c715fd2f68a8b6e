"""Tiny sentencepiece vocabularies for tests, trained in a moment."""

import io
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

from k2mlx.tokenizer import SPECIAL_TOKENS, SentencePieceTokenizer

PAD, UNK, BOS, EOS, *CONTROLS = SPECIAL_TOKENS
SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": 420,
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": PAD,
    "unk_piece": UNK,
    "bos_piece": BOS,
    "eos_piece": EOS,
    "control_symbols": CONTROLS,
    "user_defined_symbols": ["\n"],
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "split_digits": True,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "hard_vocab_limit": False,
    "minloglevel": 2,
}
# Markers are in the text too: seeing them often must not make pieces of them.
TEXTS = [
    f"The cat sat on mat {number} and the dog {number * 7} ran away. <|im_end|> <think>\n"
    for number in range(200)
]


def train(path: Path, **changes: Any) -> Path:
    """Write a vocabulary with some settings changed; returns its path."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, **(SETTINGS | changes)
    )
    path.write_bytes(model.getvalue())
    return path


@cache
def tiny_tokenizer(model_type: str = "bpe") -> SentencePieceTokenizer:
    """A good one, trained once a session."""
    with tempfile.TemporaryDirectory() as folder:
        return SentencePieceTokenizer(train(Path(folder) / "t.model", model_type=model_type))
