"""How well an image supports a text: by a Matcher and the agreement of the variants, or by the latter alone."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from serve_app.errors import PromptTooLong, ServiceError
from serve_app.pipeline.clauses import Phrase, split
from serve_app.pipeline.words import NUMBERS, content
from serve_app.types import Generated, GenerationParameters, Matcher, Pixels

PATIENCE_S = 15.0
"""How long a caption waits for a matcher that may be gone; captions can do without it."""
MAX_TEXTS = 96
"""Most texts of one matcher call; a request's steps stay far below it."""


_LEAST = 0.02
"""Match scores nearer to 0 or 1 count as this near."""
UNLIKELY = -1.0
"""Log-probability a token of what no text says; lower ones count as this."""


@dataclass(frozen=True, slots=True)
class Floors:
    """The support that a clause needs, with a matcher and without one, and how far a caption's match score may fall.

    Chosen on further scenes of the calibration's stream: the lowest with less than 1 % of wrong objects.
    """

    thing: float = 0.6
    """For a clause that only names something; a name is worth more than where it is."""
    fact: float = 0.78
    """For one that says more of it: where it is, what it does."""
    thing_alone: float = 0.4
    fact_alone: float = 0.7
    """The same without a matcher."""
    fall: float = 0.4


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the logistic regression that makes support of what is known of a clause.

    `match`: the log-odds of its match score. `named` and `said`: the shares of the variants' texts, each weighed by its
    probability, that name what the clause is about, and that have the rarest of all its words. `likely`: the
    log-probability a token of the likeliest text that has them all.
    """

    bias: float
    match: float
    named: float
    said: float
    likely: float


WITH_MATCHER = Weights(bias=-3.24, match=0.65, named=4.2, said=1.39, likely=-0.12)
WITHOUT_MATCHER = Weights(bias=-2.15, match=0.0, named=3.27, said=2.58, likely=0.54)
"""Fitted by `python -m demo.calibrate` to clauses of scenes of a stream of their own, the former with a matcher of
middling skill: a fit to one that is hardly ever wrong lets agreement outweigh a match score near 0."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cleaned text of a variant. `variant` counts from 1; `log_probability` is that of the sequence, a token."""

    text: str
    variant: int
    log_probability: float | None = None


def per_token(outcome: Generated, parameters: GenerationParameters) -> float | None:
    """The sequence's log-probability a token.

    A beam score is the sum over the tokens divided by their number to the power of `length_penalty`.
    """
    if outcome.log_probability is None or not outcome.tokens:
        return None
    penalty = 1.0 if parameters.length_penalty is None else parameters.length_penalty
    return float(outcome.log_probability * outcome.tokens ** (penalty - 1))


@dataclass(frozen=True)
class Agreement:
    """What the variants' texts say together."""

    candidates: tuple[Candidate, ...] = ()

    def features(self, text: str) -> tuple[float, float, float]:
        """(named, said, likely): shares of the variants, and the best log-probability of a text that says it all."""
        words = content(text)
        subjects = _subjects(text) & words or words
        if not words or not self.candidates:
            return 0.0, 0.0, UNLIKELY
        shares = dict.fromkeys(words, 0.0)
        likely = UNLIKELY
        for said, log_probability, weight in self._said:
            for word in words & said:
                shares[word] += weight
            if words <= said and log_probability is not None:
                likely = max(likely, log_probability)
        return min(shares[word] for word in subjects), min(shares.values()), likely

    @cached_property
    def _said(self) -> list[tuple[frozenset[str], float | None, float]]:
        """Each candidate's words, log-probability and weight.

        All variants weigh the same, the texts of one by their probabilities.
        """
        by_variant: dict[int, list[tuple[Candidate, float]]] = {}
        for candidate in self.candidates:
            tokens = len(candidate.text.split()) + 1  # about as many, with the end
            probability = math.exp(max((candidate.log_probability or 0.0) * tokens, -50.0))
            by_variant.setdefault(candidate.variant, []).append((candidate, probability))
        return [
            (
                content(candidate.text),
                candidate.log_probability,
                probability / sum(other for _, other in found) / len(by_variant),
            )
            for found in by_variant.values()
            for candidate, probability in found
        ]


