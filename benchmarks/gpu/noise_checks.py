"""Noise, precision and synchronization: what a sample on the card depends on."""

from types import SimpleNamespace
from typing import Any

import image_sampler
import torch
from card import Card
from runner import Report
from torch import Tensor

from lit_hier.callbacks import ActivationSimilarity
from lit_hier.diffusion.reverse import ReverseProcess
from lit_hier.metrics import Standardization, channel_moments
from lit_hier.nn import HierarchicalCNN, Probe
from lit_hier.processes import EpsilonNoise, GaussianNoise, MaskingNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel
from lit_hier.streams import Purpose, generators, uniform

PROCESSES: dict[str, tuple[NoiseProcess, list[float]]] = {
    "epsilon": (EpsilonNoise(), [0.0, 0.3, 0.73, 1.0]),
    "strings": (EpsilonNoise(strings=True), [0.0, 0.3, 0.73, 1.0]),
    "masking": (MaskingNoise(), [0.0, 0.3, 0.73, 1.0]),
    "gaussian": (GaussianNoise(), [0.0, 0.1, 0.7, 2.5]),
}
# Relative to 1 + |x|: functions such as the normal quantile are not rounded alike everywhere.
QUANTILE_ROUNDING = 1e-13
# Of the samples, relative to their spread: a choice, as no bound is known for a network.
ALLOWED_OF_SPREAD = {"bf16": 0.2, "16": 0.05}


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to 1 + |b|."""
    a, b = a.cpu().double(), b.cpu().double()
    return float(((a - b).abs() / (1 + b.abs())).max())


def tell(equal: bool, largest: float) -> str:
    """Say whether bits are equal, or how different they are."""
    return "equal bits" if equal else f"largest difference {largest:.1e}"


def check_noise(card: Card, report: Report) -> None:
    """Compare a sample's random numbers, its corruption and its x_k with the CPU's."""
    index = torch.tensor([*range(100), 7, 1000, 12345])
    pairs = [
        (uniform(5, purpose, card.put(index), time, 37), uniform(5, purpose, index, time, 37))
        for purpose in Purpose
        for time in (0.0, 0.7)
    ]
    report.row(
        f"uniform numbers of {len(Purpose)} purposes",
        tell(all(torch.equal(a.cpu(), b) for a, b in pairs), max(difference(*p) for p in pairs)),
        "equal bits",
        all(torch.equal(a.cpu(), b) and a.device.type == card.device.type for a, b in pairs),
    )
    v, num = 16, card.size(512, 20)
    rhm = RandomHierarchyModel(v, 4, 2, 7)
    leaves = rhm.sample(num, torch.Generator().manual_seed(0))[0]
    index = torch.arange(num)
    for name, (process, times) in PROCESSES.items():
        equal, largest = {"x_t": True, "beliefs": True}, {"x_t": 0.0, "beliefs": 0.0}
        num_draws = process.num_draws(leaves.shape[1], v)
        for time in times:
            found = []
            for put in (card.put, lambda x: x):
                draws = uniform(0, Purpose.CORRUPTION, put(index), time, num_draws)
                observed = process.corrupt(put(leaves), time, draws, v)
                beliefs = process.messages(observed, time, v, torch.float32)
                found.append({"x_t": observed.cpu(), "beliefs": beliefs.cpu()})
            for part, on_card in found[0].items():
                equal[part] &= torch.equal(on_card, found[1][part])
                largest[part] = max(largest[part], difference(on_card, found[1][part]))
        exact = name != "gaussian"
        for part, rounding in (("x_t", QUANTILE_ROUNDING), ("beliefs", 1e-6)):
            report.row(
                f"{name}: {part} at {len(times)} times",
                tell(equal[part], largest[part]),
                "equal bits" if exact else f"{rounding:.0e} of 1 + abs(x)",
                equal[part] if exact else largest[part] <= rounding,
            )
    _check_images(card, report)


def _check_images(card: Card, report: Report) -> None:
    """Compare x_k, and the noise of the scheduler's steps, with a model that predicts zero."""
    process = ReverseProcess(image_sampler.adm_scheduler(), 25)
    side = card.size(64, 8)
    x_0 = torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    index, steps = torch.tensor([3, 4, 5, 6, 70, 8]), [0, 1, 5, 12, 24, 25]
    x_k: list[list[Tensor]] = [[], []]
    for k in steps:
        eta = torch.stack(
            [torch.randn(x_0.shape[1:], generator=g) for g in generators(0, index, k)]
        )
        for found, put in zip(x_k, (card.put, lambda x: x), strict=True):
            found.append(process.noise(put(x_0), k, put(eta)).cpu())
    report.row(
        f"images: x_k for k = {', '.join(map(str, steps))}",
        tell(torch.equal(*map(torch.stack, x_k)), difference(*map(torch.stack, x_k))),
        "equal bits",
        torch.equal(*map(torch.stack, x_k)),
    )

    def sample(put: Any) -> Tensor:
        streams = [generators(0, index, k) for k in steps]
        zeros = lambda x, timesteps: x.new_zeros(len(x), 6, side, side)  # noqa: E731
        return process.sample(zeros, put(x_0), steps, streams, 4).cpu()

    on_card, on_cpu = sample(card.put), sample(lambda x: x)
    report.row(
        "images: samples of a model that predicts zero, 25 steps",
        tell(torch.equal(on_card, on_cpu), difference(on_card, on_cpu)),
        "1e-4 of 1 + abs(x): the same noise in every step",
        difference(on_card, on_cpu) <= 1e-4,
    )


