"""Speed of image sampling at 256 x 256, and of looking into a network.

Images per second are evaluations of the model, on one image each. The full experiment, Figs. 2 and
16 of the paper, is 1,375 of them for each of 10,000 images.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import image_sampler
import similarity
import torch
from card import Card, matrix_rate, quartiles
from compilation import TABLE
from runner import Report, one_line
from torch import Tensor

from lit_hier.diffusion.reverse import ReverseProcess
from lit_hier.streams import generators

EVALUATIONS, IMAGES = 1375, 10_000
RATE_OF = {"32": "fp32", "bf16": "bf16", "16": "fp16", "tf32": "tf32"}
STEP = 1  # inversion step of the timed images: two evaluations each
TINY_MODEL = {**image_sampler.SMALL, "sample_size": 8}
MAX_SECONDS = 10.0  # per setting, after which no further round begins


@dataclass(frozen=True)
class Setting:
    """A way to run the model."""

    precision: str
    batch: int
    compiled: bool = False

    @property
    def name(self) -> str:
        """Name in the table."""
        if self.precision in ("32", "tf32"):
            return f"{'float32' if self.precision == '32' else 'float32 with TF32'}, eager"
        kind = "bf16" if self.precision == "bf16" else "fp16"
        return f"{kind}, channels last, {'compiled' if self.compiled else 'eager'}"


COMPILED = Setting("bf16", 64, compiled=True)
# The most important first: what is compared, the setting of a run; then the sweep of batches, with
# the compilations that nothing has prepared last.
SETTINGS = (
    Setting("32", 16),
    Setting("bf16", 32),
    Setting("bf16", 64),
    COMPILED,
    Setting("bf16", 128),
    Setting("bf16", 16),
    Setting("bf16", 8),
    Setting("16", 32),
    Setting("tf32", 16),
    Setting("bf16", 128, compiled=True),
    Setting("bf16", 32, compiled=True),
    Setting("bf16", 16, compiled=True),
    Setting("bf16", 8, compiled=True),
)
TINY = (
    Setting("32", 2),
    Setting("bf16", 2),
    Setting("16", 2),
    Setting("tf32", 2),
    Setting("bf16", 2, compiled=True),
)


def measure_images(card: Card, report: Report) -> None:
    """Time the sampler's loop in every setting, until the time is up."""
    config = card.size(image_sampler.ADM256, TINY_MODEL)
    scheduler = card.size(image_sampler.adm_scheduler, image_sampler.DDPMScheduler)()
    process = ReverseProcess(scheduler, card.size(250, 4))
    flop = image_sampler.count_flop(config)
    report.number("FLOP per image and evaluation", flop)
    side = card.size(8192, 64)
    factors = [torch.randn(side, side, device=card.device) for _ in range(2)]
    plain = 0.0
    for setting in card.size(SETTINGS, TINY):
        name = f"{setting.name}, batch {setting.batch}"
        needed = card.size(60 if setting.compiled and setting != COMPILED else 20, 5)
        if report.left() < needed:
            report.note(name, "left out: no time")
            continue
        try:
            rate = _measure_setting(card, report, setting, config, process, flop, factors, plain)
        except torch.OutOfMemoryError as error:
            report.note(name, f"out of memory: {one_line(str(error))[:80]}")
            continue
        except Exception as error:
            if not setting.compiled:
                raise
            report.note(name, f"does not compile: {one_line(str(error))}")
            continue
        finally:
            card.use_tf32(False)
            torch.compiler.reset()
            gc.collect()
            if not card.rehearse:
                torch.cuda.empty_cache()
        plain = plain or rate
    report.note(f"images of {config['sample_size']} x {config['sample_size']}", "see the table")


def _make_model(card: Card, setting: Setting, config: dict) -> image_sampler.TimedModel:
    precision = "32" if setting.precision == "tf32" else setting.precision
    dtype = image_sampler.DTYPES[precision]
    model = image_sampler.TimedModel(config, card.device.type, dtype, precision != "32")
    if setting.compiled:
        # On a CPU the rehearsal needs no C++ compiler.
        model.model.compile(dynamic=False, backend=card.size("inductor", "aot_eager"))
    return model


def compile_images(card: Card, report: Report) -> None:
    """Run the model of one setting once, so that its compiled code is found on disk."""
    config, setting = card.size((image_sampler.ADM256, COMPILED), (TINY_MODEL, TINY[-1]))
    model, side = _make_model(card, setting, config), config["sample_size"]
    x = torch.zeros(setting.batch, 3, side, side, device=card.device)
    timesteps = torch.full((setting.batch,), 500, device=card.device)
    name = f"model of images, {setting.name}, batch {setting.batch}"
    try:
        with torch.inference_mode():
            seconds = card.seconds(lambda: model.run(x, timesteps))
    except Exception as error:  # of compilers, which the machine may lack
        report.note(name, f"does not compile: {one_line(str(error))}")
    else:
        report.cells(TABLE, {"compiled": name, "seconds": f"{seconds:.1f}"})