def _subjects(text: str) -> frozenset[str]:
    """What the clauses of a text are about: nouns, and how many of them."""
    phrases = split(text)
    heads = {phrase.head for phrase in phrases if phrase.head}
    return frozenset(heads | {word for phrase in phrases for word in phrase.subject if word in NUMBERS})


def support(weights: Weights, match: float | None, features: tuple[float, float, float]) -> float:
    """The probability that a clause is true; `match` is its match score where there is one."""
    odds = 0.0 if match is None else math.log(max(match, _LEAST) / max(1 - match, _LEAST))
    named, said, likely = features
    sum_ = weights.bias + weights.match * odds + weights.named * named + weights.said * said + weights.likely * likely
    # Rounded, since a match score may differ in its eighth place by the other texts of its batch.
    return round(1 / (1 + math.exp(-sum_)), 4)


class Scores:
    """The scores of one request, each text asked for once.

    A matcher that fails is not asked again; from then on agreement stands in, and `loss` says why.
    """

    def __init__(self, matcher: Matcher | None, pixels: Pixels, deadline: float, floors: Floors) -> None:
        """`deadline` on the monotonic clock."""
        self.loss = "" if matcher is not None else "no matcher is deployed"
        self.calls = 0
        self._matcher = matcher
        self._pixels = pixels
        self._deadline = deadline
        self._floors = floors
        self._agreement = Agreement()
        self._known: dict[str, float] = {}

    @property
    def fall(self) -> float:
        return self._floors.fall

    @property
    def judges_wholes(self) -> bool:
        """Whether a whole caption's score says more than its clauses' scores."""
        return self._matcher is not None

    def observe(self, candidates: Sequence[Candidate]) -> None:
        """Texts that agreement counts."""
        self._agreement = Agreement((*self._agreement.candidates, *candidates))

    async def learn(self, texts: Sequence[str]) -> None:
        """Scores the texts that are not known yet, in one call as long as they are no more than `MAX_TEXTS`."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self._known]
        for start in range(0, len(new), MAX_TEXTS):
            await self._ask(new[start : start + MAX_TEXTS])

    async def _ask(self, texts: Sequence[str]) -> None:
        if self._matcher is None:
            return
        self.calls += 1
        try:
            left = max(0.0, self._deadline - time.monotonic())
            found = await self._matcher.match(self._pixels, texts, min(left, PATIENCE_S))
        except PromptTooLong:  # of one of them, which supports nothing; no loss of the matcher
            if len(texts) == 1:
                self._known[texts[0]] = 0.0
            else:
                for text in texts:
                    await self._ask([text])
            return
        except ServiceError as error:
            self.loss = error.message
            self._matcher = None
            return
        self._known.update(zip(texts, (match.probability for match in found), strict=True))

    def of(self, text: str) -> float:
        """The support of a clause that was learned: the probability that it is true."""
        match, features = self._known.get(text), self._agreement.features(text)
        if match is None and self._matcher is not None:
            return 0.0
        return support(WITHOUT_MATCHER if match is None else WITH_MATCHER, match, features)

    def match(self, text: str) -> float:
        """The match score of a whole text that was learned; its support where no matcher knows it."""
        known = self._known.get(text)
        return self.of(text) if known is None else known

    def passes(self, phrase: Phrase) -> bool:
        """Whether a clause that was learned has the support that one of its kind needs."""
        floors = self._floors
        if self._matcher is None:
            floor = floors.fact_alone if phrase.predicate else floors.thing_alone
        else:
            floor = floors.fact if phrase.predicate else floors.thing
        return self.of(phrase.text) >= floor
