"""`lit-hier report`: all that is known of a finished run, as one HTML page.

The page needs no other file, has no script, and loads nothing. All that is taken from the run is
escaped, and nothing that its files name is imported or executed.
"""

import argparse
import base64
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lit_hier.errors import InputError, one_line

if TYPE_CHECKING:
    from pandas import DataFrame

    from lit_hier.results import Run

_MAX_ROWS: Final = 200  # of a table that are shown
_MAX_CELL: Final = 200  # characters
_MAX_FIGURE: Final = 2**25  # bytes
_MAX_CONFIG: Final = 10**6  # characters
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_UNKNOWN: Final = "unknown"
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 0 auto;
  max-width: 70rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem;
  border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .6rem; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #999; } tbody tr:nth-child(even) { background: #f5f5f5; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.wide { overflow-x: auto; max-height: 30rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figcaption { font-size: .85rem; color: #555; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; padding: .2rem 0; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `lit-hier report`."""
    parser.add_argument("run", metavar="RUN", help="the folder of a run, such as logs/demo")
    parser.add_argument(
        "--output", metavar="FILE", help="the page; by default report.html in the run's folder"
    )


def execute(arguments: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        InputError: The run cannot be read, or the page cannot be written.
    """
    from lit_hier.cli.plot import styled
    from lit_hier.io.atomic import atomic_write
    from lit_hier.results import read_run

    run = read_run(arguments.run)
    path = run.folder / "report.html" if arguments.output is None else Path(arguments.output)
    with styled(None):
        page = render(run)
    try:
        with atomic_write(path) as file:
            file.write(page.encode(errors="replace"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--output: cannot write {path!s:.100}: {reason}; give another file"
        ) from error
    sys.stdout.write(f"report   {path}\n")


def render(run: "Run") -> str:
    """Return the page.

    Args:
        run: The run, whose files are not trusted.

    Raises:
        InputError: A file of the run is damaged.
    """
    facts = run.provenance
    warnings = facts.get("warnings")
    warned = [str(line) for line in warnings] if isinstance(warnings, list) else None
    sections = [
        ("What was run", _pairs(_list_what(run))),
        ("Transition of the class", _render_transitions(run)),
        ("Accuracy on the reference set", _render_references(run)),
        ("Figures", "\n".join(_render_figures(run))),
        ("Warnings", _render_warnings(warned)),
        ("Tables", "\n".join(_render_tables(run))),
        ("What it ran on", _pairs(_list_where(facts))),
        ("Config", _render_config(run)),
    ]
    body = "\n".join(f"<h2>{escape(title)}</h2>\n{text}" for title, text in sections if text)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(run.name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(run.name)}</h1>
{body}
</body>
</html>
"""


def _get(config: Any, *names: str) -> Any:
    """Look up a nested value; None if there is none."""
    for name in names:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _list_what(run: "Run") -> dict[str, str]:
    config, facts = run.config, run.provenance
    command = facts.get("command")
    what = {
        "command": " ".join(map(str, command)) if isinstance(command, list) and command else "",
        "status": str(facts.get("status") or _UNKNOWN),
        "started": str(facts.get("started") or _UNKNOWN),
        "duration": _describe_duration(facts.get("duration")),
    }
    for part in ("model", "data"):
        what[part] = str(_get(config, part, "class_path") or "").rpartition(".")[2]
    process = _get(config, "model", "init_args", "process", "class_path")
    what["process"] = str(process or "").rpartition(".")[2]
    grammar = _get(config, "data", "init_args", "rhm", "init_args")
    if isinstance(grammar, Mapping):
        what["grammar"] = ", ".join(f"{name} = {value}" for name, value in grammar.items())
    times = _get(config, "model", "init_args", "times")
    if isinstance(times, list) and times:
        what["inversion times"] = f"{len(times)}, from {times[0]} to {times[-1]}"
    callbacks = _get(config, "trainer", "callbacks")
    if isinstance(callbacks, list):
        names = [str(_get(x, "class_path") or "").rpartition(".")[2] for x in callbacks]
        what["measurements"] = ", ".join(filter(None, names))
    return {name: text for name, text in what.items() if text}


def _list_where(facts: Mapping[str, Any]) -> dict[str, str]:
    if not facts.get("versions"):
        return {"": "not recorded: an earlier version of lit-hier wrote this run"}
    states = {"True": "clean", "False": "with changes that are not committed"}
    clean = states.get(str(facts.get("clean")), "not known to be clean")
    commit = facts.get("commit")
    where = {
        "lit-hier": str(facts.get("lit_hier", _UNKNOWN)),
        "commit": f"{commit}, {clean}" if commit else "none: installed, not a checkout",
        "device": str(facts.get("device", _UNKNOWN)),
        "platform": str(facts.get("platform", _UNKNOWN)),
        "precision": str(facts.get("precision", _UNKNOWN)),
    }
    for name in ("processes", "nodes", "threads"):
        where[name] = str(facts.get(name, _UNKNOWN))
    for name in ("peak_memory", "peak_device_memory"):
        value = facts.get(name)
        if isinstance(value, int):
            where[name.replace("_", " ")] = f"{value / 1e9:.2f} GB"
    versions = facts.get("versions")
    if isinstance(versions, Mapping):
        where |= {str(name): str(value or "not installed") for name, value in versions.items()}
    return where


def _describe_duration(seconds: Any) -> str:
    from lit_hier.cli.estimate import describe_duration

    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        return _UNKNOWN
    return describe_duration(seconds)


def _pairs(values: Mapping[str, str]) -> str:
    rows = "\n".join(
        f"<tr><th>{_escape(name)}</th><td>{_escape(text)}</td></tr>"
        for name, text in values.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _escape(value: object) -> str:
    text = one_line(value)
    return escape(text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]} ...")


def _render_transitions(run: "Run") -> str:
    from lit_hier.results import find_transitions

    found = find_transitions(run)
    if not len(found) and "transition_points" in run.tables:
        found = run.table("transition_points")
    if not len(found):
        return ""
    note = (
        "The place is where the probability of the true class is half way from 1 to chance; the"
        " width is from three quarters to one quarter of the way. Errors are standard errors."
    )
    return f"<p>{note}</p>\n{_render_table(found)}"


def _render_references(run: "Run") -> str:
    rows = []
    for name in run.tables:
        if not name.endswith("_reference"):
            continue
        table = run.table(name)
        if {"count", "top1"} <= set(table.columns):
            rows += [(name, row) for row in table.to_dict("records")]
    if not rows:
        return ""
    lines = []
    for name, row in rows:
        text = f"{row.get('split', '')} split, {row['count']} samples: "
        text += _describe_accuracy(row, "top1") + ", " + _describe_accuracy(row, "top5")
        lines.append(f"<li>{_escape(name)}: {_escape(text)}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _describe_accuracy(row: Mapping[Any, Any], name: str) -> str:
    from scipy.stats import binomtest

    try:
        share, count = float(row[name]), int(row["count"])
    except (KeyError, TypeError, ValueError):
        return f"{name} {_UNKNOWN}"
    if not (0 <= share <= 1) or count < 1:
        return f"{name} {_UNKNOWN} (no classifier, or no classes)"
    interval = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return f"{name} {share:.2%} (95 % interval {interval.low:.2%} to {interval.high:.2%})"


def _render_figures(run: "Run") -> Iterator[str]:
    from lit_hier.io.safe_read import read_file

    drawn = set()
    for path in sorted(run.folder.glob("[!.]*.png")):
        try:
            content = read_file(path, _MAX_FIGURE, follow=False)
        except OSError:
            continue
        if content.startswith(_PNG):
            drawn.add(path.stem)
            yield _embed(content, path.stem)
    for name in run.figures:
        # Some tables have several figures, each with a suffix.
        if not any(stem == name or stem.startswith(f"{name}_") for stem in drawn):
            output = BytesIO()
            try:
                run.figure(name).savefig(output, format="png")
            except (InputError, RuntimeError, ValueError) as error:
                yield f"<p>{_escape(name)} cannot be drawn: {_escape(error)}</p>"
                continue
            yield _embed(output.getvalue(), f"{name}, drawn from its table")


def _embed(content: bytes, name: str) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{_escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_escape(name)}</figcaption></figure>"
    )


def _render_warnings(warned: Sequence[str] | None) -> str:
    if warned is None:
        return "<p>not recorded</p>"
    if not warned:
        return "<p>none</p>"
    return f"<ul>{''.join(f'<li>{escape(one_line(line))}</li>' for line in warned)}</ul>"


def _render_tables(run: "Run") -> Iterator[str]:
    for name in run.tables:
        table = run.table(name)
        title = f"{name}.csv ({len(table)} rows)"
        yield f"<details><summary>{_escape(title)}</summary>\n{_render_table(table)}</details>"


def _render_table(table: "DataFrame") -> str:
    head = "".join(f"<th>{_escape(name)}</th>" for name in table.columns)
    rows = []
    for row in table.head(_MAX_ROWS).itertuples(index=False):
        cells = []
        for value in row:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            kind = "" if isinstance(value, str) else ' class="n"'
            cells.append(f"<td{kind}>{_escape(text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    more = len(table) - _MAX_ROWS
    note = f"<p>and {more} more rows in the file</p>" if more > 0 else ""
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _render_config(run: "Run") -> str:
    from lit_hier.io.formats import CONFIG_FILE
    from lit_hier.io.safe_read import read_file

    if not run.config:
        return ""
    text = read_file(run.folder / CONFIG_FILE).decode(errors="replace")[:_MAX_CONFIG]
    return f"<details><summary>config.yaml</summary><pre>{escape(text)}</pre></details>"
