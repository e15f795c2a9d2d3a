"""The word list of the embedded model and its BERT tokenizer."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path

from transformers import BertTokenizer

from lab import captions
from lab.backgrounds import BACKGROUNDS
from lab.objects import COLORS, KINDS
from serve_app.pipeline import presets

PAD, UNKNOWN, START, END, MASK, DECODE = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")

_GRAMMAR = """
a an and two three four five six large small in the top bottom left right center at together with nothing else around it
to be seen where is are all alone front of viewer fills rest picture on side while both this plus upper lower half one
what sees before under image shows above below stands that i know
"""

_TASK_WORDS = """
also there they it has here scene picture how many yes no none zero any which kind object objects thing
things size does do can you see something anything color unknown stand
"""
"""Words that only the matcher's texts and the questions need; they follow those of the captioner."""

_CHARACTERS = string.ascii_lowercase + string.digits


def _words() -> Iterator[str]:
    for prompt in (*presets.VARIANT_PROMPTS, *presets.EXTENSION_PROMPTS, presets.ROUND_PROMPT, *captions.PLAIN_PROMPTS):
        yield from re.findall("[a-z]+", prompt.replace("{caption}", "").lower())
    yield from _GRAMMAR.split()
    for background in BACKGROUNDS:
        yield from f"{background.name} {background.phrase}".split()
    yield from COLORS
    for kind in KINDS:
        yield kind.noun
        if kind.plural not in (kind.noun + "s", kind.noun + "es"):
            yield kind.plural


def words(for_tasks: bool = False) -> list[str]:
    """All tokens in the order of their ids. Single characters keep every ASCII word representable.

    `for_tasks` appends the words that matching and questions need beyond captions.
    """
    pieces = [*_CHARACTERS, *(f"##{c}" for c in _CHARACTERS), "##es", *string.punctuation]
    return list(dict.fromkeys((*SPECIAL, *pieces, *_words(), *(_TASK_WORDS.split() if for_tasks else ()))))


def write_tokenizer(directory: Path, for_tasks: bool = False) -> BertTokenizer:
    """Writes the tokenizer's files into `directory` and returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizer(
        vocab={word: index for index, word in enumerate(words(for_tasks))},
        do_lower_case=True,
        model_max_length=512,
        bos_token=DECODE,
    )
    tokenizer.save_pretrained(str(directory))
    return tokenizer
