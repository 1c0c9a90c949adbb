"""The image sampler: how full it keeps a machine, and what lower precision brings.

python benchmarks/image_sampler.py --device cuda --compile        # the 256 x 256 model, bf16
python benchmarks/image_sampler.py --model small --precision 32   # a small one, for a CPU

The model has random weights. Reported are the images per second that go through one denoising
step, the fraction of the machine's rate for a large matrix product in the same precision, the
share of the sampler's time that is spent inside the model, how many of the model's batches were
full, and the speed relative to the plain loop: float32, one inversion time after the other, of as
many images as were asked for.
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
    """Time a piece of work, all of it."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Measure the best rate of a large matrix product, FLOP/s."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    return max(2 * size**3 / seconds(lambda: a @ b, device) for _ in range(10))


def flop_of(config: dict[str, Any]) -> int:
    """Count the operations of one image's way through the model."""
    with torch.device("meta"):
        model, x = UNet2DModel(**config), torch.empty(1, 3, *[config["sample_size"]] * 2)
        told = torch.zeros((), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, told)
    return counter.get_total_flops()


class Sampler:
    """A model in some precision that says how long it has been at work."""

    def __init__(
        self,
        config: dict[str, Any],
        device: str,
        dtype: torch.dtype,
        last: bool = False,
        compiled: bool = False,
    ) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.model = UNet2DModel(**config).eval().requires_grad_(False).to(dtype)
        self.last, self.dtype, self.device = last, dtype, device
        if last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if compiled:
            self.model.compile()
        self.inside = 0.0
        self.sizes: list[int] = []

    def denoise(self, x: Tensor, told: Tensor) -> Tensor:
        """Run the model as the sampler does, with its time taken."""
        x = x.to(self.dtype)
        if self.last:
            x = x.contiguous(memory_format=torch.channels_last)
        outputs = []
        self.inside += seconds(lambda: outputs.append(self.model(x, told).sample), self.device)
        self.sizes.append(len(x))
        return outputs[0]


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--model", default="adm256", choices=("adm256", "small"))
    parser.add_argument("--precision", default="bf16", choices=DTYPES)
    parser.add_argument("--batch", type=int, default=32, help="images that the model is given")
    parser.add_argument("--images", type=int, default=8, help="images that are turned round")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--num-steps", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile the model")
    given = parser.parse_args()
    config = ADM256 if given.model == "adm256" else SMALL
    scheduler = adm_scheduler() if given.model == "adm256" else DDPMScheduler()
    dtype, device = DTYPES[given.precision], given.device
    process = ReverseProcess(scheduler, given.num_steps)
    side = config["sample_size"]
    x_0 = torch.rand(given.images, 3, side, side, device=device) * 2 - 1
    index = torch.arange(given.images)
    sampler = Sampler(config, device, dtype, last=True, compiled=given.compile)
    plain = Sampler(config, device, torch.float32)

    def sweep() -> None:
        own = [generators(0, index, k) for k in given.steps]
        process.sample(sampler.denoise, x_0, given.steps, own, given.batch)

    def loop() -> None:
        for k in given.steps:
            own = [generators(0, index, k)]
            process.sample(plain.denoise, x_0, [k], own, given.batch)

    with torch.inference_mode():
        sweep(), loop()  # warm up
        sampler.inside, sampler.sizes = 0.0, []
        whole = [(seconds(sweep, device), seconds(loop, device)) for _ in range(given.rounds)]
    swept, looped = np.array(whole).T
    flop, rate = flop_of(config), matrix_rate(device, dtype, 8192 if device == "cuda" else 1024)
    images = sum(sampler.sizes) / swept.sum()
    full = sampler.sizes.count(given.batch)
    ratios = np.percentile(looped / swept, [50, 25, 75])
    print(f"torch {torch.__version__}, {device}, {given.precision}, batch {given.batch}")
    print(f"model            {flop / 1e12:.3f} TFLOP an image")
    print(f"matrix rate      {rate / 1e12:.2f} TFLOP/s")
    print(f"images           {images:.2f} a second")
    print(f"of matrix rate   {images * flop / rate:.1%}")
    print(f"inside the model {sampler.inside / swept.sum():.1%}")
    print(f"full batches     {full} of {len(sampler.sizes)}, in {given.rounds} rounds")
    print(f"over plain loop  {ratios[0]:.2f} ({ratios[1]:.2f} to {ratios[2]:.2f})")


if __name__ == "__main__":
    main()
