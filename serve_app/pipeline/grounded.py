"""The strategy `grounded`: a clause enters the caption only when the image supports it.

Every clause of every candidate is scored against the image; the best candidate begins the caption, and a clause of
another joins it when it says something new, its own score passes the floor, and the caption's score does not fall.
Extension and rounds pass the same gate. A request makes a handful of matcher calls: one for all candidates and their
clauses, one or two for the merge, one for the extension and for each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from serve_app.errors import PolishFailed
from serve_app.pipeline import presets
from serve_app.pipeline.clauses import Phrase, split
from serve_app.pipeline.compose import Addition, Composition, additions, continuation
from serve_app.pipeline.context import Context
from serve_app.pipeline.draft import Draft, variant_prompts
from serve_app.pipeline.noise import denoise
from serve_app.pipeline.refine import added, fill, needs_extension
from serve_app.pipeline.scores import Candidate, Scores
from serve_app.pipeline.words import content, joined, tokens, untokenized
from serve_app.steps import Extended, Merged
from serve_app.types import Clause, Polisher, Round, Source, Variant

SEQUENCES = 3
"""Sequences that each variant returns: the best of its beams, which it has decoded anyway."""
MAX_ADDITIONS = 24
"""Most clauses that one step weighs."""
PARSELESS_FLOOR = 0.8
"""Support that a candidate needs in which no clause was found."""
LONGEST = 3
"""A rewritten caption may have so many times the words."""


async def grounded(context: Context) -> Draft:
    """Variants, merge, extension of a short merge, rounds, each behind the gate."""
    prompts = variant_prompts(context.options)
    scores = context.scores()
    with context.timed("variants"):
        parameters = context.presets.variant
        several = min(SEQUENCES, parameters.num_beams or 1)
        found = await context.sequences("variant", prompts, replace(parameters, num_return_sequences=several))
    candidates = [
        Candidate(text, number, sequence.log_probability)
        for number, sequences in enumerate(found, start=1)
        for sequence in sequences
        if (text := denoise(sequence.text))
    ]
    scores.observe(candidates)
    with context.timed("merge"):
        state = await _merge(candidates, scores)
    context.tell(Merged(state.composition.text))
    if needs_extension(state.composition.text) and state.composition.first:
        with context.timed("extension"):
            state = await _extend(context, state, scores)
    rounds: list[Round] = []
    with context.timed("rounds"):
        for number in range(2, context.options.rounds + 1 if state.composition.first else 2):
            before, shown = state, state.composition.prompt
            state = await _round(context, number, state, scores)
            rounds.append(Round(number, state.composition.text, state is not before))
            context.tell(rounds[-1])
            if state is before or state.composition.prompt == shown:
                break  # the next round would be asked the same again
    text = state.composition.text
    clauses = state.clauses(scores)
    if context.polisher is not None and text:
        with context.timed("polish"):
            text = await _polished(context, context.polisher, text, clauses, scores)
    if scores.loss:
        context.degraded.append(f"matcher: {scores.loss.rstrip('.')}; clauses were weighed by the variants' agreement.")
    best = _best_of_variants(candidates, scores)
    variants = tuple(Variant(prompt, *best.get(number, ("", None))) for number, prompt in enumerate(prompts, start=1))
    return Draft(text, variants, clauses, tuple(rounds))


@dataclass(frozen=True, slots=True)
class _State:
    """The caption so far, and the clauses of its first sentence with the candidate that they came from."""

    composition: Composition
    source: str

    def clauses(self, scores: Scores) -> tuple[Clause, ...]:
        pieces = [(text, self.source, scores.of(text)) for text in _clause_texts(self.composition.first)]
        pieces += [(each.text.strip(" ,"), each.source, _score(each, scores)) for each in self.composition.additions]
        found, end, caption = [], 0, self.composition.text
        for text, source, score in pieces:
            start = caption.lower().find(text.lower(), end)
            if start >= 0:
                end = start + len(text)
                kind, _, index = source.partition(" ")
                where = Source(kind, int(index) if index else None)  # type: ignore[arg-type]
                found.append(Clause(caption[start:end], start, end, where, text, score))
        return tuple(found)


def _clause_texts(text: str) -> list[str]:
    phrases = [phrase.text for phrase in split(text)]
    return phrases or ([text] if text else [])


def _score(addition: Addition, scores: Scores) -> float:
    return min((scores.of(phrase.text) for phrase in addition.scored), default=scores.of(addition.text))


def _passes(addition: Addition, scores: Scores) -> bool:
    return all(map(scores.passes, addition.scored))


def _best_of_variants(candidates: Sequence[Candidate], scores: Scores) -> dict[int, tuple[str, float]]:
    """Each variant's likeliest text with its score; sequences come best first."""
    best: dict[int, tuple[str, float]] = {}
    for candidate in candidates:
        best.setdefault(candidate.variant, (candidate.text, scores.match(candidate.text)))
    return best


