"""Some malformed inputs of every kind; `python tests/fuzz.py` uses any number."""

from pathlib import Path

import pytest
from fuzz import fuzz, judge, kinds

EACH = 24
CONFIGS = 20  # a second each, where files take hundredths


@pytest.mark.filterwarnings("ignore")  # of libraries, about malformed input
@pytest.mark.parametrize("name", kinds())
def test_malformed_input_is_accepted_or_clearly_rejected(name: str, tmp_path: Path) -> None:
    report = fuzz(name, kinds()[name], range(CONFIGS if name == "configs" else EACH), 0, tmp_path)
    assert not report.defects, "\n\n".join(report.defects)
    assert report.counts["rejected"]


@pytest.mark.parametrize(
    "message",
    [
        "two\nlines: here",
        "color: \x1b[31m",
        "long: " + "x" * 400,
        "Parser key \"times\": Expected a <class 'list'>",
        "data: 'NoneType' object has no attribute 'keys'",
    ],
)
def test_an_unclear_message_is_a_defect(message: str) -> None:
    assert judge(message).verdict == "unclear"
