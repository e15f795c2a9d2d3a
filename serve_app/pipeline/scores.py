"""How well an image supports a statement: by a Matcher and the agreement of the variants, or by the latter alone."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from serve_app.deadline import Deadline
from serve_app.errors import DeadlineExceeded, PromptTooLong, ServiceError
from serve_app.pipeline.language.kinds import kinds_of
from serve_app.pipeline.language.reading import Reading, Statement
from serve_app.types import Generated, GenerationParameters, Matcher, Pixels, Source

PATIENCE_S = 15.0
"""How long a caption waits for a matcher that may be gone; captions can do without it."""
MAX_TEXTS = 96
"""Most texts of one matcher call."""
UNLIKELY = -1.0
"""Mean log-probability per token that stands for what no text says; lower ones count as this."""
LEAST = 0.02
"""Probabilities nearer to 0 or 1 count as this near."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the regression that makes support, and the floors that hold for it, as in `support.toml`."""

    bias: float
    match: float
    named: float
    said: float
    likely: float
    thing: float
    fact: float
    keep: float
    margin: float
    answer: float = 0.0
    yes: float = 0.0
    voices: float = 0.0


@dataclass(frozen=True, slots=True)
class Support:
    """The weights with a matcher and without one; with a matcher, those of what a model answered, and of what it was
    asked back."""

    matched: Weights
    alone: Weights
    answered: Weights
    confirmed: Weights
    several: Support | None = None
    """Those with several captioners, if they are others."""

    @classmethod
    def of(cls, matcher: str | None = None, captioner: str | None = None) -> Support:
        """Those of the models of these names; the defaults if none are known for one."""
        known, default = _known(), _known()["default"]
        beside, behind = known.get(matcher or "", default), known.get(captioner or "", default)
        one = cls(
            Weights(**beside["matched"]),
            Weights(**behind["alone"]),
            Weights(**beside.get("answered", default["answered"])),
            Weights(**beside.get("confirmed", default["confirmed"])),
        )
        together: dict[str, Any] = {
            name: Weights(**found) for name in _BESIDE if (found := beside.get("several", {}).get(name))
        }
        if found := behind.get("several", {}).get("alone"):
            together["alone"] = Weights(**found)
        return replace(one, several=replace(one, **together))

    def behind(self, captioners: int) -> Support:
        """Those with so many captioners."""
        return self.several or self if captioners > 1 else self

    def with_floor(self, floor: float) -> Support:
        """The same with one floor for everything that a matcher weighs."""
        floors = {"thing": floor, "fact": floor, "keep": floor}
        changed: dict[str, Any] = {name: replace(getattr(self, name), **floors) for name in _BESIDE}
        return replace(self, **changed, several=self.several and self.several.with_floor(floor))


_BESIDE = ("matched", "answered", "confirmed")
"""Weights that belong to a matcher."""


@cache
def _known() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads((files(__package__) / "support.toml").read_text(encoding="utf-8"))


FEATURES = ("match", "named", "said", "likely", "voices")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may give statements. `variant` counts from 1 and is 0 for extensions and rounds, which have no say in
    agreement; `log_probability` is the sequence's mean per token."""

    reading: Reading
    source: Source
    variant: int = 0
    log_probability: float | None = None

    @property
    def text(self) -> str:
        return self.reading.text


