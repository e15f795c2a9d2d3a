"""A strategy is declared in `types` and registered in `pipeline.registry`; everything else follows from these."""

from __future__ import annotations

from typing import get_args

import pytest

from serve_app.pipeline.registry import PLANS
from serve_app.types import STRATEGIES, Strategy
from serve_app.ui.texts import LANGUAGES, strategy_text


def test_each_strategy_has_a_sentence_and_a_plan() -> None:
    """A strategy without a plan made the first request that named it a 500."""
    assert [*STRATEGIES] == [*PLANS] == [*get_args(Strategy)]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_the_page_has_words_for_each_strategy(language: str, strategy: Strategy) -> None:
    assert strategy_text(language, strategy) != strategy
