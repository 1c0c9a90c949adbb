"""What `docs/promises.md` says holds a promise must exist."""

import re

from conftest import ROOT


def test_every_test_that_holds_a_promise_exists() -> None:
    page = (ROOT / "docs/promises.md").read_text()
    named = re.findall(r"`(test_[\w*]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 80
    for file, test in named:
        paths = list((ROOT / "tests").glob(file))
        assert paths, file
        assert not test or any(f"def {test}(" in path.read_text() for path in paths), test
    targets = re.findall(r"`make ([\w-]+)`", page)
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_every_promise_has_its_columns() -> None:
    page = (ROOT / "docs/promises.md").read_text().partition("## On a GPU")[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in lines} == {5}