def _measure_setting(
    card: Card, report: Report, setting: Setting, config: dict, process: ReverseProcess,
    flop: int, factors: list[Tensor], plain: float,
) -> float:  # fmt: skip
    """Report the row of a setting; return its images per second."""
    side = config["sample_size"]
    if not card.rehearse:
        torch.cuda.reset_peak_memory_stats()
    card.use_tf32(setting.precision == "tf32")
    model = _make_model(card, setting, config)
    x_0 = torch.rand(setting.batch, 3, side, side, device=card.device) * 2 - 1
    index, steps = torch.arange(setting.batch), [STEP]
    num_evaluations = process.num_evaluations(STEP)

    def loop(denoise: Callable[[Tensor, Tensor], Tensor]) -> None:
        streams = [generators(0, index, k) for k in steps]
        process.sample(denoise, x_0, steps, streams, setting.batch)

    def unsynchronized(x: Tensor, timesteps: Tensor) -> Tensor:
        return model.run(x, timesteps)

    timesteps = torch.full((setting.batch,), process.timesteps[STEP], device=card.device)

    def evaluations() -> None:
        for _ in range(num_evaluations):
            model.run(x_0, timesteps)

    def noise() -> None:
        image_sampler.draw(x_0, generators(0, index, STEP), num_evaluations + 1)

    with torch.inference_mode():
        first = card.seconds(lambda: model.run(x_0, timesteps))
        loop(unsynchronized)  # warm up
        loops, models, inside, rates, drawing = [], [], [], [], []
        end = time.perf_counter() + MAX_SECONDS
        for _ in range(card.size(3, 2)):
            model.seconds = 0.0
            synchronized = card.seconds(lambda: loop(model.denoise))
            inside.append(model.seconds / synchronized)
            loops.append(card.seconds(lambda: loop(unsynchronized)))
            models.append(card.seconds(evaluations))
            start = time.perf_counter()
            noise()
            drawing.append(time.perf_counter() - start)
            pair = [x.to(model.dtype) for x in factors]
            rates.append(matrix_rate(card, RATE_OF[setting.precision], *pair))
            if time.perf_counter() > end or report.left() < 5:
                break
    num = setting.batch * num_evaluations
    low, middle, high = (num / x for x in reversed(quartiles(loops)))
    matrix = quartiles(rates)[1]
    milliseconds = 1e3 / num_evaluations
    wait = quartiles(loops)[1] - quartiles(models)[1]
    memory = "" if card.rehearse else f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    report.cells(
        f"Image sampling, {side} x {side}, {flop / 1e12:.3f} TFLOP per image and evaluation",
        {
            "model": setting.name,
            "batch": setting.batch,
            "first call, s": f"{first:.1f}",
            "images a second": f"{middle:.2f} ({low:.2f} to {high:.2f})",
            "over plain loop": f"{middle / plain:.2f}" if plain else "1",
            "TFLOP/s": f"{middle * flop / 1e12:,.1f}",
            "of matrix rate": f"{middle * flop / matrix:.1%}",
            "inside the model": f"{quartiles(inside)[1]:.1%}",
            "model, ms": f"{quartiles(models)[1] * milliseconds:.1f}",
            "loop beyond it, ms": f"{wait * milliseconds:.1f}",
            "noise on the CPU, ms": f"{quartiles(drawing)[1] * milliseconds:.1f}",
            "memory": memory,
            "hours for all": f"{IMAGES * EVALUATIONS / middle / 3600:.1f}",
        },
    )
    report.number(
        f"{setting.name}, batch {setting.batch}",
        {"loops": loops, "models": models, "inside": inside, "drawing": drawing,
         "matrix rates": rates, "first": first, "evaluations": num_evaluations},
    )  # fmt: skip
    return middle


def measure_similarity(card: Card, report: Report) -> None:
    """Time similarity and reference statistics beside forward passes, in two precisions."""
    batch, rounds = card.size(64, 2), card.size(9, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for name, (network, layers, x) in similarity.cases(batch, card.size(False, True)).items():
            if report.left() < 5:
                report.note(f"{name}, {precision}", "left out: no time")
                continue
            network, x = network.to(card.device, dtype), card.put(x).to(dtype)
            ratios, plain = similarity.measure_overheads(network, layers, x, rounds)
            report.number(f"{name}, {precision}", {"overheads": ratios.tolist(), "seconds": plain})
            cells = [similarity.percent(column) for column in ratios.T]
            report.cells(
                "Looking into a network: time beyond its own forward passes",
                {
                    "network": name,
                    "precision": precision,
                    "forward pass, ms": f"{1e3 * quartiles(plain)[1]:.1f}",
                    "similarity": cells[0],
                    "reading": cells[1],
                    "reference set": cells[2],
                },
            )
    report.note("similarity and reference statistics", "see the table below")
