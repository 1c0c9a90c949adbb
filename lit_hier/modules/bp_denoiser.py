"""The exact denoiser of RHM data, as a sampler of the forward-backward experiment."""

import math

import torch
from torch import Tensor

from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation, mean_field
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.noise import EpsilonNoise, NoiseProcess
from lit_hier.rhm import RandomHierarchyModel, whitened_one_hot
from lit_hier.streams import Purpose, uniform


class BPDenoiser(ForwardBackwardModule):
    """Turns data of a grammar round by belief propagation: samples of the exact posterior.

    A sample's corruption and its draw from the posterior depend on (seed, sample index, inversion
    time) only. Computes in the trainer's precision where that is 64-true, else in float32.

    Args:
        rhm: The grammar; the command line takes it from the data module.
        process: How leaves are corrupted.
        times: Inversion times on the process's axis, ascending.
        seed: Seed of the noise and of the posterior samples, 0 to 2^64 - 1.

    Raises:
        InputError: The times are none, out of range or out of order, or the seed is out of range.
    """

    def __init__(
        self,
        rhm: RandomHierarchyModel,
        process: NoiseProcess,
        times: list[float],
        seed: int = 0,
    ) -> None:
        process.check_times(times)
        super().__init__(times, process.axis)
        if not 0 <= seed < 2**64:
            raise InputError(f"seed is {seed}; give 0 to 2^64 - 1")
        self.rhm = rhm
        self.process = process
        self.seed = seed
        self.belief_propagation = BeliefPropagation(rhm)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> ForwardBackward:
        """Corrupt a batch to each time, condition on it, draw a tree.

        Args:
            batch: `leaves`, (B, s**L), `index`, (B,), and `x`, as `RHMDataset` gives them.
            batch_idx: Unused.

        Raises:
            InputError: Leaves that are no data of the grammar.
        """
        index, v = batch["index"], self.rhm.num_features
        tree_start, valid = self.rhm.parse(batch["leaves"])
        if not valid[-1].all():
            stray = index[~valid[-1].flatten()].tolist()
            raise InputError(
                f"sample {stray[0]} (and {len(stray) - 1} more) is no datum of {self.rhm};"
                " give the grammar that made the data"
            )
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        num_noise = self.process.num_draws(self.rhm.num_leaves, v)
        trees, marginals = [], []
        for time in self.track(self.times):
            noise = uniform(self.seed, Purpose.CORRUPTION, index, time, num_noise)
            observed = self.process.corrupt(tree_start[0], time, noise, v)
            posterior = self.belief_propagation.condition(
                self.process.messages(observed, time, v, dtype)
            )
            num_draws = 1 + self.rhm.num_choices
            draws = uniform(self.seed, Purpose.POSTERIOR, index, time, num_draws)
            trees.append(posterior.sample(draws=draws))
            marginals.append(posterior.marginals())
        tree_reversed = tuple(map(torch.stack, zip(*trees, strict=True)))
        x_reversed = whitened_one_hot(tree_reversed[0].flatten(0, 1), v)
        theory, critical_time = self._theory()
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x_reversed.unflatten(0, (len(self.times), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            tree_start=tree_start,
            tree_reversed=tree_reversed,
            marginals=tuple(map(torch.stack, zip(*marginals, strict=True))),
            theory=theory,
            critical_time=critical_time,
        )

    def _theory(self) -> tuple[Tensor, float]:
        """Mean-field probabilities (Eq. 59) and transition where the theory applies, else NaN."""
        rhm, times = self.rhm, self.times
        v, m, s, L = rhm.num_features, rhm.num_synonyms, rhm.tuple_size, rhm.num_layers
        centred = isinstance(self.process, EpsilonNoise) and not self.process.strings
        if not centred or rhm.num_classes != v:
            return torch.full((len(times), L + 1), torch.nan, dtype=torch.float64), math.nan
        theory = torch.from_numpy(mean_field.marginals(times, v, m, s, L)).T
        return theory, float(mean_field.critical_epsilon(v, m, s))
