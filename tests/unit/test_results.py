"""The documents' figures are those of the files in `bench/results`."""

from __future__ import annotations

import re

from bench import results


def test_every_table_is_what_the_results_say() -> None:
    assert results.write(check=True) == [], "run: python -m bench.results write"


def test_every_table_stands_in_a_document_and_has_its_origin() -> None:
    texts = [document.read_text(encoding="utf-8") for document in results.DOCUMENTS]
    used = {name for text in texts for name in re.findall(r"^<!-- (\w+) -->$", text, re.MULTILINE)}
    assert used == {*results.TABLES}
    for result in results.results().values():
        assert re.fullmatch(r"[0-9a-f]{7,}", result["revision"]), "measure a committed revision"
        assert result["command"].startswith("python -m ")


def test_a_table_that_was_edited_by_hand_is_found() -> None:
    document = "before\n<!-- three -->\n| a figure that nobody measured |\n<!-- /three -->\nafter\n"
    written = results.written(document, results.results())
    assert "nobody measured" not in written
    assert written.startswith("before\n<!-- three -->\n|")
    assert written.endswith("\n<!-- /three -->\nafter\n")
