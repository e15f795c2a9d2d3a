"""How well the image supports a text: by a Matcher, or by agreement between variants where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.errors import ServiceError
from serve_app.pipeline.words import content
from serve_app.types import Matcher, Pixels

MAX_TEXTS = 96
"""Most texts of one matcher call; a request's steps stay far below it."""


@dataclass(frozen=True, slots=True)
class Floors:
    """What a clause has to reach, and how far a merged caption's score may fall.

    Calibrated on scenes of a stream of their own by `python -m demo.calibrate`, which prints these figures.
    """

    matcher: float = 0.5
    agreement: float = 0.5
    fall: float = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cleaned text of a variant. `variant` counts from 1; `log_probability` is that of the sequence, a token."""

    text: str
    variant: int
    log_probability: float | None = None


@dataclass
class Agreement:
    """A clause's probability from what is known without a matcher.

    The logistic function of how many of the variants name what the clause names (`named`: the best-known of its
    words; `said`: the least-known one) and of the sequence's log-probability a token. The weights are the fit that
    `python -m demo.calibrate` prints.
    """

    bias: float = -3.0
    named: float = 3.0
    said: float = 3.0
    likely: float = 1.0
    candidates: list[Candidate] = field(default_factory=list)

    def features(self, text: str) -> tuple[float, float, float]:
        """(named, said, likely): shares of the variants, and the best log-probability of a text that says it all."""
        words = content(text)
        by_variant: dict[int, set[str]] = {}
        for candidate in self.candidates:
            by_variant.setdefault(candidate.variant, set()).update(content(candidate.text))
        if not words or not by_variant:
            return 0.0, 0.0, -1.0
        shares = [sum(word in said for said in by_variant.values()) / len(by_variant) for word in words]
        whole = [
            candidate.log_probability
            for candidate in self.candidates
            if candidate.log_probability is not None and words <= content(candidate.text)
        ]
        return max(shares), min(shares), max(whole, default=-1.0)

    def __call__(self, text: str) -> float:
        named, said, likely = self.features(text)
        return 1 / (1 + math.exp(-(self.bias + self.named * named + self.said * said + self.likely * likely)))


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
    def floor(self) -> float:
        return self._floors.agreement if self._matcher is None else self._floors.matcher

    @property
    def fall(self) -> float:
        return self._floors.fall

    @property
    def judges_wholes(self) -> bool:
        """Whether a whole caption's score says more than its clauses' scores."""
        return self._matcher is not None

    def observe(self, candidates: Sequence[Candidate]) -> None:
        """Texts that agreement counts."""
        self._agreement.candidates += candidates

    async def learn(self, texts: Sequence[str]) -> None:
        """Scores the texts that are not known yet, in one call."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self._known][:MAX_TEXTS]
        if self._matcher is None or not new:
            return
        self.calls += 1
        try:
            found = await self._matcher.match(self._pixels, new, max(0.0, self._deadline - time.monotonic()))
        except ServiceError as error:
            self.loss = error.message
            self._matcher = None
            return
        self._known.update(zip(new, (match.probability for match in found), strict=True))

    def of(self, text: str) -> float:
        """The score of a text that was learned."""
        if self._matcher is None:
            return self._agreement(text)
        return self._known.get(text, 0.0)

    def passes(self, text: str) -> bool:
        return self.of(text) >= self.floor
