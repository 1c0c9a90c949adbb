"""Speed of belief propagation, as a share of the card's copy bandwidth.

Counted are the bytes that must move: leaf messages are read once and marginals written once; with
trees, also the draws and the trees. What is written and read again in between is not counted, and
so lowers the rate.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from card import Card, Copy, quartiles
from runner import Report, one_line
from sizes import LARGE, SETTINGS, SMALL, TIMED, TINY, Size, kernel_name, setting_name
from torch import Tensor
from variants import PLAIN, VARIANTS, kernel

from lit_hier.inference import BeliefPropagation
from lit_hier.inference.passes import Passes, Query
from lit_hier.inference.semirings import LinearSemiring
from lit_hier.processes import EpsilonNoise
from lit_hier.rhm import RandomHierarchyModel

# The goal's batches, largest first; then those where the launches of kernels take the time.
BATCHES = {LARGE: (4096, 1024, 256), SMALL: (65536, 16384, 4096)}
FEW = (1, 32)
QUERIES: dict[str, tuple[Query, ...]] = TIMED
TABLE = "Belief propagation, float32"
ROUNDS = 7


class Problem:
    """A grammar on the card, leaf messages of some samples, and draws."""

    def __init__(self, card: Card, size: Size, batch: int) -> None:
        rhm = RandomHierarchyModel(*size)
        self.size, self.batch = size, batch
        self.bp = BeliefPropagation(rhm).to(card.device)
        g = torch.Generator().manual_seed(0)
        leaves = card.put(rhm.sample(batch, g)[0])
        self.messages = EpsilonNoise().messages(leaves, 0.6, size[0], torch.float32)
        shape = (batch, 1 + self.bp.tables.num_choices)
        self.draws = card.put(torch.rand(shape, generator=g, dtype=torch.float64))

    def query(self, queries: tuple[Query, ...]) -> dict[Query, tuple[Tensor, ...]]:
        """Answer queries, as a run does."""
        draws = self.draws if "trees" in queries else None
        return self.bp.condition(self.messages).query(*queries, draws=draws)

    def count_bytes(self, queries: tuple[Query, ...]) -> int:
        """Count the bytes that must move."""
        answers = self.query(queries)
        draws = self.draws.nbytes if "trees" in queries else 0
        written = sum(x.nbytes for levels in answers.values() for x in levels)
        return self.messages.nbytes + draws + written

    def passes(self) -> tuple[Tensor, ...]:
        """Compute marginals by the plain path's work on the card, and the bounds on underflow."""
        prior = self.bp.tables.class_prior.expand(self.batch, -1)
        passes = Passes(self.bp.tables, self.messages, prior, LinearSemiring())
        marginals = tuple(level.contiguous() for level in passes.marginals())
        return (*marginals, passes.loss)


def measure(
    card: Card, report: Report, copy: Copy, problem: Problem, query: str,
    calls: dict[str, Callable[[], Any]],
    ways: Mapping[str, Callable[[], AbstractContextManager[None]]] = VARIANTS,
) -> None:  # fmt: skip
    """Time calls in interleaved rounds with the copy, and report a row for each.

    A call that is named like a way is made in it; to switch is not timed.
    """

    def way(name: str) -> AbstractContextManager[None]:
        return ways[name]() if name in ways else nullcontext()

    first, repeats = {}, {}
    for name, call in calls.items():
        with way(name):
            first[name], repeats[name] = card.seconds(call), card.repeats(call)
    with PLAIN():
        moved = problem.count_bytes(QUERIES[query])
    times: dict[str, list[float]] = {name: [] for name in calls}
    copies = []
    for _ in range(card.size(ROUNDS, 2)):
        copies.append(copy.rate())
        for name, call in calls.items():
            with way(name):
                times[name].append(card.seconds(call, repeats[name]))
        if report.left() < 2:
            break
    bandwidth = quartiles(copies)[1]
    for name, call in calls.items():
        low, middle, high = quartiles(times[name])
        with way(name):
            own = card.kernel_seconds(call)
        size = ", ".join(map(str, problem.size))
        rates = [moved / seconds for seconds in (middle, own)]
        cells = {
            "v, m, s, L": size,
            "batch": f"{problem.batch:,}",
            "query": query,
            "way": name,
            "first call, s": f"{first[name]:.3f}",
            "call, ms": f"{1e3 * middle:.3f} ({1e3 * low:.3f} to {1e3 * high:.3f})",
            "GB/s": f"{rates[0] / 1e9:,.0f}",
            "of copy": f"{rates[0] / bandwidth:.1%}",
            "kernels alone, ms": f"{1e3 * own:.3f}",
            "their GB/s": f"{rates[1] / 1e9:,.0f}",
            "their part of copy": f"{rates[1] / bandwidth:.1%}",
        }
        report.cells(TABLE, cells)
        report.number(
            f"{size}, batch {problem.batch}, {query}, {name}",
            {"seconds": times[name], "kernels": own, "first": first[name], "bytes": moved,
             "copies": copies},
        )  # fmt: skip


