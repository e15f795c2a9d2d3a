"""How well the image supports a text: by a Matcher, or by agreement between variants where there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.errors import PromptTooLong, ServiceError
from serve_app.pipeline.words import content
from serve_app.types import Generated, GenerationParameters, Matcher, Pixels

MAX_TEXTS = 96
"""Most texts of one matcher call; a request's steps stay far below it."""


UNLIKELY = -1.0
"""Log-probability a token of what no text says; lower ones count as this."""


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


def per_token(outcome: Generated, parameters: GenerationParameters) -> float | None:
    """The sequence's log-probability a token.

    A beam score is the sum over the tokens divided by their number to the power of `length_penalty`.
    """
    if outcome.log_probability is None or not outcome.tokens:
        return None
    penalty = 1.0 if parameters.length_penalty is None else parameters.length_penalty
    return float(outcome.log_probability * outcome.tokens ** (penalty - 1))


@dataclass
class Agreement:
    """A clause's probability from what is known without a matcher.

    The logistic function of how many of the variants' texts have its words (`named`: the most frequent of them; `said`:
    the rarest) and of the log-probability a token of the likeliest text that has them all. The weights are the fit that
    `python -m demo.calibrate` prints.
    """

    bias: float = -3.0
    named: float = 3.0
    said: float = 3.0
    likely: float = 1.0
    candidates: list[Candidate] = field(default_factory=list)

    def features(self, text: str) -> tuple[float, float, float]:
        """(named, said, likely): shares of the texts, and the best log-probability of a text that says it all."""
        words = content(text)
        if not words or not self.candidates:
            return 0.0, 0.0, UNLIKELY
        contents = [(content(candidate.text), candidate.log_probability) for candidate in self.candidates]
        shares = [sum(word in said for said, _ in contents) / len(contents) for word in words]
        whole = [likely for said, likely in contents if likely is not None and words <= said]
        return max(shares), min(shares), max(max(whole, default=UNLIKELY), UNLIKELY)

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
        """Scores the texts that are not known yet, in one call as long as they are no more than `MAX_TEXTS`."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self._known]
        for start in range(0, len(new), MAX_TEXTS):
            await self._ask(new[start : start + MAX_TEXTS])

    async def _ask(self, texts: Sequence[str]) -> None:
        if self._matcher is None:
            return
        self.calls += 1
        try:
            found = await self._matcher.match(self._pixels, texts, max(0.0, self._deadline - time.monotonic()))
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
        """The score of a text that was learned."""
        if (known := self._known.get(text)) is not None:
            return known
        return self._agreement(text) if self._matcher is None else 0.0

    def passes(self, text: str) -> bool:
        return self.of(text) >= self.floor
