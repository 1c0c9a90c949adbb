"""Some harmed inputs of every kind; `python tests/fuzz.py` takes as many as one likes."""

from pathlib import Path

import pytest
from fuzz import fuzz, judge, kinds

EACH = 24
OF_CONFIGS = 20  # they take a second each, and files hundredths


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is harmed
@pytest.mark.parametrize("name", kinds())
def test_harmed_input_is_taken_or_refused_in_one_clear_line(name: str, tmp_path: Path) -> None:
    report = fuzz(
        name, kinds()[name], range(OF_CONFIGS if name == "configs" else EACH), 0, tmp_path
    )
    assert not report.defects, "\n\n".join(report.defects)
    assert report.counts["refused"]


@pytest.mark.parametrize(
    "said",
    [
        "two\nlines: here",
        "colour: \x1b[31m",
        "long: " + "x" * 400,
        "Parser key \"times\": Expected a <class 'list'>",
        "data: 'NoneType' object has no attribute 'keys'",
    ],
)
def test_a_line_that_is_not_clear_is_a_defect(said: str) -> None:
    assert judge(said).verdict == "unclear"
