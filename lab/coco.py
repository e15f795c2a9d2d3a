"""Captions of real images against annotations in COCO's format; run by `python -m lab.evaluate --images …`.

BLEU and chrF by sacrebleu against the reference captions; CHAIR (Rohrbach et al. 2018,
https://arxiv.org/abs/1809.02156) with COCO's 80 object categories under names of our own choice, so that its figures
are comparable with each other and not with published ones; length and repetition. None of them needs Java. CIDEr and
SPICE are not computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.coco_objects import CATEGORIES
from lab.score import repeated
from serve_app.args import AppArgs, matcher_for
from serve_app.errors import CaptionServeError
from serve_app.local import local_service
from serve_app.service import CaptionService

_PHRASES = {phrase: name for name, phrases in CATEGORIES.items() for phrase in (name, *phrases)}
_LONGEST = max(len(phrase.split()) for phrase in _PHRASES)


@dataclass
class Annotated:
    """An image's file with what people said of it and which objects they marked."""

    file: str
    captions: list[str] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)


def objects_in(text: str) -> list[str]:
    """The categories that a text mentions, in order; the longest name wins, so a hot dog is no dog."""
    words = re.findall(r"[a-z]+", text.lower())
    found: list[str] = []
    at = 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            phrase = " ".join(words[at : at + length])
            if phrase in _PHRASES:
                if _PHRASES[phrase]:
                    found.append(_PHRASES[phrase])
                at += length
                break
        else:
            at += 1
    return found


def read(captions: Path, instances: Path | None) -> list[Annotated]:
    """The annotated images in the order of their ids."""
    given = json.loads(captions.read_text(encoding="utf-8"))
    images = {image["id"]: Annotated(image["file_name"]) for image in given["images"]}
    for annotation in given["annotations"]:
        if annotation["image_id"] in images:
            images[annotation["image_id"]].captions.append(annotation["caption"])
    if instances is not None:
        marked = json.loads(instances.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in marked["categories"]}
        for annotation in marked["annotations"]:
            if annotation["image_id"] in images:
                images[annotation["image_id"]].objects.add(names[annotation["category_id"]])
    for image in images.values():
        for caption in image.captions:
            image.objects.update(objects_in(caption))
    return [images[key] for key in sorted(images)]


def chair(texts: Sequence[str], images: Sequence[Annotated]) -> dict[str, float]:
    """CHAIRi, the share of mentions of objects that are not there, and CHAIRs, that of captions with such a mention."""
    mentions = [objects_in(text) for text in texts]
    wrong = [
        [name for name in found if name not in image.objects] for found, image in zip(mentions, images, strict=True)
    ]
    said = sum(map(len, mentions))
    return {
        "chair_i": round(sum(map(len, wrong)) / max(1, said), 4),
        "chair_s": round(sum(map(bool, wrong)) / max(1, len(texts)), 4),
        "object_recall": round(
            sum(len(image.objects & {*found}) for found, image in zip(mentions, images, strict=True))
            / max(1, sum(len(image.objects) for image in images)),
            4,
        ),
    }


def overlap(texts: Sequence[str], images: Sequence[Annotated]) -> dict[str, float]:
    """BLEU-1 to BLEU-4 and chrF against all references, 0 to 100."""
    from sacrebleu.metrics import BLEU, CHRF

    most = max((len(image.captions) for image in images), default=0)
    if most == 0:
        return {}
    tokenized = [_tokens(text) for text in texts]
    references = [
        [_tokens(image.captions[at]) if at < len(image.captions) else None for image in images] for at in range(most)
    ]
    scores = {
        f"bleu_{order}": BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        .corpus_score(tokenized, references)
        .score
        for order in (1, 2, 3, 4)
    }
    scores["chrf"] = CHRF().corpus_score(tokenized, references).score
    return {name: round(score, 2) for name, score in scores.items()}


def _tokens(text: str) -> str:
    """Lower-case words, as sacrebleu's `none` takes them."""
    return " ".join(re.findall(r"[a-z0-9]+(?:['’-][a-z0-9]+)*", text.lower()))


def measures(texts: Sequence[str], images: Sequence[Annotated]) -> dict[str, Any]:
    words = sum(len(text.split()) for text in texts)
    return {
        "images": len(texts),
        **overlap(texts, images),
        **chair(texts, images),
        "words": round(words / max(1, len(texts)), 1),
        "repeated": round(sum(map(repeated, texts)) / max(1, words), 4),
    }


async def captions(
    service: CaptionService, directory: Path, images: Iterable[Annotated], options: dict[str, Any]
) -> tuple[list[str], list[Annotated]]:
    """The captions of the images that can be read, and those images."""
    texts, read_images = [], []
    for image in images:
        try:
            data = (directory / image.file).read_bytes()
            texts.append((await service.caption(data, options)).caption)
        except (OSError, CaptionServeError) as error:
            print(f"{image.file}: {error}", file=sys.stderr)
            continue
        read_images.append(image)
    return texts, read_images


def main(args: argparse.Namespace) -> None:
    images = read(args.annotations, args.instances)[: args.limit]
    settings = AppArgs(model=args.model, matcher=matcher_for([args.model], args.matcher))
    service = local_service(settings)
    texts, found = asyncio.run(captions(service, args.images, images, {"strategy": args.strategy, "seed": args.seed}))
    report = {"model": args.model, "strategy": args.strategy, **measures(texts, found)}
    if not args.json:
        for name, value in report.items():
            print(f"{name:14} {value}")
    print(json.dumps(report))
