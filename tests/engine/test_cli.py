"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from lab import held_out
from lab.objects import nouns_in

COMMAND = str(Path(sys.executable).parent / "caption-serve")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=280, check=False)


def test_caption_goes_to_stdout_and_progress_to_stderr() -> None:
    done = run("caption", str(held_out.SAMPLE))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert nouns_in(done.stdout)
    assert "[1/1]" in done.stderr


def test_bad_files_are_told_and_the_others_captioned(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    missing = tmp_path / "missing.jpg"
    done = run("caption", "--json", "--detail", "low", str(broken), str(missing), str(held_out.SAMPLE))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [("caption" in line, line["file"]) for line in lines] == [
        (False, str(broken)), (False, str(missing)), (True, str(held_out.SAMPLE)),
    ]  # fmt: skip
    assert "none of the formats" in done.stderr
    assert "No such file" in done.stderr
    assert "2 of 3 files failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_options_and_models_are_one_sentence() -> None:
    for arguments, told in [
        (("--detail", "huge"), "detail"),
        (("--model", "/nowhere"), "no directory"),
        (("--dtype", "int3"), "dtype"),
        (("--engine", "steam"), "engine"),
        (("--strategy", "magic"), "strategy:"),
    ]:
        done = run("caption", *arguments, str(held_out.SAMPLE))
        assert done.returncode == 2, done.stderr
        assert told in done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr


async def test_agents_of_this_machine_look_at_its_files() -> None:
    """Over HTTP a model has to write the image itself, 16,000 characters of it; a path was "not valid base64"."""
    server = StdioServerParameters(command=COMMAND, args=["mcp"])
    async with Client(server) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert tools == {"caption_image", "answer_question", "match_texts"}
        found = await client.call_tool("caption_image", {"image": str(held_out.SAMPLE), "detail": "low"})
        assert not found.is_error
        assert "hamburger" in str(found.content[0])
        missing = await client.call_tool("caption_image", {"image": "/none/photo.jpg"})
        assert missing.is_error
        assert "there is no file" in str(missing.content[0])
        fetched = await client.call_tool("caption_image", {"image": "https://example.org/a.jpg"})
        assert "does not fetch URLs" in str(fetched.content[0])
