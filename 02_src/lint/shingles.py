"""Rows as sets of word pairs, and MinHash signatures that find alike ones without comparing all.

The hashes depend on the words alone, so two runs find the same rows.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

Texts = tuple[str, ...]
HASHES, BANDS = 40, 8  # two rows 0.85 alike meet in one of 8 bands of 5 with 99 %
CHUNK_WORDS = 20_000  # rows are signed in chunks of about this size, which stay in the cache
ODD = np.random.default_rng(2024).integers(0, 2**63, HASHES, dtype=np.uint64) * 2 + 1
SCRAMBLE = np.uint64(0x9E3779B97F4A7C15)
HALF, LARGEST = np.uint64(32), np.uint64(2**32 - 1)


class WordHashes(dict):
    """Words as 64-bit numbers, each hashed once; hash() would differ from run to run."""

    def __init__(self, salt: str = "") -> None:
        super().__init__()
        self.salt = salt

    def __missing__(self, word: str) -> int:
        data = f"{self.salt} {word}".encode()
        self[word] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
        return self[word]


def hash_pairs(words: np.ndarray) -> np.ndarray:
    """Hashes of all neighbouring words: [W] -> [W - 1]."""
    pairs = (words[:-1] * SCRAMBLE ^ words[1:]) * SCRAMBLE
    return pairs ^ (pairs >> np.uint64(29))


def collect_pairs(texts: Texts) -> set[int]:
    """All pairs of neighbouring words, with the number of their text; a mark begins each text.

    As hash() values: good for comparing within one process, and four times as fast as the words.
    """
    pairs: set[int] = set()
    for number, text in enumerate(texts):
        words = text.split()
        pairs.update(map(hash, zip([number] * len(words), ["", *words], words, strict=False)))
    return pairs


def compare_sets(first: set, second: set) -> float:
    """Jaccard similarity: shared elements over all elements."""
    shared = len(first & second)
    return shared / max(len(first) + len(second) - shared, 1)


def sign_rows(rows: Iterable[Texts]) -> np.ndarray:
    """MinHash signatures of the rows' word pairs: [N, HASHES] uint32."""
    return np.concatenate([sign_chunk(words, starts) for words, starts in cut_chunks(rows)])


def cut_chunks(rows: Iterable[Texts]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(hashed words [W], where each row starts [R]); equal words of two texts hash apart."""
    tables: dict[int, WordHashes] = {}
    words: list[int] = []
    starts: list[int] = []
    for texts in rows:
        starts.append(len(words))
        for number, text in enumerate(texts):
            table = tables.setdefault(number, WordHashes(str(number)))
            words += [table[word] for word in ("", *text.split())]
        if len(words) >= CHUNK_WORDS:
            yield np.array(words, dtype=np.uint64), np.array(starts)
            words, starts = [], []
    if words:
        yield np.array(words, dtype=np.uint64), np.array(starts)


def sign_chunk(words: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Signatures of some rows, each at least two words: [W], [R] -> [R, HASHES] uint32."""
    pairs = hash_pairs(words)
    across = starts[1:] - 1  # one row's last word with the next one's first belongs to neither
    signatures = np.empty((len(starts), HASHES), dtype=np.uint32)
    for index, odd in enumerate(ODD):
        values = (pairs * odd) >> HALF
        values[across] = LARGEST
        signatures[:, index] = np.minimum.reduceat(values, starts)
    return signatures


def fold_bands(signatures: np.ndarray) -> np.ndarray:
    """One number per row and band: [N, HASHES] -> [N, BANDS] uint64."""
    bands = signatures.reshape(len(signatures), BANDS, HASHES // BANDS).astype(np.uint64)
    keys = np.zeros(bands.shape[:2], dtype=np.uint64)
    for index in range(bands.shape[2]):
        keys = (keys ^ bands[:, :, index]) * SCRAMBLE
        keys ^= keys >> np.uint64(31)
    return keys
