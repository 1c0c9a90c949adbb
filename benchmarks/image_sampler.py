"""Measure the utilisation of the image sampler and its speed over a plain float32 loop.

python benchmarks/image_sampler.py --device cuda --compile        # the 256 x 256 model, bf16
python benchmarks/image_sampler.py --model small --precision 32   # a small model, for a CPU

The model has random weights. The benchmark prints the rate of denoising steps in images per
second; the same rate in FLOP/s, relative to a large matrix product in the same precision; the
fraction of the sampler's time spent in the model; the number of full batches; and the speed
relative to a plain loop, in float32, that processes one inversion time after another: median and
quartiles over interleaved rounds. `python benchmarks/gpu` sweeps precisions and batches on a GPU.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lit_hier.diffusion.adm import adm_scheduler
from lit_hier.diffusion.reverse import ReverseProcess
from lit_hier.streams import generators

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
ADM256 = {
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": (256, 256, 512, 512, 1024, 1024),
    "down_block_types": ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
    "up_block_types": ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 64,
    "attn_norm_num_groups": 32,
    "freq_shift": 0,
}
SMALL = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def seconds(work: Callable[[], Any], device: str) -> float:
    """Time a call, until the device has finished."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure_matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Return the highest rate of a matrix product over ten calls, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return max(2 * size**3 / seconds(lambda: a @ b, device) for _ in range(10))


def count_flop(config: dict[str, Any]) -> int:
    """Count the floating-point operations of the model's forward pass on one image."""
    with torch.device("meta"):
        model, x = UNet2DModel(**config), torch.empty(1, 3, *[config["sample_size"]] * 2)
        timestep = torch.zeros((), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, timestep)
    return counter.get_total_flops()


class TimedModel:
    """A model in some precision that records the time and the batch size of each call."""

    def __init__(
        self,
        config: dict[str, Any],
        device: str,
        dtype: torch.dtype,
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.model = UNet2DModel(**config).eval().requires_grad_(False).to(dtype)
        self.channels_last, self.dtype, self.device = channels_last, dtype, device
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if compiled:
            self.model.compile()
        self.seconds = 0.0
        self.batch_sizes: list[int] = []

    def run(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Run the model as the sampler does."""
        x = x.to(self.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        output: Tensor = self.model(x, timestep).sample
        return output

    def denoise(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Run the model and record the call, for whose end this waits."""
        outputs = []
        self.seconds += seconds(lambda: outputs.append(self.run(x, timestep)), self.device)
        self.batch_sizes.append(len(x))
        return outputs[0]


def draw(like: Tensor, generators: list[torch.Generator], num: int) -> None:
    """Draw the noise of some steps on the CPU, as the sampler does."""
    for _ in range(num):
        torch.stack([torch.randn(like.shape[1:], generator=g) for g in generators])


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to run")
    parser.add_argument(
        "--model",
        default="adm256",
        choices=("adm256", "small"),
        help="the 256 x 256 or a small U-Net",
    )
    parser.add_argument(
        "--precision", default="bf16", choices=DTYPES, help="precision of the model"
    )
    parser.add_argument("--batch", type=int, default=32, help="the model's batch size")
    parser.add_argument("--images", type=int, default=8, help="number of images x_0")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4],
        help="inversion times, in sampler steps",
    )
    parser.add_argument("--num-steps", type=int, default=250, help="steps of the reverse process")
    parser.add_argument("--rounds", type=int, default=3, help="number of interleaved rounds")
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    options = parser.parse_args()
    config = ADM256 if options.model == "adm256" else SMALL
    scheduler = adm_scheduler() if options.model == "adm256" else DDPMScheduler()
    dtype, device = DTYPES[options.precision], options.device
    process = ReverseProcess(scheduler, options.num_steps)
    side = config["sample_size"]
    x_0 = torch.rand(options.images, 3, side, side, device=device) * 2 - 1
    index = torch.arange(options.images)
    timed = TimedModel(config, device, dtype, channels_last=True, compiled=options.compile)
    plain = TimedModel(config, device, torch.float32)

    def sample_together() -> None:
        streams = [generators(0, index, k) for k in options.steps]
        process.sample(timed.denoise, x_0, options.steps, streams, options.batch)

    def sample_in_turn() -> None:
        for k in options.steps:
            streams = [generators(0, index, k)]
            process.sample(plain.denoise, x_0, [k], streams, options.batch)

    with torch.inference_mode():
        sample_together(), sample_in_turn()  # warm up
        timed.seconds, timed.batch_sizes = 0.0, []
        times = [
            (seconds(sample_together, device), seconds(sample_in_turn, device))
            for _ in range(options.rounds)
        ]
    together, in_turn = np.array(times).T
    flop = count_flop(config)
    rate = measure_matrix_rate(device, dtype, 8192 if device == "cuda" else 1024)
    images = sum(timed.batch_sizes) / together.sum()
    full = timed.batch_sizes.count(options.batch)
    ratios = np.percentile(in_turn / together, [50, 25, 75])
    print(f"torch {torch.__version__}, {device}, {options.precision}, batch {options.batch}")
    print(f"model            {flop / 1e12:.3f} TFLOP per image")
    print(f"matrix rate      {rate / 1e12:.2f} TFLOP/s")
    print(f"images           {images:.2f} per second")
    print(f"of matrix rate   {images * flop / rate:.1%}")
    print(f"inside the model {timed.seconds / together.sum():.1%}")
    print(f"full batches     {full} of {len(timed.batch_sizes)}, in {options.rounds} rounds")
    print(f"over plain loop  {ratios[0]:.2f} ({ratios[1]:.2f} to {ratios[2]:.2f})")


if __name__ == "__main__":
    main()
