"""A tokenizer that knows many ways to write a text, and a model's choice among them."""

from random import Random

from k2mlx.tokenizer import ByteTokenizer


def _pieces() -> list[bytes]:
    letters = b'abe{}"1 :,ftunco.'
    pairs = [bytes([a, b]) for a in letters for b in letters]
    return [*pairs, b"functions", b"echo", b'{"text": "', "é".encode()]


class SplitTokenizer(ByteTokenizer):
    """ByteTokenizer with some hundred longer tokens; `encode` takes the longest that fits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.vocab_size
        self.pieces = _pieces()
        self.known = {piece: self.first + i for i, piece in enumerate(self.pieces)}
        self.vocab_size += len(self.pieces)

    def encode(self, text: str) -> list[int]:
        return self._split(text, max)

    def token_bytes(self, token: int) -> bytes:
        return (
            self.pieces[token - self.first] if token >= self.first else super().token_bytes(token)
        )

    def _split(self, text, choose) -> list[int]:
        data, ids = text.encode(), []
        while data:
            fitting = [n for n in range(1, 11) if n == 1 or data[:n] in self.known]
            size = choose([n for n in fitting if n <= len(data)])
            ids.append(self.known.get(data[:size], 17 + data[0]))
            data = data[size:]
        return ids


def random_split(text: str, tokenizer: SplitTokenizer, random: Random) -> list[int]:
    """Tokens that spell the text, as a model might sample them."""
    return tokenizer._split(text, random.choice)