def per_token(outcome: Generated, parameters: GenerationParameters) -> float | None:
    """The sequence's mean log-probability per token.

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

    def features(self, statement: Statement) -> tuple[float, float, float, float]:
        """(named, said, likely, voices): shares of the variants, the best log-probability of a text that says it all,
        and the share of the other captioners that say what one says."""
        subject = statement.subject
        claims = statement.claims - subject or subject
        if not self.candidates or not (subject or claims):
            return 0.0, 0.0, UNLIKELY, 0.0
        words = subject | claims
        telling = [log_probability for said, log_probability, _ in self._said if words <= said]
        known = [UNLIKELY if each is None else max(each, UNLIKELY) for each in telling]
        if telling and all(each is None for each in telling):
            known = [self._usual]  # a captioner that tells no probabilities is no less sure
        return self._share(subject or claims), self._share(claims), max(known, default=UNLIKELY), self._voices(words)

    def _voices(self, words: frozenset[str]) -> float:
        """Share of the captioners, but the first one, that say all of the words."""
        if len(self._captioners) < 2:
            return 0.0
        pairs = zip(self.candidates, self._said, strict=True)
        telling = {candidate.source.captioner for candidate, (said, _, _) in pairs if words <= said}
        return max(0, len(telling) - 1) / (len(self._captioners) - 1)

    @cached_property
    def _captioners(self) -> dict[str | None, set[int]]:
        """The variants of each captioner."""
        found: dict[str | None, set[int]] = {}
        for candidate in self.candidates:
            found.setdefault(candidate.source.captioner, set()).add(candidate.variant)
        return found

    @cached_property
    def _usual(self) -> float:
        """Mean log-probability of the texts that tell one."""
        told = [max(each, UNLIKELY) for _, each, _ in self._said if each is not None]
        return math.fsum(told) / len(told) if told else UNLIKELY

    def _share(self, words: Iterable[str]) -> float:
        """Share of the variants that say the rarest of the words."""
        return min(sum(weight for said, _, weight in self._said if word in said) for word in words)

    def share(self, word: str) -> float:
        """Share of the variants that say a concept in its own words."""
        return sum(
            weight
            for candidate, (_, _, weight) in zip(self.candidates, self._said, strict=True)
            if word in candidate.reading.content
        )

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """What the texts' words begin with, two letters or more before their ends."""
        words = {word for candidate in self.candidates for word in candidate.reading.words}
        return frozenset(word[:end] for word in words for end in range(1, len(word) - 1))

    @cached_property
    def _said(self) -> list[tuple[frozenset[str], float | None, float]]:
        """Each candidate's concepts with all that they are kinds of, its log-probability and its weight.

        All captioners weigh the same, the variants of one likewise, and the texts of a variant by their probabilities.
        """
        by_variant: dict[int, list[float]] = {}
        probabilities = []
        for candidate in self.candidates:
            tokens = len(candidate.reading.tokens) + 1  # about as many, with the end
            probability = math.exp(max((candidate.log_probability or 0.0) * tokens, -50.0))
            probabilities.append(probability)
            by_variant.setdefault(candidate.variant, []).append(probability)
        count = {
            variant: len(variants) * len(self._captioners)
            for variants in self._captioners.values()
            for variant in variants
        }
        sums = {variant: sum(found) * count[variant] for variant, found in by_variant.items()}
        found = []
        for candidate, probability in zip(self.candidates, probabilities, strict=True):
            said = candidate.reading.content
            kinds = said.union(*map(kinds_of, said))
            found.append((kinds, candidate.log_probability, probability / sums[candidate.variant]))
        return found


def support(
    weights: Weights,
    match: float | None,
    features: tuple[float, float, float, float],
    answer: float | None = None,
    yes: float | None = None,
) -> float:
    """The probability that a statement is true; `match` is its match score if there is one, `answer` the probability
    of the answer that made it, `yes` that of "yes" when it was asked back."""
    named, said, likely, voices = features
    sum_ = weights.bias + weights.named * named + weights.said * said + weights.likely * likely
    sum_ += weights.voices * voices
    sum_ += weights.match * clipped_odds(match) + weights.answer * clipped_odds(answer)
    sum_ += weights.yes * clipped_odds(yes)
    # Rounded, since a match score may differ in its eighth place by the other texts of its batch.
    return round(1 / (1 + math.exp(-sum_)), 4)


def clipped_odds(probability: float | None) -> float:
    """Log-odds of what is never quite sure; none tells nothing."""
    return 0.0 if probability is None else math.log(max(probability, LEAST) / max(1 - probability, LEAST))


def log_odds(probability: float) -> float:
    return math.log(max(probability, 1e-4) / max(1 - probability, 1e-4))


