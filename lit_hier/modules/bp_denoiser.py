"""The exact denoiser of RHM data, as a sampler of the forward-backward experiment."""

import math
from functools import cache

import torch
from torch import Tensor, nn

from lit_hier.diffusion import ForwardBackward, Source
from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation, Query, UnexplainedEvidenceError, mean_field
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import EpsilonNoise, NoiseProcess
from lit_hier.rhm import Grammars, RandomHierarchyModel, Tree, whitened_one_hot
from lit_hier.streams import Purpose, uniform


class BPDenoiser(ForwardBackwardModule):
    """Turns data of a grammar round by belief propagation: samples of the exact posterior.

    A sample's corruption and its draw from the posterior depend on (seed, sample index, inversion
    time) only. Computes in the trainer's precision where that is 64-true, else in float32.

    Args:
        rhm: The grammar, or an ensemble of them; the command line takes it from the data module.
        process: How leaves are corrupted.
        times: Inversion times on the process's axis, ascending.
        seed: Seed of the noise and of the posterior samples, 0 to 2^64 - 1.
        messages: Whether records hold upward and downward messages too; they take as much memory
            again as the marginals, twice.

    Raises:
        InputError: There is no grammar, the times are none, out of range or out of order, or the
            seed is out of range.
    """

    def __init__(
        self,
        rhm: Grammars,
        process: NoiseProcess,
        times: list[float],
        seed: int = 0,
        messages: bool = False,
    ) -> None:
        if not isinstance(rhm, Grammars):
            raise InputError("model: BPDenoiser needs data of a grammar; give an RHMDataModule")
        process.check_times(times)
        super().__init__(times, process.axis, seed)
        self.grammars = rhm.grammars
        self.process = process
        self.messages = messages
        self.belief_propagations = nn.ModuleList(map(BeliefPropagation, self.grammars))
        self.sources = self._sources()

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Corrupt a batch to each time, condition on it, draw a tree.

        Args:
            batch: `leaves`, (B, s**L), `index`, (B,), `x`, `label`, and `source`, the number of
                the grammar, 0 where it is left out; as `RHMDataset` gives them.

        Raises:
            InputError: Leaves that are no data of the grammar.
        """
        index, source = batch["index"], int(batch.get("source", 0))
        rhm, belief_propagation = self.grammars[source], self.belief_propagations[source]
        assert isinstance(belief_propagation, BeliefPropagation)
        tree_start = _parse(rhm, batch["leaves"], index)
        v, true = rhm.num_features, tree_start[0][..., None]
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        num_noise = self.process.num_draws(rhm.num_leaves, v)
        queries: list[Query] = ["trees", "marginals"]
        if self.messages:
            queries += ["upward", "downward"]
        records: dict[Query, Tree] = {}
        effective = []
        for number, time in enumerate(self.track(self.times)):
            noise = uniform(self.seed, Purpose.CORRUPTION, index, time, num_noise)
            observed = self.process.corrupt(tree_start[0], time, noise, v)
            leaf_messages = self.process.messages(observed, time, v, dtype)
            draws = uniform(self.seed, Purpose.POSTERIOR, index, time, 1 + rhm.num_choices)
            try:
                posterior = belief_propagation.condition(leaf_messages)
                if not records:
                    records = {name: posterior.allocate(name, len(self.times)) for name in queries}
                # Written where they stay: they are too much memory to be moved.
                here = {name: tuple(x[number] for x in record) for name, record in records.items()}
                posterior.query(*queries, draws=draws, out=here)
            except InputError as error:
                place = f"{self.axis.symbol} = {time:g}"
                raise _named(error, leaf_messages, index, place) from error
            wrong = 1 - leaf_messages.gather(-1, true).squeeze(-1).double().mean(-1)
            effective.append(wrong * v / (v - 1))
        tree_reversed = records["trees"]
        x_reversed = whitened_one_hot(tree_reversed[0].flatten(0, 1), v)
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x_reversed.unflatten(0, (len(self.times), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            tree_start=tree_start,
            tree_reversed=tree_reversed,
            marginals=records["marginals"],
            upward=records.get("upward"),
            downward=records.get("downward"),
            effective_noise=torch.stack(effective),
            source=source,
        )

    def _sources(self) -> tuple[Source, ...]:
        """Say of each grammar what mean field predicts (Eq. 54-59), NaN where it does not apply.

        It is a theory of beliefs that are centred on the true symbols, and of n = v.
        """
        times = self.times
        centred = isinstance(self.process, EpsilonNoise) and not self.process.strings

        @cache
        def source(v: int, n: int, m: int, s: int, L: int) -> Source:
            effective = [self.process.effective_noise(time, v) for time in times]
            theory = {"effective_noise": torch.tensor(effective, dtype=torch.float64)[:, None]}
            critical_time = math.nan
            beliefs = torch.full((3, len(times), L + 1), torch.nan, dtype=torch.float64)
            if centred and n == v:
                up, down = mean_field.beliefs(times, v, m, s, L)
                both = mean_field.marginals(times, v, m, s, L)
                beliefs = torch.stack([torch.from_numpy(x.T) for x in (up, down, both)])
                critical_time = float(mean_field.critical_epsilon(v, m, s))
            names = ("upward", "downward", "marginal")
            theory |= dict(zip(names, beliefs, strict=True))
            parameters = {"v": v, "n": n, "m": m, "s": s, "L": L}
            return Source(parameters, L + 1, theory, "mean field", critical_time)

        return tuple(
            source(
                rhm.num_features, rhm.num_classes, rhm.num_synonyms, rhm.tuple_size, rhm.num_layers
            )
            for rhm in self.grammars
        )


def _named(error: InputError, messages: Tensor, index: Tensor, place: str) -> InputError:
    """Say which sample cannot be turned round, and when."""
    if isinstance(error, UnexplainedEvidenceError):
        lost, said = error.samples, "that no tree of the grammar explains"
    else:
        wrong = ~((messages >= 0) & (messages < torch.inf)).flatten(1).all(1)
        lost, said = wrong.nonzero().flatten().tolist(), "that are no probabilities"
    if not lost:
        return error
    return InputError(
        f"process: it gives messages {said} for sample {int(index[lost[0]])} (and"
        f" {len(lost) - 1} more) at {place}; check the process"
    )


def _parse(rhm: RandomHierarchyModel, leaves: Tensor, index: Tensor) -> Tree:
    tree, valid = rhm.parse(leaves)
    if not valid[-1].all():
        stray = index[~valid[-1].flatten()].tolist()
        raise InputError(
            f"sample {stray[0]} (and {len(stray) - 1} more) is no datum of {rhm};"
            " give the grammar that made the data"
        )
    return tree