async def _merge(candidates: Sequence[Candidate], scores: Scores) -> _State:
    distinct = _distinct(candidates)
    phrases = {candidate.text: split(candidate.text) for candidate in distinct}
    await scores.learn(
        [
            *(candidate.text for candidate in distinct),
            *(form.text for found in phrases.values() for phrase in found for form in (phrase, phrase.bare)),
        ]
    )
    if not distinct:
        return _State(Composition(""), "variant")
    ranked = sorted(distinct, key=lambda candidate: -scores.match(candidate.text))
    base, first = _first_sentence(ranked, phrases, scores)
    state = _State(Composition(first), f"variant {base.variant}")
    proposals = [
        addition
        for candidate in ranked
        for addition in additions(phrases[candidate.text], f"variant {candidate.variant}", state.composition)
    ]
    return replace(state, composition=await _gate(state.composition, proposals, scores))


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate of those that say the same in the same words, whatever their order."""
    by_words: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        by_words.setdefault(tuple(sorted(candidate.text.lower().replace(",", "").split())), candidate)
    return list(by_words.values())


def _first_sentence(
    ranked: Sequence[Candidate], phrases: dict[str, list[Phrase]], scores: Scores
) -> tuple[Candidate, str]:
    """The candidate that begins the caption, with the clauses that fail taken out of it.

    Of the candidates whose clauses all pass it is the one that says most, of equals the one with the best score.
    """

    def sound(candidate: Candidate) -> bool:
        found = phrases[candidate.text]
        if not found:
            return scores.of(candidate.text) >= PARSELESS_FLOOR
        return all(map(scores.passes, found))

    whole = [candidate for candidate in ranked if sound(candidate)]
    if whole:
        best = max(whole, key=lambda candidate: len(content(candidate.text)))
        return best, best.text
    for candidate in ranked:
        kept = [form for phrase in phrases[candidate.text] if (form := _passing_form(phrase, scores)) is not None]
        if kept:
            return candidate, joined([form.text for form in kept])
    return ranked[0], ranked[0].text


def _passing_form(phrase: Phrase, scores: Scores) -> Phrase | None:
    """The clause, or else the thing that it names, if that passes."""
    if phrase.leans or not phrase.subject:
        return None
    forms = (phrase, phrase.bare) if not phrase.definite else (phrase,)
    return next((form for form in forms if scores.passes(form)), None)


async def _gate(composition: Composition, proposals: Sequence[Addition], scores: Scores) -> Composition:
    """The composition with those proposals that are new, pass the floor, and leave the caption's score standing."""
    await scores.learn([phrase.text for addition in proposals for phrase in addition.scored])
    passing = [addition for addition in proposals if _passes(addition, scores)]
    passing.sort(key=lambda addition: (-len(addition.claims), -_score(addition, scores)))
    passing = passing[:MAX_ADDITIONS]
    if scores.judges_wholes:
        grown = {addition: composition.plus(addition).text for addition in passing}
        await scores.learn([composition.text, *grown.values()])
        least = scores.match(composition.text) - scores.fall
        passing = [addition for addition in passing if scores.match(grown[addition]) >= least]
    return await _standing(composition, _together(composition, passing), scores)


