"""The strategy `grounded`: a statement enters the caption only when the image supports it.

gather: candidates of all variants, read into statements · weigh: each statement by matcher and agreement · choose:
the text that begins the caption, contradictions settled, what is new joins · write: once, with the place of every
statement. Extension and rounds pass the same gate. The matcher is called for the
candidates, for the extension, for answers and for each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from serve_app.errors import PolishFailed
from serve_app.pipeline import presets
from serve_app.pipeline.asking import BY_ROUND, Asking
from serve_app.pipeline.choosing import begun, distinct
from serve_app.pipeline.committee import Ask
from serve_app.pipeline.composition import Composition
from serve_app.pipeline.context import Context
from serve_app.pipeline.draft import Draft, length_notices, length_of, variant_asks
from serve_app.pipeline.fitting import Fitting
from serve_app.pipeline.joining import Joining
from serve_app.pipeline.language.grammar import NEGATIONS
from serve_app.pipeline.language.noise import denoise, says_nothing
from serve_app.pipeline.language.reading import Reading, Statement, places_of
from serve_app.pipeline.language.tokens import tokens, untokenized
from serve_app.pipeline.language.writing import as_sentence, tidied
from serve_app.pipeline.refine import added, fill, needs_extension
from serve_app.pipeline.rendering import Rendering
from serve_app.pipeline.scores import Candidate, Scores
from serve_app.pipeline.settling import Settling
from serve_app.steps import Extended, Merged
from serve_app.types import Clause, Contested, Round, Source, Variant

LONGEST = 3
"""A rewritten caption may have so many times the words."""
SEQUENCES = 3
"""Sequences that each variant returns: the best of its beams, which it has decoded anyway."""
NOTHING_PASSED = "No statement had enough support: the caption is the text that agrees best with the others."
LITTLE = "The model recognises little in this image: no statement is likelier true than false."
LIKELY = 0.5
"""Support from which on a statement is likelier true than false."""


async def grounded(context: Context) -> Draft:
    """Variants, merge, extension of a short merge, rounds, each behind the gate."""
    asked = variant_asks(context)
    scores = context.scores()
    with context.timed("variants"):
        candidates = await _gather(context, asked)
    with context.timed("merge"):
        await _weigh(scores, candidates)
    asking = Asking(context)
    if asking.takes(min(BY_ROUND), scores):
        with context.timed("questions"):
            await asking.verify((each for one in _said(candidates) for each in one.reading.statements), scores)
    with context.timed("merge"):
        state = _merge(candidates, scores)
    context.tell(Merged(state.text))
    if state.composition is not None and context.continues and needs_extension(state.text):
        with context.timed("extension"):
            state = await _extend(context, state, scores)
    rounds: list[Round] = []
    if asking.has_own:
        state = await _ask(context, asking, min(BY_ROUND), state, scores)
    if state.composition is not None and context.options.rounds == 1 and asking.takes(min(BY_ROUND), scores):
        state = await _ask(context, asking, min(BY_ROUND), state, scores)
    for number in range(2, context.options.rounds + 1 if state.composition is not None else 2):
        before = state
        if asks := asking.takes(number, scores):
            state = await _ask(context, asking, number, state, scores)
        if context.continues and (not asks or asking.lost):
            with context.timed("rounds"):
                state = await _round(context, number, state, scores)
        rounds.append(Round(number, state.text, state.text != before.text))
        context.tell(rounds[-1])
        if not rounds[-1].accepted and not (asks and not asking.lost and asking.has_more(state.text)):
            break  # the next round would be asked the same again
    if state.composition is not None:
        state = _fitted(context, state)
        if context.polisher is not None:
            with context.timed("polish"):
                state = await _polished(context, state, scores)
    if scores.loss:
        context.degraded.append(
            f"matcher: {scores.loss.rstrip('.')}; statements were weighed by the variants' agreement."
        )
    best = _best_of_variants(candidates, scores)
    variants = tuple(
        best.get(number, Variant(ask.prompt, "", captioner=ask.voice.name)) for number, ask in enumerate(asked, start=1)
    )
    clauses = state.clauses()
    return Draft(
        state.text,
        variants,
        clauses,
        tuple(rounds),
        state.contested(),
        asking.answers(clauses),
        (*state.notices, *_little(clauses)),
        scores.has_matcher,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """The caption so far; `composition` is None if no variant said anything."""

    composition: Composition | None
    text: str = ""
    notices: tuple[str, ...] = ()
    rewritten: tuple[Clause, ...] | None = None
    """The clauses of a text that was rewritten; None for one that the composition wrote."""

    @classmethod
    def of(cls, composition: Composition, notices: tuple[str, ...] = ()) -> _State:
        return cls(composition, Rendering(composition).text, notices)

    def clauses(self) -> tuple[Clause, ...]:
        if self.composition is None:
            return ()
        if self.rewritten is not None:
            return self.rewritten
        text, stretches = Rendering(self.composition).render()
        return tuple(
            Clause(
                text[each.start : each.end],
                each.start,
                each.end,
                each.mark.source,
                each.mark.statement.text,
                each.mark.score,
                each.mark.statement.kind == "whole",
            )
            for each in stretches
        )

    def contested(self) -> tuple[Contested, ...]:
        return tuple(self.composition.contested) if self.composition is not None else ()


def _little(clauses: Sequence[Clause]) -> tuple[str, ...]:
    """The notice of a caption whose support is low everywhere."""
    return () if any((clause.score or 0.0) > LIKELY for clause in clauses) else (LITTLE,)


async def _gather(context: Context, asks: Sequence[Ask]) -> list[Candidate]:
    """The texts of all variants, each read once."""
    parameters = context.presets.variant
    several = min(SEQUENCES, parameters.num_beams or 1)
    found = await context.sequences("variant", asks, replace(parameters, num_return_sequences=several), ())
    candidates = []
    for number, (ask, sequences) in enumerate(zip(asks, found, strict=True), start=1):
        for sequence in sequences:
            if text := denoise(sequence.text):
                source = Source("variant", number, ask.voice.name, ask.prompt)
                candidates.append(Candidate(context.read(text), source, number, sequence.log_probability))
    return candidates


def _said(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that say anything; the others count in the agreement only."""
    return [candidate for candidate in candidates if not says_nothing(candidate.text)]


