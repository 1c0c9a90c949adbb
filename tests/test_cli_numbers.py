"""An integer stays an integer wherever an option takes an integer or a float."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, List, Optional, Union, get_args  # noqa: UP035

import pytest
from conftest import ROOT, rows, run_in
from pytorch_lightning import Trainer

from lit_hier.cli.allowed import ALLOWED
from lit_hier.cli.parser import OneLineParser, order_numbers

# Python may replace an equal union of another order by this one.
OTHER_ORDER = Optional[Union[float, int]]  # noqa: UP007, UP045
SMALL = ("predict", "-c", f"{ROOT}/configs/fig5.yaml", "-c", f"{ROOT}/configs/fast.yaml",
         "--data.init_args.num_predict=4", "--data.init_args.eval_batch_size=1",
         "--trainer.enable_progress_bar=false")  # fmt: skip


def options() -> Iterator[tuple[type, str]]:
    """List the arguments that take an integer or a float, of all classes in configs."""
    for kind in {Trainer, *ALLOWED.values()}:
        for name, parameter in inspect.signature(kind).parameters.items():
            if all(part in get_args(parameter.annotation) for part in (int, float)):
                yield kind, name


OPTIONS = sorted(options(), key=str)


def test_the_options_are_found() -> None:
    names = {name for _, name in OPTIONS}
    limits = {f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")}
    assert names >= limits | {"overfit_batches", "val_check_interval", "swa_epoch_start"}


@pytest.mark.parametrize(("kind", "name"), OPTIONS)
def test_an_integer_stays_an_integer(kind: type, name: str) -> None:
    parameters = inspect.signature(kind).parameters
    parser = OneLineParser()
    others = {key for key in parameters if key != name}
    parser.add_class_arguments(kind, "it", skip=others, fail_untyped=False, instantiate=False)
    now = inspect.signature(kind).parameters[name]
    assert now.annotation is parameters[name].annotation
    for text, value in (("1", 1), ("1.0", 1.0), ("2", 2), ("0.5", 0.5), ("-1", -1)):
        for config in (
            parser.parse_args([f"--it.{name}={text}"]),
            parser.parse_string(f"it:\n  {name}: {text}\n"),
            parser.parse_object({"it": {name: value}}),
        ):
            assert (type(config.it[name]), config.it[name]) == (type(value), value)
            saved = parser.parse_string(parser.dump(config))
            assert type(saved.it[name]) is type(value)


@pytest.mark.parametrize(
    ("annotation", "is_optional", "parts"),
    [
        (Union[float, int], False, (int, float)),  # noqa: UP007
        (float | int | None, False, (int, float, type(None))),
        (float | int, True, (int, float, type(None))),
        (OTHER_ORDER, False, (int, float, type(None))),
        (str | int | bool | float, False, (str, bool, int, float)),
        (float | str, False, (float, str)),
    ],
)
def test_integers_come_first(annotation: Any, is_optional: bool, parts: tuple[type, ...]) -> None:
    assert get_args(order_numbers(annotation, is_optional)) == parts


def test_integers_come_first_inside_other_types() -> None:
    for nested in (list[float | int], List[float | int], dict[str, float | int]):  # noqa: UP006
        assert get_args(get_args(order_numbers(nested))[-1]) == (int, float)
    assert order_numbers(list[int]) == list[int]


def test_a_number_of_batches_is_no_fraction(tmp_path: Path) -> None:
    run_in(tmp_path, *SMALL, "--trainer.limit_predict_batches=1")
    (table,) = tmp_path.rglob("reconstruction.csv")
    assert {row["count"] for row in rows(table)} == {"1"}
