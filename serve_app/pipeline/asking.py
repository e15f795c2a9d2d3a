"""Rounds that ask: statements that a caption lacks are found by questions and pass the gate like all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from serve_app.pipeline.context import Context
from serve_app.pipeline.language.reading import Statement
from serve_app.pipeline.questions import Question, asked_back, questions_about, yes
from serve_app.pipeline.scores import Candidate, Scores
from serve_app.steps import Answered
from serve_app.types import Asked, CaptionOptions, Clause, Source

FLOOR = 0.4
"""Probability below which an answer is none."""
BY_ROUND = {2: 6, 3: 10}
"""Most questions of each round."""
DOUBTFUL = 0.1, 0.95
"""Support between which a statement is asked back."""
BACK = 12
"""Most statements of a caption that are asked back."""


def most_questions(options: CaptionOptions) -> int:
    """How many a request may ask at most."""
    rounds = sum(most for number, most in BY_ROUND.items() if _may_ask(options, number))
    return len(options.questions) + rounds + (BACK if _may_ask(options, min(BY_ROUND)) else 0)


def _may_ask(options: CaptionOptions, number: int) -> bool:
    if options.ask is False:
        return False
    return number <= options.rounds or bool(options.ask and number == min(BY_ROUND))


class Asking:
    """The questions of one request: none is asked twice.

    Where a model answers and another one weighs, questions take the place of the rounds' prompt: on scenes they told
    more in less time, and the prompt nothing besides.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._own = [Question(text) for text in context.options.questions]
        self._asked: list[Asked] = []
        self._back: dict[int, str] = {}
        """Place of a question → the statement that it asks back."""
        self.lost = False
        """Whether answers failed to come."""

    @property
    def has_own(self) -> bool:
        """Whether questions of the caller wait, which are asked before all others."""
        return self._context.answerer is not None and bool(self._own)

    def takes(self, number: int, scores: Scores) -> bool:
        """Whether a round asks instead of prompting."""
        there = self._context.answerer is not None and scores.has_matcher and not self.lost
        return there and _may_ask(self._context.options, number)

    def has_more(self, caption: str) -> bool:
        return bool(self._new(caption))

    def _new(self, caption: str) -> list[Question]:
        known = {asked.question.lower() for asked in self._asked}
        return [each for each in questions_about(self._context.read(caption)) if each.text not in known]

    async def candidates(self, number: int, caption: str, scores: Scores) -> list[Candidate]:
        """What the answers to a round's questions say; the caller's own stand for a round of their own."""
        new = self._new(caption)
        templates = {question.text: question for question in new}
        chosen, self._own = [templates.get(own.text.lower(), own) for own in self._own], []
        chosen = chosen or new[: BY_ROUND[number]]
        if not chosen:
            return []
        answers = await self._context.may_answer("questions", [question.text for question in chosen])
        self.lost = not answers
        found = []
        for question, answer in zip(chosen, answers, strict=False):
            statement = question.statement(answer.text) if answer.probability >= FLOOR else None
            asked = Asked(question.text, answer.text, answer.probability, statement)
            self._asked.append(asked)
            self._context.tell(Answered(len(self._asked), asked))
            if statement is not None:
                source = Source("answer", len(self._asked), prompt=question.text)
                found.append(Candidate(self._context.read(statement), source))
                for each in found[-1].reading.statements:
                    scores.hear(each.text, answer.probability)
        return found

    async def verify(self, statements: Iterable[Statement], scores: Scores) -> None:
        """Asks the most doubtful of the statements back; what is answered becomes part of their support."""
        low, high = DOUBTFUL
        doubtful = {each.text: abs(scores.of(each) - 0.5) for each in statements if low < scores.of(each) < high}
        own = {question.text.lower() for question in self._own}
        ranked = sorted(doubtful, key=doubtful.__getitem__)
        asked = {text: question for text in ranked if (question := asked_back(text)) and question not in own}
        chosen = list(asked.items())[:BACK]
        if not chosen:
            return
        answers = await self._context.may_answer("questions", [question for _, question in chosen])
        self.lost = not answers
        for (text, question), answer in zip(chosen, answers, strict=False):
            probability = yes(answer.text, answer.probability)
            confirmed = text if probability is not None and probability > 0.5 else None
            self._asked.append(Asked(question, answer.text, answer.probability, confirmed))
            self._back[len(self._asked)] = text
            self._context.tell(Answered(len(self._asked), self._asked[-1]))
            if probability is not None:
                scores.confirm(text, probability)

    def answers(self, clauses: Sequence[Clause]) -> tuple[Asked, ...]:
        """All that was asked, each with whether one of the caption's clauses comes from it or was confirmed by it."""
        told = {clause.source.index for clause in clauses if clause.source.kind == "answer"}
        stated = {clause.statement for clause in clauses}
        told |= {place for place, text in self._back.items() if text in stated and self._asked[place - 1].statement}
        return tuple(replace(asked, accepted=place in told) for place, asked in enumerate(self._asked, start=1))
