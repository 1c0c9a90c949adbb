"""Logits and classes that do not belong together are noticed on the reference set."""

import math
import re
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import rows
from image_runs import predict, sampler
from torch import Tensor, nn

from lit_hier.callbacks import ActivationSimilarity, reference
from lit_hier.callbacks.agreement import (
    accuracy_holds,
    count_predictions,
    describe_numbers,
    describe_permutation,
    empty_counts,
    permuted_accuracy,
)
from lit_hier.data import DigitsDataModule

CPU = torch.device("cpu")


def counted(predicted: Tensor, label: Tensor, num_logits: int, num_classes: int) -> Tensor:
    counts = empty_counts(num_logits, num_classes, CPU)
    for part in torch.arange(len(label)).split(700):
        count_predictions(counts, predicted[part], label[part], part)
    return counts


def lines_of(predicted: Tensor, label: Tensor, num_logits: int, num_classes: int) -> list[str]:
    top1 = float((predicted == label).double().mean())
    permuted = permuted_accuracy(counted(predicted, label, num_logits, num_classes))
    lines = (
        describe_numbers(num_logits, num_classes, []),
        describe_permutation(len(label), top1, permuted),
    )
    return list(filter(None, lines))


def test_predictions_are_counted_once_in_two_halves() -> None:
    generator = np.random.default_rng(0)
    label = torch.from_numpy(generator.integers(-1, 5, 400))
    predicted = torch.from_numpy(generator.integers(0, 7, 400))
    counts = counted(predicted, label, 7, 5)
    wanted = torch.zeros(7, 5, dtype=torch.int64)
    for k, (logit, name) in enumerate(zip(predicted, label, strict=True)):
        wanted[logit, name] += k >= 0 and name >= 0
    assert torch.equal(counts.sum(0), wanted)
    assert 0.4 < counts[0].sum() / counts.sum() < 0.6
    # Neither half lacks a class where classes alternate.
    label = torch.arange(400) % 2
    assert (counted(label, label, 2, 2).sum(1) > 80).all()


@pytest.mark.parametrize("num_classes", [2, 3, 12, 100])
@pytest.mark.parametrize("accuracy", [0.6, 0.9, 1.0])
def test_a_permutation_of_the_classes_is_found(num_classes: int, accuracy: float) -> None:
    generator = np.random.default_rng(num_classes)
    label = torch.arange(60 * num_classes) % num_classes
    order = torch.from_numpy(generator.permutation(num_classes).copy()).roll(1)
    order = torch.arange(num_classes).roll(1) if num_classes < 4 else order
    wrong = torch.from_numpy(generator.random(len(label)) > accuracy)
    noise = torch.from_numpy(generator.integers(0, num_classes, len(label)))
    predicted = torch.where(wrong, noise, label)
    assert lines_of(predicted, label, num_classes, num_classes) == []
    (line,) = lines_of(order[predicted], label, num_classes, num_classes)
    assert line.startswith("reference/accuracy is ")
    assert f"but {permuted_accuracy(counted(predicted, label, *[num_classes] * 2)):.2%} " in line
    assert len(line) <= 360


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("num", [10, 300, 5000])
def test_chance_is_not_a_permutation(num_classes: int, num: int) -> None:
    for seed in range(5):
        generator = np.random.default_rng(seed)
        label, predicted = torch.from_numpy(generator.integers(0, num_classes, (2, num)))
        assert lines_of(predicted, label, num_classes, num_classes) == []
        assert lines_of(torch.zeros_like(label), label, num_classes, num_classes) == []


def test_another_number_of_logits_is_said_with_both_numbers() -> None:
    label = torch.arange(3000) % 1000
    first, second = lines_of(label + 1, label, 1001, 1000)
    assert first.startswith("network: it has 1001 logits, but the data have 1000 classes; its acc")
    assert first.endswith("such as a background class, give class_offset")
    assert second.startswith("reference/accuracy is 0.00%, but ")
    (line,) = lines_of(label % 5, label % 5, 5, 7)
    assert line.startswith("network: it has 5 logits, but the data have 7 classes; ")
    assert lines_of(label % 5, label % 5, 5, 5) == []
    assert describe_numbers(1000, 10, ["cat"] * 10).count("its accuracy is unknown; if") == 1


def test_accuracy_needs_labels_that_mean_logits() -> None:
    assert accuracy_holds(1000, 1000, ["cat"] * 1000)
    assert accuracy_holds(1000, 951, [])  # numbers, of which the last have no image
    assert accuracy_holds(1000, 2, ["0", "1"])
    assert accuracy_holds(1000, 0, [])
    assert not accuracy_holds(1000, 2, ["cat", "dog"])
    assert not accuracy_holds(1, 2, ["0", "1"])


def test_too_many_classes_are_not_counted() -> None:
    counts = counted(torch.arange(9), torch.arange(9), 10**5, 10**5)
    assert counts.shape == (2, 0, 0)
    assert math.isnan(permuted_accuracy(counts))
    assert describe_permutation(9, 0.0, math.nan) == ""


def linear(order: Tensor, num_logits: int) -> nn.Sequential:
    """Return a linear classifier of digits; the logit `order[k]` is that of class k."""
    data = DigitsDataModule()
    data.setup()
    images = data._splits["train"]
    x = images.images.flatten(1).double() / 127.5 - 1
    wanted = torch.nn.functional.one_hot(order[images.label], num_logits).double()
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    weight = torch.linalg.lstsq(torch.cat((x, ones), 1), wanted, driver="gelsd").solution.float()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_logits))
    network[1].weight = nn.Parameter(weight[:-1].T.contiguous())
    network[1].bias = nn.Parameter(weight[-1])
    return network


def test_a_run_says_that_classes_are_permuted(pipeline: str, tmp_path: Path) -> None:
    """In the run that computes the statistics, and in one that loads them."""
    network = linear(torch.arange(10).roll(1), 11)
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(pipeline, tmp_path, network)
        lines = [str(each.message) for each in caught]
        assert any("it has 11 logits, but the data have 10 classes" in line for line in lines)
        (line,) = (line for line in lines if "with a permutation of the classes" in line)
        before, after = (float(number) for number in re.findall(r"([\d.]+)%", line))
        assert before < 10 < 80 < after
    assert len(list(tmp_path.rglob("reference/*.npz"))) == 1


def test_named_classes_have_no_accuracy_at_another_number_of_logits(
    pipeline: str, tmp_path: Path
) -> None:
    """That is said before the reference set is read."""
    line = "^network: it has 11 logits, but the data have 10 classes; its accuracy is unknown"
    names = tuple(f"digit {k}" for k in range(10))
    network = linear(torch.arange(10), 11)
    computed = patch.object(reference, "_compute", side_effect=InterruptedError)
    with patch.object(DigitsDataModule, "classes", names):
        with computed, pytest.warns(UserWarning, match=line), pytest.raises(InterruptedError):
            run(pipeline, tmp_path, network)
        with pytest.warns(UserWarning, match=line):
            run(pipeline, tmp_path, network)
    (table,) = tmp_path.rglob("similarity_reference.csv")
    assert (rows(table)[0]["top1"], rows(table)[0]["top5"]) == ("nan", "nan")


def run(pipeline: str, folder: Path, network: nn.Module) -> None:
    model = sampler(pipeline, None, times=[0, 1], num_steps=2)
    predict(folder, model, [ActivationSimilarity(network, ["1"])], num_test=300, num_predict=2)