def check_precision(card: Card, report: Report) -> None:
    """Compare image sampling in bf16 and fp16 with float32 on the card."""
    config = card.size(image_sampler.ADM256, {**image_sampler.SMALL, "sample_size": 8})
    scheduler = card.size(image_sampler.adm_scheduler, image_sampler.DDPMScheduler)()
    num_steps = card.size(20, 6)
    steps = [1, num_steps // 2, num_steps]
    process = ReverseProcess(scheduler, num_steps)
    side, num = config["sample_size"], 3
    x_0 = card.put(torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(0)))
    x_0, index = x_0 * 2 - 1, torch.arange(num)
    device, samples = card.device.type, {}
    for name in ("32", *ALLOWED_OF_SPREAD):
        model = image_sampler.TimedModel(config, device, image_sampler.DTYPES[name], name != "32")
        streams = [generators(0, index, k) for k in steps]
        with torch.inference_mode():
            samples[name] = process.sample(model.denoise, x_0, steps, streams, num * len(steps))
        del model
    wanted = samples["32"]
    spread = wanted.std((1, 2, 3, 4))
    for name, allowed in ALLOWED_OF_SPREAD.items():
        error = samples[name] - wanted
        share = error.square().mean((1, 2, 3, 4)).sqrt() / spread
        shares = ", ".join(f"{x:.2g} at k = {k}" for x, k in zip(share, steps, strict=True))
        report.row(
            f"{'fp16' if name == '16' else name} against float32, {num_steps} steps,"
            f" random weights, {side} x {side}",
            f"difference over spread {shares}; largest difference of a pixel"
            f" {float(error.abs().max()):.2g}, spread {float(spread.min()):.2g} to"
            f" {float(spread.max()):.2g}",
            f"{allowed:g} of the spread (a choice)",
            bool(share.isfinite().all()) and float(share.max()) <= allowed,
        )
        report.number(name, share.tolist())


def check_synchronization(card: Card, report: Report) -> None:
    """Count how often a network's analysis waits for the card, for two depths."""
    counts: dict[str, dict[int, int]] = {"similarity": {}, "reference statistics": {}}
    for depth in (3, 6):
        v, num = 16, 32
        x = card.put(torch.randn(num, v, 2**depth))
        network = HierarchicalCNN(v, v, 2, depth, 32).to(card.device)
        callback = ActivationSimilarity(network, ["layers.*", "readout"])
        moments: dict[str, Any] = {}
        probe: Probe = callback.probe
        probe.check(x[:4])
        probe(x, lambda name, y, kept=moments: kept.__setitem__(name, channel_moments(y)))
        callback.standardizations = {
            name: Standardization(*(part.to(card.device) for part in Standardization.of(value)))
            for name, value in moments.items()
        }
        callback.times = [0.1, 0.5, 0.9]
        record = SimpleNamespace(
            x_start=x,
            x_reversed=torch.stack([x + 0.1 * k for k in range(3)]),
            times=torch.tensor(callback.times),
            index=torch.arange(num),
        )
        sampler = SimpleNamespace(track=iter)
        with torch.inference_mode():
            counts["similarity"][depth] = card.synchronizations(
                lambda call=callback.measure, r=record, s=sampler: call(None, s, r)
            )
            counts["reference statistics"][depth] = card.synchronizations(
                lambda p=probe, x=x: p(x, lambda name, y: channel_moments(y))
            )
    for what, found in counts.items():
        (a, few), (b, many) = found.items()
        report.row(
            f"{what}: synchronizations per batch, networks of {a} and {b} layers",
            f"{few} and {many}",
            "equal numbers: none per layer",
            few == many,
        )
    report.number("counts", counts)
