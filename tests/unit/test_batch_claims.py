"""Duplicates are captioned once, and nobody waits for an engine that is gone."""

from __future__ import annotations

import asyncio

from serve_app.batch.claims import ELSEWHERE, MINE, Claims


async def test_a_duplicate_waits_for_the_first_and_gets_its_answer() -> None:
    claims = Claims(10)
    await claims.begin("a", "a1")
    await claims.begin("b", "b1")
    assert await claims.claim("a1", ["x", "x", "y"]) == [MINE, ELSEWHERE, MINE]
    assert await claims.claim("b1", ["x"]) == [ELSEWHERE]
    waiting = asyncio.create_task(claims.wait("x"))
    await asyncio.sleep(0)
    assert await claims.in_progress() == 2
    await claims.publish({"x": b"answer", "y": None})
    assert await waiting == b"answer"
    assert await claims.claim("b1", ["x", "y"]) == [b"answer", MINE]


async def test_what_a_killed_actor_had_claimed_is_free_when_it_starts_again() -> None:
    """Its calls are repeated, and would wait for their own earlier life."""
    claims = Claims(10)
    await claims.begin("a", "first life")
    await claims.begin("b", "another's")
    await claims.claim("first life", ["x"])
    await claims.claim("another's", ["y"])
    waiting = asyncio.create_task(claims.wait("x"))
    await asyncio.sleep(0)
    await claims.begin("a", "second life")
    assert await asyncio.wait_for(waiting, 1) is None
    assert await claims.claim("second life", ["x", "y"]) == [MINE, ELSEWHERE]


async def test_only_so_many_answers_are_remembered() -> None:
    claims = Claims(2)
    for digest in "xyz":
        await claims.claim("l", [digest])
        await claims.publish({digest: digest.encode()})
    assert await claims.claim("l", ["x", "z"]) == [MINE, b"z"]
