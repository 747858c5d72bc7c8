"""The closed vocabulary of the demo model: special tokens, then words, in a fixed order."""

from __future__ import annotations

__all__ = [
    "COLORS",
    "COLUMNS",
    "COUNTS",
    "FIRST_WORD",
    "PLURALS",
    "ROWS",
    "SHAPES",
    "SIZES",
    "SPECIAL_TOKENS",
    "UNKNOWN_TOKEN",
    "WORDS",
    "WORD_IDS",
    "token_id",
]

UNKNOWN_TOKEN = "<unk>"
SPECIAL_TOKENS = (
    UNKNOWN_TOKEN,
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

SIZES = ("small", "big")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
PLURALS = ("circles", "squares", "triangles", "diamonds", "crosses", "rings")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
COUNTS = ("zero", "one", "two", "three", "four")

_OTHER = (
    *("user", "assistant", "system", ",", ".", "?", ":"),
    *("a", "the", "is", "are", "at", "of", "or", "there", "what", "where", "how", "many"),
    *("color", "shape", "object", "objects", "yes", "no", "nothing", "above", "below"),
    *("describe", "list", "image"),
)

WORDS = (*SIZES, *COLORS, *SHAPES, *PLURALS, *ROWS, *COLUMNS, *COUNTS, *_OTHER)
"""Every word the demo data uses; a word's place is its *word id*."""

WORD_IDS = {word: place for place, word in enumerate(WORDS)}

FIRST_WORD = len(SPECIAL_TOKENS)
"""Token id of the first word: ``token id = word id + FIRST_WORD``."""


def token_id(token: str) -> int:
    """Token id of a special token or a word; ``KeyError`` for anything else."""
    if token in SPECIAL_TOKENS:
        return SPECIAL_TOKENS.index(token)
    return WORD_IDS[token] + FIRST_WORD
