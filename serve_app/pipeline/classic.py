"""The strategies `basic` and `classic`."""

from __future__ import annotations

from serve_app.pipeline import presets
from serve_app.pipeline.context import Context
from serve_app.pipeline.draft import Draft, variant_prompts
from serve_app.pipeline.merge import merge
from serve_app.pipeline.refine import accepts_round, added, choose_extension, fill, needs_extension
from serve_app.steps import Extended, Merged
from serve_app.types import Clause, Round, Variant


async def basic(context: Context) -> Draft:
    """The checkpoint's unconditional caption: one generate, cleaned."""
    with context.timed("variants"):
        texts = await context.variants("caption", [""], context.presets.basic)
    caption = texts[0]
    return Draft(caption, (Variant("", caption),), _clauses((caption, "caption")))


async def classic(context: Context) -> Draft:
    """The reference algorithm: variants, merge, extension of a short merge, rounds."""
    prompts = variant_prompts(context.options)
    with context.timed("variants"):
        texts = await context.variants("variant", prompts, context.presets.variant)
    with context.timed("merge"):
        prefix, base = merge(texts)
        source = f"variant {texts.index(base) + 1}" if base else "variant"
        clauses = _clauses((prefix.strip(), "words of all variants"), (base, source))
        caption = prefix + base
    context.tell(Merged(caption))
    if needs_extension(caption):
        with context.timed("extension"):
            caption, clauses = await _extend(context, caption, clauses)
    rounds: list[Round] = []
    with context.timed("rounds"):
        for number in range(2, context.options.rounds + 1):
            text = await _round(context, number, caption)
            if text is None:
                break
            accepted = accepts_round(caption, text)
            rounds.append(Round(number, text, accepted))
            context.tell(rounds[-1])
            if accepted:
                clauses = _grown(clauses, caption, text, f"round {number}")
                caption = text
    variants = tuple(Variant(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
    return Draft(caption, variants, clauses, tuple(rounds))


async def _extend(context: Context, caption: str, clauses: tuple[Clause, ...]) -> tuple[str, tuple[Clause, ...]]:
    prompts = [fill(prompt, caption) for prompt in presets.EXTENSION_PROMPTS]
    texts = await context.may_generate("extension", prompts, context.presets.extension)
    longer = choose_extension(caption, texts)
    context.tell(Extended(longer or max(texts, key=len, default=""), longer is not None))
    if longer is None:
        return caption, clauses
    return longer, _grown(clauses, caption, longer, f"extension {texts.index(longer) + 1}")


async def _round(context: Context, number: int, caption: str) -> str | None:
    """The caption that the round proposes, or None when it could not run."""
    prompt = fill(presets.ROUND_PROMPT, caption)
    texts = await context.may_generate(f"round {number}", [prompt], context.presets.round)
    return texts[0] if texts and texts[0] else None


def _clauses(*pieces: tuple[str, str]) -> tuple[Clause, ...]:
    return tuple(Clause(text, source) for text, source in pieces if text)


def _grown(clauses: tuple[Clause, ...], caption: str, text: str, source: str) -> tuple[Clause, ...]:
    """The clauses of `text`: those of `caption` and what it adds, or one for all when it says everything anew."""
    new = added(caption, text)
    return (*clauses, Clause(new, source)) if new != text else (Clause(text, source),)
