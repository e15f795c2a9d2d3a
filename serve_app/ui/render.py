"""HTML of results. Captions, prompts, names and errors come from outside and are escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from serve_app.errors import CaptionServeError
from serve_app.ui.texts import error_text, text
from serve_app.ui.view import View

_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
FAIR_SCORE, GOOD_SCORE = 0.4, 0.7
VOICES = 6
"""Colours of captioners."""


def escape(words: str) -> str:
    """Text that is safe in HTML, in its attributes, and in the templates of Gradio's HTML component."""
    return html.escape(words, quote=True).translate(_TEMPLATE_SIGNS)


def result(view: View, language: str) -> str:
    """The caption, or what is there instead of it yet."""
    match view.status:
        case "empty":
            return note(text(language, "empty"))
        case "failed":
            return failure(view.error or "error_page", language)
        case "running":
            return _progress(view, language)
        case "done":
            return _answer(view, language)


def failure(error: CaptionServeError | str, language: str) -> str:
    """One sentence, as an alert."""
    return sentence(text(language, error) if isinstance(error, str) else error_text(language, error), language)


def sentence(words: str, language: str) -> str:
    return f'<div class="failure" role="alert"><b>{text(language, "error")}</b><p>{escape(words)}</p></div>'


def header(language: str, model: str | None) -> str:
    served = text(language, "served_by", model=model) if model else text(language, "waiting")
    demonstration = f'<p class="model">{text(language, "demonstration")}</p>' if model == "demo" else ""
    return (
        f'<header class="head"><h1>{text(language, "title")}</h1><p>{text(language, "lead")}</p>'
        f'<p class="model">{escape(served)}</p>{demonstration}</header>'
    )


def note(words: str) -> str:
    """What stands where a result will appear."""
    return f'<div class="empty">{escape(words)}</div>'


def answered(body: Mapping[str, Any], language: str) -> str:
    """The answer to a question, and how sure the model is."""
    return (
        f'<article class="answer"><h2>{text(language, "answer")}</h2>'
        f'<p class="words">{escape(body["answer"])}</p>{_probability(body["probability"], language)}</article>'
    )


def matched(matches: Iterable[Mapping[str, Any]], language: str) -> str:
    """Texts with their scores, the best one first."""
    rows = "".join(
        f"<tr><td>{escape(match['text'])}</td><td>{_probability(match['probability'], language)}</td>"
        f"<td>{match['similarity']:.2f}</td></tr>"
        for match in sorted(matches, key=lambda match: -match["probability"])
    )
    head = "".join(f"<th>{text(language, name)}</th>" for name in ("text", "match", "similarity"))
    return f'<table class="rows matches"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _probability(value: float, language: str) -> str:
    told = text(language, "sure", share=f"{value:.1%}")
    return f'<em class="{score_class(value)}" title="{escape(told)}">{value:.1%}</em>'


def _progress(view: View, language: str) -> str:
    bar = f'<div class="bar"><i style="width:{round(100 * view.share_done)}%"></i></div>'
    if view.start is None:
        return f'<div class="progress" role="status">{bar}<p>{text(language, "starting")}…</p></div>'
    return f'<div class="progress" role="status">{bar}<ol class="steps">{"".join(_steps(view, language))}</ol></div>'


def _steps(view: View, language: str) -> Iterable[str]:
    assert view.start is not None
    for index in range(1, len(view.start["prompts"]) + 1):
        name = text(language, "variant", n=index)
        event = view.variants.get(index)
        yield _step(name, None if event is None else event["text"] or text(language, "failed"))
    if view.merged or len(view.start["prompts"]) > 1:
        yield _step(text(language, "merged" if view.merged else "merge"), "" if view.merged else None)
    if view.extension is not None:
        yield _step(text(language, "extension"), _verdict(view.extension, language))
    for number in range(2, view.start["rounds"] + 1):
        event = view.rounds.get(number)
        yield _step(text(language, "round", n=number), None if event is None else _verdict(event, language))


def _step(name: str, told: str | None) -> str:
    state = "pending" if told is None else "finished"
    return f'<li class="{state}"><b>{escape(name)}</b><span>{escape(told or "")}</span></li>'


def _verdict(event: Mapping[str, Any], language: str) -> str:
    return text(language, "accepted" if event["accepted"] else "kept")


def _answer(view: View, language: str) -> str:
    body = view.result or {}
    caption = coloured(body, language) or escape(text(language, "no_caption"))
    stats = body["stats"]
    seconds = body["timings_ms"].get("total", 0.0) / 1000
    figures = "".join(
        f"<div><dt>{text(language, name)}</dt><dd>{value}</dd></div>"
        for name, value in (
            ("characters", stats["characters"]),
            ("words", stats["words"]),
            ("seconds", f"{seconds:.1f}"),
        )
    )
    return (
        f'<article class="answer"><h2>{text(language, "caption")}</h2>'
        f'<p id="caption">{caption}</p>{_legend(body, language)}{_voices(body)}<dl class="figures">{figures}</dl>'
        f"{_told('degraded', body, language)}{_told('notices', body, language)}</article>"
    )


