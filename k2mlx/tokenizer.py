"""Text to token ids and back, with the markers of K2's chat envelope held apart from text.

`encode` takes ordinary text and never gives the id of a marker, even for text that spells one: a
user who types `<|im_end|>` types a few harmless tokens. Markers enter a prompt only through
`k2mlx.chat`, which looks them up in `special`. `encode` loses nothing: `decode(encode(text)) ==
text` for every text that is valid Unicode.

Source: the marker names are Kimi K2's (tokenizer_config.json of the released checkpoints).
"""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from k2mlx.errors import RequestError, TokenizerError

SPECIAL_TOKENS = (
    "[PAD]",
    "[UNK]",
    "[BOS]",
    "[EOS]",
    "<|im_end|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_system|>",
    "<|im_middle|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<think>",
    "</think>",
    "[EOT]",
)
"""The markers of our own small models in the order of their ids, which are 0 to 16."""

SPACE_ESCAPE = "\u2581"  # sentencepiece writes a space inside a piece as this character

# Every one of these characters is changed or lost by some normalisation that a tokenizer may have
# been trained with.
PROBE = "  Two  spaces\ttab\r\n\n \ufb01 \uff21 e\u0301 \u00e9 \u3000\u00a0\u2581 \U0001f600 \x00 "


class Tokenizer(ABC):
    """What every tokenizer of k2mlx can do.

    vocab_size: number of ids, markers among them; ids are 0 to vocab_size - 1.
    special: marker text -> id.
    """

    vocab_size: int
    special: dict[str, int]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. No id of `special` is ever among them.

        Raises: RequestError when the text holds a lone surrogate, which no byte sequence stands
        for.
        """

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, perhaps part of a character only; empty for a marker."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the tokens: markers as they are spelled, invalid UTF-8 as U+FFFD."""
        names = {token: marker for marker, token in self.special.items()}
        text, stream = [], ByteStream()
        for token in tokens:
            marker = names.get(token)
            text.append(stream.flush() + marker if marker else stream.push(self.token_bytes(token)))
        return "".join(text) + stream.flush()


class ByteStream:
    """Decode UTF-8 that arrives in pieces: a character appears when its last byte does.

    Bytes that are not UTF-8 become U+FFFD, the same ones wherever the pieces are cut.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """The characters that `data` completes."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left when no more will come: U+FFFD for an unfinished character."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def utf8(text: str) -> bytes:
    """The text's bytes; RequestError on a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"text: got a lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start}, wanted valid Unicode; send the whole character or leave it out"
        ) from error


class ByteTokenizer(Tokenizer):
    """One token a byte, after the markers: needs no file, so tests and tiny models use it."""

    def __init__(self) -> None:
        self.special = {marker: token for token, marker in enumerate(SPECIAL_TOKENS)}
        self.vocab_size = len(SPECIAL_TOKENS) + 256

    def encode(self, text: str) -> list[int]:
        return [len(SPECIAL_TOKENS) + byte for byte in utf8(text)]

    def token_bytes(self, token: int) -> bytes:
        _check_id(token, self.vocab_size)
        return b"" if token < len(SPECIAL_TOKENS) else bytes([token - len(SPECIAL_TOKENS)])


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model whose first ids are SPECIAL_TOKENS and that falls back on bytes.

    Raises: TokenizerError when the file is missing, is no sentencepiece model, has other markers,
    has no byte pieces, or was trained with a normalisation, so that text would not come back as it
    went in.
    """

    def __init__(self, path: str | Path) -> None:
        self._processor = _read_sentencepiece(Path(path))
        self.vocab_size = self._processor.vocab_size()
        self.special = {marker: token for token, marker in enumerate(SPECIAL_TOKENS)}
        self._check_markers(path)
        self._bytes = [self._piece_bytes(token) for token in range(self.vocab_size)]
        self._check_lossless(path)

    def encode(self, text: str) -> list[int]:
        if SPACE_ESCAPE not in text:
            return self._encode(text)
        tokens = self._encode((parts := text.split(SPACE_ESCAPE))[0])
        for part in parts[1:]:
            tokens += self._escape_tokens
            tokens += self._encode(part)
        return tokens

    def token_bytes(self, token: int) -> bytes:
        _check_id(token, self.vocab_size)
        return self._bytes[token]

    def _encode(self, text: str) -> list[int]:
        try:
            return self._processor.encode(text)
        except RuntimeError:
            utf8(text)  # says which character sentencepiece could not take
            raise

    def _piece_bytes(self, token: int) -> bytes:
        if token < len(SPECIAL_TOKENS):
            return b""
        piece = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE_ESCAPE, " ").encode()

    def _check_markers(self, path: str | Path) -> None:
        processor = self._processor
        for token, marker in enumerate(SPECIAL_TOKENS):
            got = processor.id_to_piece(token) if token < self.vocab_size else "nothing"
            if got != marker or not (processor.is_control(token) or processor.is_unknown(token)):
                raise TokenizerError(
                    f"{path}: token {token} is {got!r}, wanted the control symbol {marker!r}; "
                    "train the vocabulary with k2mlx.data.vocabulary"
                )

    def _check_lossless(self, path: str | Path) -> None:
        processor = self._processor
        byte_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if not all(processor.is_byte(token) for token in byte_ids):
            raise TokenizerError(
                f"{path}: got a vocabulary without the 256 byte pieces, wanted byte_fallback=true; "
                "train the vocabulary with k2mlx.data.vocabulary"
            )
        self._escape_tokens = [byte_ids[byte] for byte in SPACE_ESCAPE.encode()]
        if (got := self.decode(self.encode(PROBE))) != PROBE:
            raise TokenizerError(
                f"{path}: {PROBE!r} came back as {got!r}, wanted it unchanged; "
                "train the vocabulary with k2mlx.data.vocabulary, which switches normalisation off"
            )


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder: its `tokenizer.model` in sentencepiece's form.

    Raises: TokenizerError when there is none or k2mlx cannot read its kind.
    """
    folder = Path(folder)
    if (path := folder / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path)
    if (path := folder / "tiktoken.model").is_file():
        raise TokenizerError(
            f"{path}: Kimi's own vocabulary comes in a later version of k2mlx; "
            "this one reads the tokenizer.model of its own small models, such as models/k2-nano"
        )
    raise TokenizerError(
        f"{folder}: found no tokenizer.model; copy the one that the model was trained with"
    )


def _read_sentencepiece(path: Path):
    import sentencepiece

    if not path.is_file():
        raise TokenizerError(f"{path}: no such file; wanted a sentencepiece model")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"{path}: not a sentencepiece model ({path.stat().st_size} bytes); copy the file again"
        ) from error


def _check_id(token: int, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise TokenizerError(
            f"token {token}: wanted an id from 0 to {vocab_size - 1}; "
            "does the tokenizer belong to the model?"
        )
