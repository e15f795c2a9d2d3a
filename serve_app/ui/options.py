"""The controls for a request's options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import gradio as gr

from serve_app.contract import Description
from serve_app.types import Detail, Strategy
from serve_app.ui.parts import Tab
from serve_app.ui.texts import DEFAULT, text

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
        self.inputs: list[gr.components.Component] = [
            self.detail,
            self.multi_round,
            self.strategy,
            self.max_words,
            self.seed,
        ]
        self._offered: tuple[str, ...] = STRATEGIES

    def join(self, tab: Tab) -> None:
        """Adds the controls to what a tab translates and sets up."""
        tab.words += [
            (self.detail, lambda lang: {"label": text(lang, "detail"), "choices": _details(lang)}),
            (self.more, lambda lang: {"label": text(lang, "more")}),
            (
                self.multi_round,
                lambda lang: {"label": text(lang, "multi_round"), "info": text(lang, "multi_round_info")},
            ),
            (
                self.strategy,
                lambda lang: {"label": text(lang, "strategy"), "choices": _strategies(lang, self._offered)},
            ),
            (self.max_words, lambda lang: {"label": text(lang, "max_words"), "info": text(lang, "max_words_info")}),
            (self.seed, lambda lang: {"label": text(lang, "seed"), "info": text(lang, "seed_info")}),
        ]
        tab.defaults += [
            (self.detail, lambda _, service: {"value": service.default_detail}),
            (self.strategy, self._offer),
            # Not sent when it is there already, lest it come after what a visitor typed.
            (self.seed, lambda _, service: {} if service.default_seed == SEED else {"value": service.default_seed}),
        ]

    def _offer(self, language: str, service: Description) -> dict[str, Any]:
        self._offered = tuple(service.strategies)
        return {"value": service.default_strategy, "choices": _strategies(language, self._offered)}


def options_of(values: Sequence[Any]) -> dict[str, Any]:
    """Options of the contract from the controls' values; what was left empty is the service's to choose.

    Zero words are no limit: a number that is left empty comes as 0 from a control that has just unfolded.
    """
    detail, multi_round, strategy, max_words, seed = values
    options = {
        "detail": detail,
        "strategy": strategy,
        "max_words": max_words or None,
        "seed": seed,
        "multi_round": None if multi_round else False,
    }
    return {name: value for name, value in options.items() if value is not None}


def _details(language: str) -> list[tuple[str, str]]:
    return [(text(language, f"detail_{name}"), name) for name in DETAILS]


def _strategies(language: str, offered: Sequence[str]) -> list[tuple[str, str]]:
    return [(text(language, f"strategy_{name}") if name in STRATEGIES else name, name) for name in offered]
