"""The controls for a request's options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, get_args

import gradio as gr

from serve_app.contract import Description
from serve_app.options import given, offered
from serve_app.types import Detail, Strategy
from serve_app.ui.parts import Tab
from serve_app.ui.texts import DEFAULT, has_text, strategy_text, text

DETAILS = get_args(Detail)
STRATEGIES = get_args(Strategy)
"""Offered until the service has said what it has."""
SEED = 0
"""Shown until then."""


class OptionControls:
    """Detail, rounds, strategy, length and seed; `prefix` begins their ids in the page."""

    def __init__(self, prefix: str) -> None:
        self.detail = gr.Radio(_details(DEFAULT), value=DETAILS[0], elem_id=f"{prefix}-detail", label="Detail")
        with gr.Accordion("More options", open=False, elem_id=f"{prefix}-more") as self.more:
            self.multi_round = gr.Checkbox(True, elem_id=f"{prefix}-multi-round", label="Rounds")
            self.strategy = gr.Radio(
                _strategies(DEFAULT, STRATEGIES), value=STRATEGIES[0], elem_id=f"{prefix}-strategy", label="Strategy"
            )
            self.max_words = gr.Number(0, minimum=0, precision=0, elem_id=f"{prefix}-max-words", label="Most words")
            self.seed = gr.Number(SEED, precision=0, elem_id=f"{prefix}-seed", label="Seed")
        self.inputs: list[gr.components.Component] = [getattr(self, name) for name in offered("page")]
        self._offered: tuple[str, ...] = STRATEGIES

    def join(self, tab: Tab) -> None:
        """Adds the controls to what a tab translates and sets up."""
        tab.words.append((self.more, lambda lang: {"label": text(lang, "more")}))
        for name, control in zip(offered("page"), self.inputs, strict=True):
            tab.words.append((control, partial(self._words, name)))
        tab.defaults += [
            (self.detail, lambda _, service: {"value": service.default_detail}),
            (self.strategy, self._offer),
            # Not sent when it is there already, lest it come after what a visitor typed.
            (self.seed, lambda _, service: {} if service.default_seed == SEED else {"value": service.default_seed}),
        ]

    def _words(self, name: str, language: str) -> dict[str, Any]:
        """Label, explanation and choices of a control."""
        words: dict[str, Any] = {"label": text(language, name)}
        if has_text(f"{name}_info"):
            words["info"] = text(language, f"{name}_info")
        choices = {"detail": _details(language), "strategy": _strategies(language, self._offered)}.get(name)
        return words if choices is None else {**words, "choices": choices}

    def _offer(self, language: str, service: Description) -> dict[str, Any]:
        self._offered = tuple(service.strategies)
        return {"value": service.default_strategy, "choices": _strategies(language, self._offered)}


def options_of(values: Sequence[Any]) -> dict[str, Any]:
    """Options of the contract from the controls' values; what was left empty is the service's to choose.

    Zero words are no limit: a number that is left empty comes as 0 from a control that has just unfolded.
    """
    options = dict(zip(offered("page"), values, strict=True))
    return given(
        {
            **options,
            "max_words": options["max_words"] or None,
            "multi_round": None if options["multi_round"] else False,
        }
    )


def _details(language: str) -> list[tuple[str, str]]:
    return [(text(language, f"detail_{name}"), name) for name in DETAILS]


def _strategies(language: str, offered: Sequence[str]) -> list[tuple[str, str]]:
    return [(strategy_text(language, name), name) for name in offered]
