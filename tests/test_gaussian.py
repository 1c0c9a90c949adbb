"""Gaussian fields and mixtures: their posteriors against dense linear algebra."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal
from torch import Tensor

from lit_hier.data import GaussianDataModule
from lit_hier.errors import InputError
from lit_hier.gaussian import Distribution, GaussianMixture, GaussianRandomField
from lit_hier.gaussian.fourier import wavenumber
from lit_hier.modules import GaussianDenoiser
from lit_hier.nn import FourierBands
from lit_hier.streams import Purpose, uniform

FIELDS = [GaussianRandomField(8, 1, 1.5), GaussianRandomField(5, 1), GaussianRandomField(4, 2, 3)]


def draws_of(distribution: Distribution, num: int, seed: int = 0) -> Tensor:
    index = torch.arange(num)
    return uniform(seed, Purpose.DATA, index, 0.0, distribution.num_draws)


def middle(distribution: Distribution, num: int) -> Tensor:
    """Return draws whose normal quantiles are 0."""
    return torch.full((num, distribution.num_draws), 0.5, dtype=torch.float64)


def directions(distribution: Distribution) -> Tensor:
    """Return draws whose normal quantiles are the unit vectors."""
    d = distribution.num_draws - 1
    unit = torch.special.ndtr(torch.eye(d, dtype=torch.float64))
    return torch.cat((torch.full((d, 1), 0.5, dtype=torch.float64), unit), dim=1)


def covariance(field: GaussianRandomField) -> Tensor:
    """Return the covariance of x_0 as a sum over plane waves."""
    size, dimensions = field.shape[-1], len(field.shape) - 1
    full = torch.fft.fftfreq(size, dtype=torch.float64) * size
    k = torch.stack(torch.meshgrid(*[full] * dimensions, indexing="ij")).flatten(1)
    exponent = {8: -1.5, 5: -2.0, 4: -3.0}[size]
    norm = k.norm(dim=0)
    power = torch.where(norm > 0, norm.clamp(min=1) ** exponent, 0.0)
    power = power / power.mean()
    positions = torch.arange(size, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(*[positions] * dimensions, indexing="ij")).flatten(1)
    phase = 2 * math.pi / size * (x[:, :, None] - x[:, None, :]).flatten(1).T @ k
    return (phase.cos() @ power / size**dimensions).view(x.shape[1], x.shape[1])


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_has_a_power_law_spectrum_and_variance_one(field: GaussianRandomField) -> None:
    basis = (field.sample(directions(field))[0]).flatten(1)
    wanted = covariance(field)
    assert torch.allclose(basis.T @ basis, wanted, atol=1e-6)
    assert torch.allclose(wanted.diagonal(), torch.ones(len(wanted), dtype=torch.float64))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("time", [0.0, 0.1, 1.0, 4.0])
def test_a_fields_posterior_is_gaussian_conditioning(
    field: GaussianRandomField, time: float
) -> None:
    alpha, C = math.exp(-2 * time), covariance(field)
    eye = torch.eye(len(C), dtype=torch.float64)
    # At time 0, x_t must lie in the support of the field.
    x_t = field.sample(draws_of(field, 3))[0]
    gain = math.sqrt(alpha) * C @ torch.linalg.pinv(alpha * C + (1 - alpha) * eye, rtol=1e-12)
    mean = field.posterior(x_t, time, middle(field, 3)).x_0
    assert torch.allclose(mean.flatten(1), x_t.flatten(1) @ gain.T, atol=1e-6)
    moved = field.posterior(torch.zeros(len(C), *field.shape).double(), time, directions(field))
    basis = moved.x_0.flatten(1)
    assert torch.allclose(basis.T @ basis, C - math.sqrt(alpha) * gain @ C, atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_mixtures_posterior_follows_from_bayes(num_classes: int) -> None:
    mixture = GaussianMixture(4, 1, num_classes, separation=0.7, seed=1)
    time, alpha = 0.4, math.exp(-0.8)
    means = mixture.means.flatten(1).numpy()
    x_t = mixture.sample(draws_of(mixture, 200))[0]
    densities = np.stack(
        [multivariate_normal(math.sqrt(alpha) * mean, np.eye(4)).pdf(x_t[:, 0]) for mean in means]
    )
    bayes = densities / densities.sum(0)
    drawn = mixture.posterior(x_t, time, draws_of(mixture, 200, seed=3))
    assert np.allclose(drawn.probabilities.T, bayes, atol=1e-10)
    # The class is drawn from its posterior, then the datum from the posterior given the class.
    u = draws_of(mixture, 200, seed=3)[:, 0].numpy()
    assert (drawn.label.numpy() == (u >= bayes.cumsum(0)).sum(0)).all()
    mean = torch.from_numpy(means)[drawn.label]
    center = mean + math.sqrt(alpha) * (x_t[:, 0] - math.sqrt(alpha) * mean)
    residual = (drawn.x_0[:, 0] - center) / math.sqrt(1 - alpha)
    assert kstest(residual.flatten().numpy(), "norm").pvalue > 1e-3


def test_a_mixture_has_unit_noise_around_means_with_a_white_spectrum() -> None:
    mixture = GaussianMixture(16, 2, 2, separation=1.5)
    modes = torch.fft.fft2(mixture.means, norm="ortho").abs()
    assert torch.allclose(modes, torch.full_like(modes, 1.5))
    assert torch.equal(mixture.means[0], -mixture.means[1])
    x, label = mixture.sample(draws_of(mixture, 400))
    assert abs(label.double().mean() - 0.5) < 4 * 0.5 / 20
    assert kstest((x - mixture.means[label]).flatten().numpy(), "norm").pvalue > 1e-3


def test_samples_do_not_depend_on_their_batch() -> None:
    data = GaussianDataModule(GaussianRandomField(8), 5, 20, eval_batch_size=20)
    denoiser = GaussianDenoiser(data.distribution, [0.0, 0.5, 2.0], seed=3)
    whole = denoiser.predict_step(data.predict_set[torch.arange(20)], 0)
    index = torch.tensor([3, 4, 11])
    part = denoiser.predict_step(data.predict_set[index], 7)
    assert torch.equal(part.x_reversed, whole.x_reversed[:, index])
    assert torch.allclose(whole.x_reversed[0], whole.x_start, atol=1e-6)
    assert not torch.equal(data.test_set[torch.arange(5)]["x"], whole.x_start[:5])


@pytest.mark.parametrize(("size", "dimensions"), [(16, 2), (9, 1), (7, 2)])
def test_fourier_bands_are_projections_with_sum_one(size: int, dimensions: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, *[size] * dimensions)
    bands = FourierBands(size, dimensions)
    assert torch.allclose(bands(x), x, atol=1e-5)
    k = wavenumber(size, dimensions)
    num = len(bands.bands)
    for j, band in enumerate(bands.bands):
        part = band(x)
        assert torch.allclose(band(part), part, atol=1e-5)
        low = 2.0 ** (num - 1 - j) if j < num - 1 else 0.0
        axes = tuple(range(-dimensions, 0))
        power = torch.fft.rfftn(part, dim=axes).abs()
        inside = (k >= low) & (k < 2.0 ** (num - j))
        assert power[..., ~inside].max() < 1e-4 < power[..., inside].min()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianRandomField(2), "size is 2; give at least 4"),
        (lambda: GaussianRandomField(8, 3), "dimensions is 3; give 1 or 2"),
        (lambda: GaussianRandomField(8, exponent=math.nan), "exponent is nan"),
        (lambda: GaussianMixture(2), "size is 2; give at least 4"),
        (lambda: GaussianMixture(num_classes=1), "num_classes is 1; give at least 2"),
        (lambda: GaussianMixture(separation=0), "separation is 0; give a positive number"),
        (lambda: GaussianMixture(seed=-1), "seed is -1; give at least 0"),
        (lambda: GaussianRandomField(20_000), "size is 20000; give at least 4, and at most"),
        (lambda: GaussianRandomField(64, exponent=-300), "exponent is -300; give a smaller one"),
        (lambda: FourierBands(3), "size is 3; give at least 4"),
        (lambda: FourierBands(8)(torch.ones(1, 1, 8)), "network: this FourierBands takes 8 x 8"),
        (lambda: GaussianDataModule(FIELDS[0], num_test=0), "num_test is 0; give at least 1"),
        (lambda: GaussianDataModule(FIELDS[0], seed=-1), "seed is -1"),
        (lambda: GaussianDenoiser(FIELDS[0], []), "times: the list of inversion times is empty"),
        (lambda: GaussianDenoiser(FIELDS[0], [1.0], seed=-1), "seed is -1"),
    ],
)
def test_invalid_arguments_are_rejected(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^{message}[^\n]*$"):
        build()