async def _weigh(scores: Scores, candidates: Sequence[Candidate]) -> None:
    scores.observe(candidates)
    await scores.learn([*_texts(_said(candidates)), *(candidate.text for candidate in candidates)])


def _texts(candidates: Iterable[Candidate]) -> list[str]:
    return [statement.text for candidate in candidates for statement in candidate.reading.statements]


def _best_of_variants(candidates: Sequence[Candidate], scores: Scores) -> dict[int, Variant]:
    """Each variant's likeliest text with its score; sequences come best first."""
    best: dict[int, Variant] = {}
    for candidate in candidates:
        source = candidate.source
        variant = Variant(source.prompt or "", candidate.text, scores.match(candidate), source.captioner)
        best.setdefault(candidate.variant, variant)
    return best


def _merge(candidates: Sequence[Candidate], scores: Scores) -> _State:
    """What the candidates say; that nothing is to be seen only where nothing else has support."""
    texts = distinct(_said(candidates))
    denial = next((candidate.text for candidate in candidates if says_nothing(candidate.text)), "")
    if denial and not any(scores.passes(each) for one in texts for each in one.reading.statements):
        return _State(None, tidied(denial))
    composition = begun(texts, scores)
    if composition is None:
        return _State(None)
    unsupported = not any(map(scores.stays, composition.reading.statements))
    Settling(composition).settle(texts)
    Rendering(composition).note_said()
    Joining(composition).grow(texts)
    return _State.of(composition, (NOTHING_PASSED,) if unsupported else ())


def _fitted(context: Context, state: _State) -> _State:
    """The state without so much that its text keeps the length that was asked for."""
    assert state.composition is not None
    composition, fits = state.composition.copy(), length_of(context)
    gone = Fitting(composition).fit(fits)
    text = Rendering(composition).text
    notices = (*state.notices, *length_notices(gone, fits(text)))
    return replace(state, composition=composition, text=text, notices=notices)