def problems(card: Card) -> list[tuple[tuple[int, ...], int]]:
    """List grammars and batches, the most important first."""
    large = [(size, batch) for size, batches in BATCHES.items() for batch in batches]
    small = [(size, batch) for size in BATCHES for batch in FEW]
    return card.size(large + small, [(TINY, 8), (TINY, 1)])


def in_time(report: Report, cases: Iterable[tuple[Size, int]]) -> Iterator[tuple[Size, int]]:
    """Yield grammars and batches while there is time, and report those that are left out."""
    for size, batch in cases:
        if report.left() < 5:
            report.note(f"{size}, batch {batch}", "left out: no time")
        else:
            yield size, batch


def measure_queries(card: Card, report: Report) -> None:
    """Time marginals, and marginals with trees, by every variant."""
    copy = Copy(card)
    for size, batch in in_time(report, problems(card)):
        problem = Problem(card, size, batch)
        for query, queries in QUERIES.items():
            calls = dict.fromkeys(VARIANTS, partial(problem.query, queries))
            if not card.rehearse and kernel_name(size, "float32", queries) not in report.known:
                del calls["kernel"]
                name = f"kernel, {size}, batch {batch}, {query}"
                report.row(name, "left out: its compilation failed", "compiled", False)
            measure(card, report, copy, problem, query, calls)
    report.note("belief propagation", "see the table below")


def measure_settings(card: Card, report: Report) -> None:
    """Time marginals by the kernel with other settings than the package's own."""
    copy, query = Copy(card), "marginals"
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {"kernel": kernel}
    ways |= {setting_name(setting): partial(kernel, *setting) for setting in SETTINGS}
    ends = [
        (size, batch) for size, (large, *_, small) in BATCHES.items() for batch in (large, small)
    ]
    for size, batch in in_time(report, card.size(ends, [(TINY, 8)])):
        kinds = {"kernel": None} | {setting_name(setting): setting for setting in SETTINGS}
        compiled = [
            name
            for name, setting in kinds.items()
            if card.rehearse
            or kernel_name(size, "float32", QUERIES[query], setting) in report.known
        ]
        problem = Problem(card, size, batch)
        call = partial(problem.query, QUERIES[query])
        measure(card, report, copy, problem, query, dict.fromkeys(compiled, call), ways)
        for name in kinds.keys() - set(compiled):
            report.note(f"{name}, {size}", "left out: not compiled")
    report.note("settings of the kernel", "see the table below")


def measure_graphs(card: Card, report: Report) -> None:
    """Time the plain path's work on the card as a CUDA graph."""
    copy = Copy(card)
    for size, batch in in_time(report, problems(card)):
        problem = Problem(card, size, batch)
        with PLAIN(), torch.no_grad():
            expected = problem.passes()
            start = time.perf_counter()
            if card.rehearse:
                answers, replay = problem.passes(), problem.passes
            else:
                try:
                    answers, replay = capture(problem)
                except RuntimeError as error:
                    report.note(f"{size}, batch {batch}: not capturable", one_line(str(error)))
                    torch.cuda.synchronize()
                    continue
            report.number(f"{size}, batch {batch}: capture", time.perf_counter() - start)
            replay()
            card.synchronize()
            equal = all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
            report.row(
                f"CUDA graph of the plain path, {size}, batch {batch}",
                "equal bits" if equal else "other bits",
                "the plain path's bits",
                equal,
            )
            measure(card, report, copy, problem, "marginals", {"graph of plain": replay})
        del answers, replay, expected, problem
        if not card.rehearse:
            torch.cuda.empty_cache()


def capture(problem: Problem) -> tuple[tuple[Tensor, ...], Callable[[], None]]:
    """Capture the plain path as a CUDA graph; return its outputs, and what computes them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            problem.passes()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = problem.passes()
    return answers, graph.replay


def measure_compiled(card: Card, report: Report) -> None:
    """Time the plain path as torch.compile translates it, if that takes less than a minute."""
    copy = Copy(card)
    # The smaller grammar, whose passes have fewer operations, first.
    for size, batch in card.size([(SMALL, 65536), (LARGE, 1024)], [(TINY, 8)]):
        problem = Problem(card, size, batch)
        # On a CPU the rehearsal needs no C++ compiler.
        compiled = torch.compile(
            problem.passes, dynamic=False, backend=card.size("inductor", "aot_eager")
        )
        name = f"torch.compile of the plain path, {size}, batch {batch}"
        with PLAIN(), torch.no_grad():
            start = time.perf_counter()
            try:
                answers = compiled()
            except Exception as error:  # of compilers, which the machine may lack
                report.note(name, f"does not compile: {one_line(str(error))}")
                continue
            card.synchronize()
            report.note(name, f"compiled in {time.perf_counter() - start:.1f} s")
            expected = problem.passes()
            largest = max(
                float((a - b).abs().max())
                for a, b in zip(answers[:-1], expected[:-1], strict=True)
            )
            report.row(name, f"largest difference {largest:.1e}", "1e-5", largest <= 1e-5)
            measure(card, report, copy, problem, "marginals", {"compiled plain": compiled})