def coloured(body: Mapping[str, Any], language: str) -> str:
    """The caption, its pieces coloured by their support; without its tags it is the caption to the letter."""
    caption, parts, end = body["caption"], [], 0
    voices = voices_of(body)
    for entry in body["clauses"]:
        parts += [escape(caption[end : entry["start"]]), clause(entry, language, voices)]
        end = entry["end"]
    return "".join([*parts, escape(caption[end:])])


def voices_of(body: Mapping[str, Any]) -> dict[str, str]:
    """The class of each captioner's pieces, if there are several."""
    names = dict.fromkeys(variant.get("captioner", "") for variant in body["variants"])
    return {name: f"voice-{place % VOICES}" for place, name in enumerate(names)} if len(names) > 1 else {}


def _voices(body: Mapping[str, Any]) -> str:
    """Which captioner has which colour; nothing for one."""
    entries = "".join(f'<li class="{style}">{escape(name)}</li>' for name, style in voices_of(body).items())
    return f'<ul class="voices">{entries}</ul>' if entries else ""


def _legend(body: Mapping[str, Any], language: str) -> str:
    if all(entry["score"] is None for entry in body["clauses"]):
        return ""
    return f'<p class="legend">{escape(text(language, "legend"))}</p>'


def _told(name: str, body: Mapping[str, Any], language: str) -> str:
    """A list of sentences, `degraded` or `notices`, under its heading; nothing if it is empty."""
    if not body[name]:
        return ""
    entries = "".join(f"<li>{escape(entry)}</li>" for entry in body[name])
    return f'<div class="{name}"><b>{text(language, name)}</b><ul>{entries}</ul></div>'


def details(view: View, language: str) -> str:
    """How the caption came about, folded; empty before there is one."""
    body = view.result
    if view.status != "done" or body is None:
        return ""
    voices = voices_of(body)
    variants = "".join(
        _entry(_asked_of(v, voices, language), v["text"] or text(language, "failed"), v["score"], language)
        for v in body["variants"]
    )
    rounds = "".join(
        _entry(f"{text(language, 'round', n=r['round'])} · {_verdict(r, language)}", r["text"], None, language, False)
        for r in body["rounds"]
    )
    contested = "".join(_contested(entry, language) for entry in body["contested"])
    answers = "".join(_asked(entry, language) for entry in body.get("answers", ()))
    sections = {"variants": variants, "answers": answers, "rounds": rounds, "contested": contested}
    shown = "".join(f"<h3>{text(language, name)}</h3><ul>{found}</ul>" for name, found in sections.items() if found)
    return f'<details class="how"><summary>{text(language, "how")}</summary>{shown}</details>'


def _asked_of(variant: Mapping[str, Any], voices: Mapping[str, str], language: str) -> str:
    """The prompt of a variant, behind the name of its captioner if there are several."""
    prompt = variant["prompt"] or text(language, "no_prompt")
    return f"{variant['captioner']} · {prompt}" if voices else prompt


def _entry(title: str, words: str, score: float | None, language: str, scored: bool = True) -> str:
    badge = _badge(score, language) if scored and score is not None else ""
    return f"<li><b>{escape(title)}</b>{badge}<span>{escape(words)}</span></li>"


def _asked(entry: Mapping[str, Any], language: str) -> str:
    title = f"{entry['question']} · {text(language, 'said' if entry['accepted'] else 'unsaid')}"
    return _entry(title, entry["answer"], entry["probability"], language)


def _contested(entry: Mapping[str, Any], language: str) -> str:
    against = escape(text(language, "against", statement=entry["against"]))
    return (
        f"<li><b>{escape(text(language, 'left_out', statement=entry['text']))}</b>{_badge(entry['score'], language)}"
        f"<span>{against} {_badge(entry['against_score'], language)}</span></li>"
    )


def _badge(score: float, language: str) -> str:
    return f'<em class="{score_class(score)}">{_score(score, language)}</em>'


def clause(entry: Mapping[str, Any], language: str, voices: Mapping[str, str] | None = None) -> str:
    """A piece of the caption, coloured by its score and underlined in the colour of its captioner; source, score and
    the weighed statement on hover and focus."""
    captioner, voices = entry["source"].get("captioner", ""), voices or {}
    told = [_source(entry["source"], language), _score(entry["score"], language)]
    if voices and entry["source"]["kind"] != "answer":
        told.insert(0, captioner)
    if entry["statement"] is not None:
        told.append(text(language, "whole" if entry["whole"] else "weighed", statement=entry["statement"]))
    title = escape(" · ".join(told))
    style = score_class(entry["score"])
    if captioner in voices:
        style += f" {voices[captioner]}"
    return f'<mark class="{style}" title="{title}" tabindex="0">{escape(entry["text"])}</mark>'


def _source(source: Mapping[str, Any], language: str) -> str:
    kind, index = source["kind"], source["index"]
    return text(language, f"source_{kind}", n=index) if index is not None else text(language, "source_all")


def score_class(score: float | None) -> str:
    if score is None:
        return "score-none"
    return "score-good" if score >= GOOD_SCORE else "score-fair" if score >= FAIR_SCORE else "score-poor"


def _score(score: float | None, language: str) -> str:
    return text(language, "score_none") if score is None else text(language, "score", score=f"{score:.2f}")
