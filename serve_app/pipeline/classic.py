"""The strategies `basic` and `classic`, of one captioner."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.pipeline import presets
from serve_app.pipeline.committee import Ask
from serve_app.pipeline.context import Context
from serve_app.pipeline.draft import Draft, length_notices, length_of, placed, variant_asks
from serve_app.pipeline.fitting import Kept, shortened
from serve_app.pipeline.language.noise import denoise
from serve_app.pipeline.language.writing import tidied
from serve_app.pipeline.merge import merge
from serve_app.pipeline.refine import accepts_round, added, choose_extension, fill, needs_extension
from serve_app.steps import Extended, Merged
from serve_app.types import Clause, Round, Source, Variant

Pieces = tuple[tuple[str, Source], ...]
"""What a caption is made of, in its order."""


async def basic(context: Context) -> Draft:
    """The checkpoint's unconditional caption: one generate, cleaned."""
    with context.timed("variants"):
        voice = context.voices[0]
        texts = await context.variants("caption", [Ask(voice, "")], context.presets.basic)
    source = Source("variant", 1, voice.name, "")
    return _draft(context, ((texts[0], source),), texts[0], (Variant("", texts[0], captioner=voice.name),))


async def classic(context: Context) -> Draft:
    """The reference algorithm: variants, merge, extension of a short merge, rounds."""
    asks = variant_asks(context)
    with context.timed("variants"):
        texts = await context.variants("variant", asks, context.presets.variant)
    with context.timed("merge"):
        prefix, base = merge(texts)
        best = texts.index(base) if base else 0
        if context.options.tidy:
            prefix = ""
        pieces: Pieces = (
            (prefix.strip(), Source("variant", captioner=asks[best].voice.name)),
            (base, Source("variant", best + 1, asks[best].voice.name, asks[best].prompt)),
        )
        caption = prefix + base
    context.tell(Merged(caption))
    if context.continues and needs_extension(caption):
        with context.timed("extension"):
            caption, pieces = await _extend(context, caption, pieces)
    rounds: list[Round] = []
    with context.timed("rounds"):
        for number in range(2, context.options.rounds + 1 if context.continues else 2):
            text = await _round(context, number, caption)
            if text is None:
                break
            accepted = accepts_round(caption, text)
            rounds.append(Round(number, text, accepted))
            context.tell(rounds[-1])
            if accepted:
                source = Source("round", number, context.voices[0].name, presets.ROUND_PROMPT)
                pieces = _grown(pieces, caption, text, source)
                caption = text
    variants = tuple(Variant(ask.prompt, text, captioner=ask.voice.name) for ask, text in zip(asks, texts, strict=True))
    return _draft(context, pieces, caption, variants, tuple(rounds))


def _draft(
    context: Context, pieces: Pieces, caption: str, variants: tuple[Variant, ...], rounds: tuple[Round, ...] = ()
) -> Draft:
    """The caption as sentences if that is asked for, within the length that was asked for."""
    if context.options.tidy:
        caption, pieces = tidied(caption), tuple((denoise(text), source) for text, source in pieces)
    clauses = placed(caption, pieces)
    if not clauses and caption:
        clauses = placed(caption, [(caption, pieces[-1][1])])
    fits = length_of(context)
    caption, kept, gone = shortened(caption, fits)
    if gone:
        clauses = _clauses_of(caption, kept, clauses)
    return Draft(caption, variants, clauses, rounds, notices=length_notices(gone, fits(caption)))


def _clauses_of(caption: str, kept: Sequence[Kept], whole: Sequence[Clause]) -> tuple[Clause, ...]:
    """The clauses of a shortened caption: each part has the source of the clause that it stood in."""
    found: list[Clause] = []
    for part in kept:
        source = next((each.source for each in whole if each.start <= part.origin < each.end), whole[0].source)
        start = part.start
        if found and found[-1].source == source:
            start = found.pop().start
        found.append(Clause(caption[start : part.end], start, part.end, source))
    return tuple(found)


async def _extend(context: Context, caption: str, pieces: Pieces) -> tuple[str, Pieces]:
    prompts = [fill(prompt, caption) for prompt in presets.EXTENSION_PROMPTS]
    texts = await context.may_generate("extension", context.continuing(prompts), context.presets.extension)
    longer = choose_extension(caption, texts)
    context.tell(Extended(longer or max(texts, key=len, default=""), longer is not None))
    if longer is None:
        return caption, pieces
    best = texts.index(longer)
    return longer, _grown(
        pieces,
        caption,
        longer,
        Source("extension", best + 1, context.voices[0].name, presets.EXTENSION_PROMPTS[best]),
    )


async def _round(context: Context, number: int, caption: str) -> str | None:
    """The caption that the round proposes, or None when it could not run."""
    prompt = fill(presets.ROUND_PROMPT, caption)
    texts = await context.may_generate(f"round {number}", context.continuing([prompt]), context.presets.round)
    return texts[0] if texts and texts[0] else None


def _grown(pieces: Pieces, caption: str, text: str, source: Source) -> Pieces:
    """The pieces of `text`: those of `caption` and what it adds, or one for all when it says everything anew."""
    new = added(caption, text)
    return (*pieces, (new, source)) if new != text else ((text, source),)