class Scores:
    """The scores of one request, each text asked for once.

    A matcher that fails is not asked again; from then on agreement stands in, and `loss` says why.
    """

    def __init__(self, matcher: Matcher | None, pixels: Pixels, deadline: Deadline, support: Support) -> None:
        self.loss = ""
        self.agreement = Agreement()
        self._matcher = matcher
        self._pixels = pixels
        self._deadline = deadline
        self._support = support
        self._matches: dict[str, float] = {}
        self._supports: dict[Statement, float] = {}
        self._answers: dict[str, float] = {}
        self._confirmed: dict[str, float] = {}

    @property
    def has_matcher(self) -> bool:
        return self._matcher is not None

    @property
    def weights(self) -> Weights:
        return self._support.matched if self._matcher is not None else self._support.alone

    def observe(self, candidates: Sequence[Candidate]) -> None:
        """Texts that agreement counts."""
        self.agreement = Agreement((*self.agreement.candidates, *candidates))
        self._supports.clear()

    def hear(self, text: str, probability: float) -> None:
        """A statement that a model's answer made, with the answer's probability."""
        if text not in self._matches:  # what the variants said before is weighed as it was
            self._answers[text] = max(probability, self._answers.get(text, 0.0))

    def confirm(self, text: str, probability: float) -> None:
        """A statement that was asked back, with the probability of "yes"."""
        self._confirmed[text] = probability
        self._supports.clear()

    async def learn(self, texts: Iterable[str]) -> None:
        """Scores the texts that are not known yet, in one call as long as they are no more than `MAX_TEXTS`."""
        if self._matcher is None:
            return
        new = [text for text in dict.fromkeys(texts) if text and text not in self._matches]
        for start in range(0, len(new), MAX_TEXTS):
            await self._ask(new[start : start + MAX_TEXTS])

    async def _ask(self, texts: Sequence[str]) -> None:
        if self._matcher is None:
            return
        try:
            left = self._deadline.left_s
            found = await self._matcher.match(self._pixels, texts, min(left, PATIENCE_S))
        except PromptTooLong:  # of one of them, which supports nothing; no loss of the matcher
            half = len(texts) // 2
            if half:
                await self._ask(texts[:half])
                await self._ask(texts[half:])
            else:
                self._matches[texts[0]] = 0.0
            return
        except ServiceError as error:
            patient = isinstance(error, DeadlineExceeded) and left > PATIENCE_S
            self.loss = f"It did not answer within {PATIENCE_S:.0f} s" if patient else error.message
            self._matcher = None
            self._supports.clear()
            return
        self._matches.update(zip(texts, (match.probability for match in found), strict=True))

    def of(self, statement: Statement) -> float:
        """The support of a statement that was learned: the probability that it is true."""
        known = self._supports.get(statement)
        if known is None:
            known = self._supports[statement] = self.as_often(statement, statement)
        return known

    def as_often(self, statement: Statement, other: Statement) -> float:
        """The support that a statement that was learned has if as many variants say it as say another one."""
        match = self._matches.get(statement.text) if self._matcher is not None else None
        if match is None and self._matcher is not None:
            return 0.0
        answer, yes = self._answers.get(statement.text), self._confirmed.get(statement.text)
        return support(self._weights_of(statement), match, self.agreement.features(other), answer, yes)

    def _weights_of(self, statement: Statement) -> Weights:
        """Those of a statement that an answer made or that was asked back, if a matcher weighs it too."""
        if self._matcher is not None and statement.text in self._answers:
            return self._support.answered
        if self._matcher is not None and statement.text in self._confirmed:
            return self._support.confirmed
        return self.weights

    def match(self, candidate: Candidate) -> float:
        """The match score of a whole text that was learned; without a matcher the share of the variants that say what
        it says, on average over its concepts."""
        known = self._matches.get(candidate.text)
        if known is not None:
            return known
        words = candidate.reading.content
        return round(math.fsum(map(self.agreement.share, words)) / len(words), 4) if words else 0.0

    def passes(self, statement: Statement) -> bool:
        """Whether a statement that was learned has the support that one of its kind needs."""
        weights = self._weights_of(statement)
        floor = weights.thing if statement.kind == "thing" else weights.fact
        return self.of(statement) >= floor

    def stays(self, statement: Statement) -> bool:
        """Whether a statement of the text that begins the caption has the support to stay in it."""
        return self.of(statement) >= self._weights_of(statement).keep