async def _extend(context: Context, state: _State, scores: Scores) -> _State:
    asks = context.continuing([fill(prompt, _shown(state)) for prompt in presets.EXTENSION_PROMPTS])
    forms = [ask.prompt for ask in context.continuing(presets.EXTENSION_PROMPTS)]
    texts = await context.may_generate("extension", asks, context.presets.extension)
    sources = [
        Source("extension", number, ask.voice.name, form)
        for number, (ask, form) in enumerate(zip(asks, forms, strict=True), start=1)
    ]
    grown = await _grow(context, state, texts, sources, scores)
    context.tell(Extended(grown.text, grown.text != state.text))
    return grown


async def _round(context: Context, number: int, state: _State, scores: Scores) -> _State:
    asks = context.continuing([fill(presets.ROUND_PROMPT, _shown(state))])
    texts = await context.may_generate(f"round {number}", asks, context.presets.round)
    sources = [Source("round", number, ask.voice.name, presets.ROUND_PROMPT) for ask in asks]
    return await _grow(context, state, texts, sources, scores)


async def _ask(context: Context, asking: Asking, number: int, state: _State, scores: Scores) -> _State:
    with context.timed("questions"):
        return await _join(state, await asking.candidates(number, state.text, scores), scores)


def _shown(state: _State) -> str:
    """The caption as a prompt shows it."""
    return state.text.rstrip(" .")


async def _grow(
    context: Context, state: _State, texts: Sequence[str], sources: Sequence[Source], scores: Scores
) -> _State:
    """The state with those statements of the texts that pass the gate; its text is the same if none does."""
    found = []
    for text, source in zip(texts, sources, strict=False):
        said = untokenized(tokens(text))  # as the caption is written: "t-shirt" where a decoder puts "t - shirt"
        rest = denoise(added(_shown(state), said))
        if rest:
            found.append(Candidate(context.read(rest), source))
    return await _join(state, found, scores)


async def _join(state: _State, found: Sequence[Candidate], scores: Scores) -> _State:
    """The state with what is supported of the candidates."""
    if state.composition is None or not found:
        return state
    await scores.learn(_texts(found))
    grown = state.composition.copy()
    Joining(grown).grow(found)
    return replace(state, composition=grown, text=Rendering(grown).text)


async def _polished(context: Context, state: _State, scores: Scores) -> _State:
    """The state with its text rewritten if that passes the gate that its statements passed, else unchanged."""
    assert context.polisher is not None
    assert state.composition is not None
    try:
        rewritten = await context.polisher.polish(state.text, state.clauses(), context.remaining_s)
    except PolishFailed as error:
        context.degraded.append(f"polish: {error.message}.")
        return state
    rewritten = as_sentence(rewritten)
    if len(rewritten.split()) > LONGEST * len(state.text.split()) or not length_of(context)(rewritten):
        context.degraded.append("polish: the rewritten text was too long.")
        return state
    reading = context.read(rewritten)
    await scores.learn(statement.text for statement in reading.statements)
    fault = _fault(state, reading, scores)
    if fault:
        context.degraded.append(f"polish: the rewritten text {fault}.")
        return state
    return replace(state, text=rewritten, rewritten=_traced(rewritten, reading, state, scores))


def _fault(state: _State, reading: Reading, scores: Scores) -> str:
    """What is wrong with a rewritten text; empty if nothing is."""
    assert state.composition is not None
    if not state.composition.names <= reading.content:
        return "left something out"
    new = reading.content - state.composition.said
    if new and (not scores.has_matcher or new & NEGATIONS):
        return "said what the image does not support"
    supported = all(map(scores.stays, reading.statements))
    return "" if supported and reading.statements else "said what the image does not support"


def _traced(text: str, reading: Reading, state: _State, scores: Scores) -> tuple[Clause, ...]:
    """The clauses of a rewritten text, each with the source of that statement of the caption that says most of it."""
    assert state.composition is not None
    marks = [each.mark for each in Rendering(state.composition).render()[1]]

    def source(statement: Statement) -> Source:
        best = max(marks, key=lambda mark: len(mark.statement.words & statement.words), default=None)
        return best.source if best is not None else Source("variant")

    sources = [source(statement) for statement in reading.statements]
    return tuple(
        Clause(
            text[start:end],
            start,
            end,
            sources[number],
            reading.statements[number].text,
            scores.of(reading.statements[number]),
            reading.statements[number].kind == "whole",
        )
        for start, end, number in places_of(text, reading)
    )