def _together(composition: Composition, passing: Sequence[Addition]) -> Composition:
    """All that still say something new when those before them have joined."""
    for addition in passing:
        if addition.kind == "continuation":
            again = continuation(addition.text, addition.source, composition)
            composition = composition.plus(addition) if again else composition
        else:
            known = additions([addition.phrase], addition.source, composition)
            if any(other.kind == addition.kind for other in known):
                composition = composition.plus(addition)
    return composition


async def _standing(before: Composition, after: Composition, scores: Scores) -> Composition:
    """`after`, or what is left of it when its weakest additions are dropped until its score is not below `before`'s."""
    if not scores.judges_wholes or after == before:
        return after
    fewer = [after]
    joined_now = [addition for addition in after.additions if addition not in before.additions]
    for addition in sorted(joined_now, key=lambda addition: _score(addition, scores)):
        fewer.append(fewer[-1].without(addition))
    await scores.learn([composition.text for composition in fewer])
    least = scores.match(before.text) - scores.fall
    return next((composition for composition in fewer if scores.match(composition.text) >= least), before)


async def _extend(context: Context, state: _State, scores: Scores) -> _State:
    prompts = [fill(prompt, state.composition.prompt) for prompt in presets.EXTENSION_PROMPTS]
    texts = await context.may_generate("extension", prompts, context.presets.extension)
    sources = [f"extension {number}" for number in range(1, len(texts) + 1)]
    grown = await _grow(state, texts, sources, scores)
    context.tell(Extended(grown.composition.text, grown is not state))
    return grown


async def _round(context: Context, number: int, state: _State, scores: Scores) -> _State:
    name = f"round {number}"
    prompt = fill(presets.ROUND_PROMPT, state.composition.prompt)
    texts = await context.may_generate(name, [prompt], context.presets.round)
    return await _grow(state, texts, [name], scores)


async def _polished(context: Context, polisher: Polisher, text: str, clauses: Sequence[Clause], scores: Scores) -> str:
    """The rewritten text where it passes the gate that its clauses passed; else the text as it is."""
    try:
        rewritten = await polisher.polish(text, clauses, context.remaining_s)
    except PolishFailed as error:
        context.degraded.append(f"polish: {error.message}.")
        return text
    phrases = [phrase for phrase in split(denoise(rewritten)) if not phrase.leans]
    if len(rewritten.split()) > LONGEST * len(text.split()):
        context.degraded.append("polish: the rewritten text was too long.")
        return text
    await scores.learn([text, rewritten, *(phrase.text for phrase in phrases)])
    whole = not scores.judges_wholes or scores.match(rewritten) >= scores.match(text) - scores.fall
    if any(phrase.head not in content(rewritten) for phrase in split(text) if phrase.head):
        context.degraded.append("polish: the rewritten text left something out.")
        return text
    new = content(rewritten) - content(text)
    said = phrases and all(map(scores.passes, phrases))
    if whole and said and (scores.judges_wholes or not new):
        return rewritten
    context.degraded.append("polish: the rewritten text said what the image does not support.")
    return text


async def _grow(state: _State, texts: Sequence[str], sources: Sequence[str], scores: Scores) -> _State:
    """The state with what passes of each text's continuation: whole where all of it passes, else clause by clause."""
    shown = state.composition.prompt
    wholes: list[Addition] = []
    pieces: list[Addition] = []
    for text, source in zip(texts, sources, strict=False):
        plain = untokenized(tokens(text))  # as `shown` is written: "t-shirt" where a decoder puts "t - shirt"
        rest = added(shown, plain)
        continues, rest = rest != plain, denoise(rest)
        if not rest:
            continue
        if continues and (whole := continuation(rest, source, state.composition)) is not None:
            wholes.append(whole)
        pieces += additions(split(rest), source, state.composition)
    grown = await _gate(state.composition, wholes[:1], scores)
    if grown == state.composition:
        grown = await _gate(state.composition, pieces, scores)
    return state if grown == state.composition else replace(state, composition=grown)
