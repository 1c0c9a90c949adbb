"""The exact denoiser of RHM data, as a sampler of the forward-backward experiment."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lit_hier.diffusion import ForwardBackward, Latents
from lit_hier.errors import InputError
from lit_hier.inference import BeliefPropagation, Query, UnexplainedEvidenceError
from lit_hier.io.memory import check_memory
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import NoiseProcess
from lit_hier.rhm import Grammars, RandomHierarchyModel, Tree, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.streams import Purpose, uniform


class BPDenoiser(ForwardBackwardModule):
    """Denoises data of a grammar by belief propagation: samples of the exact posterior.

    The corruption of a sample and its draw from the posterior depend on (seed, sample index,
    inversion time) only. Computes in float64 if the trainer's precision is 64-true, else in
    float32. Loading the state of another sampler whose grammars have the same sizes adopts its
    grammars; data must then be of these.

    Args:
        rhm: The grammar, or an ensemble of them; the command line links it to the data module's.
        process: How leaves are corrupted.
        times: Inversion times on the process's axis, ascending.
        seed: Seed of the noise and of the posterior samples, 0 to 2^64 - 1.
        messages: Whether records hold upward and downward messages too; each of the two takes as
            much memory as the marginals.
        class_prior: Prior probability of the class, at the root's downward message. `uniform`
            denoises without regard to the class, as the paper does. `class` is the sample's own:
            class-conditioned denoising (footnote 2 in Appendix B), which always keeps the class.
            Or n non-negative numbers, relative weights that are divided by their sum.

    Theory is for a uniform prior. With another one, predictions are NaN, except those of upward
    messages and of the effective noise, which the prior does not enter.

    Raises:
        InputError: `rhm` is not a grammar, the times or the seed are out of range or out of
            order, or `class_prior` is not a prior over the grammar's classes.
    """

    def __init__(
        self,
        rhm: Grammars,
        process: NoiseProcess,
        times: list[float],
        seed: int = 0,
        messages: bool = False,
        class_prior: Literal["uniform", "class"] | list[float] = "uniform",
    ) -> None:
        if not isinstance(rhm, Grammars):
            raise InputError("model: BPDenoiser needs data of a grammar; give an RHMDataModule")
        process.check_times(times)
        super().__init__(times, process.axis, seed)
        self.process = self.noise_process = process
        self.messages = messages
        self.class_prior = class_prior
        prior = _weights(class_prior)
        self.belief_propagations = nn.ModuleList(
            BeliefPropagation(grammar, prior) for grammar in rhm.grammars
        )
        self.sources = tuple(map(GrammarParameters.of, rhm.grammars))
        self._grammars = rhm.grammars

    @property
    def uniform_prior(self) -> bool:
        """Whether every class is equally probable before the data are seen."""
        if self.class_prior == "class":
            return False
        return all(
            torch.equal(prior, prior[:1].expand_as(prior))
            for name, prior in self.belief_propagations.state_dict().items()
            if name.endswith("class_prior")
        )

    def setup(self, stage: str) -> None:
        """Check that the record of a batch fits into memory.

        Raises:
            InputError: It does not.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        size = min(getattr(data, "eval_batch_size", 1), getattr(data, "sizes", {}).get(stage, 1))
        num_symbols = max(map(_count_symbols, self._grammars))
        kinds = 3 if self.messages else 1
        itemsize = 8 if self.dtype == torch.float64 else 4
        check_memory(
            itemsize * kinds * num_symbols * size * len(self.times),
            f"times: {len(self.times)} inversion times of {size} data",
            "give fewer times or a smaller data.init_args.eval_batch_size",
        )

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Corrupt a batch to each time, condition on it, and sample a tree.

        Args:
            batch: `leaves`, (B, s**L), `index`, (B,), `x`, `label`, and `source`, the position of
                the grammar in `rhm`, 0 if omitted; as `RHMDataset` returns them.

        Raises:
            InputError: The grammar cannot derive some leaves, or the process returns messages
                that are not probabilities or that no tree explains.
        """
        index, source = batch["index"], int(batch.get("source", 0))
        belief_propagation = self.belief_propagations[source]
        assert isinstance(belief_propagation, BeliefPropagation)
        rhm = belief_propagation.tables.grammar
        tree_start = parse_data(rhm, batch["leaves"], index)
        v, true = rhm.num_features, tree_start[0][..., None]
        prior = None
        if self.class_prior == "class":
            prior = one_hot(tree_start[-1].flatten(), rhm.num_classes)
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        queries: list[Query] = ["trees", "marginals"]
        if self.messages:
            queries += ["upward", "downward"]
        answers: dict[Query, Tree] = {}
        known = index.cpu()
        effective_noise, leaf_information = [], []
        for number, time in enumerate(self.track(self.times)):
            leaf_messages = self.observe(tree_start[0], known, time, v, dtype)[1]
            draws = uniform(
                self.seed,
                Purpose.POSTERIOR,
                known,
                time,
                1 + rhm.num_choices,
                device=index.device,
            )
            try:
                posterior = belief_propagation.condition(leaf_messages, prior)
                if not answers:
                    answers = {name: posterior.allocate(name, len(self.times)) for name in queries}
                # Written in place: a copy of the answers would double the run's memory.
                out = {name: tuple(x[number] for x in levels) for name, levels in answers.items()}
                posterior.query(*queries, draws=draws, out=out)
            except InputError as error:
                place = f"{self.axis.symbol} = {time:g}"
                raise self._name_sample(error, leaf_messages, index, place) from error
            wrong = 1 - leaf_messages.gather(-1, true).squeeze(-1).double().mean(-1)
            effective_noise.append(wrong * v / (v - 1))
            entropy = torch.special.entr(leaf_messages).sum(-1).double().mean(-1)
            leaf_information.append(1 - entropy / math.log(v))
        tree_reversed = answers["trees"]
        x_reversed = whitened_one_hot(tree_reversed[0].flatten(0, 1), v)
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x_reversed.unflatten(0, (len(self.times), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            latents=Latents(
                tree_start,
                tree_reversed,
                answers["marginals"],
                answers.get("upward"),
                answers.get("downward"),
            ),
            effective_noise=torch.stack(effective_noise),
            leaf_information=torch.stack(leaf_information),
            source_index=source,
        )

    def observe(
        self, leaves: Tensor, index: Tensor, time: float, num_features: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Corrupt leaves with the noise of their samples.

        Args:
            leaves: Symbols, shape (B, s**L).
            index: Sample indices, shape (B,); on the CPU, nothing waits for a GPU.
            time: Inversion time.
            num_features: v.
            dtype: Type of the messages.

        Returns:
            The observation, see `lit_hier.processes.NoiseProcess.corrupt`, and the leaf messages,
            shape (B, s**L, v).
        """
        num = self.process.num_draws(leaves.shape[1], num_features)
        draws = uniform(self.seed, Purpose.CORRUPTION, index, time, num, device=leaves.device)
        observed = self.process.corrupt(leaves, time, draws, num_features)
        return observed, self.process.messages(observed, time, num_features, dtype)

    def _name_sample(
        self, error: InputError, messages: Tensor, index: Tensor, place: str
    ) -> InputError:
        """Name the first sample whose messages are unusable, and the inversion time."""
        culprit, advice = "process: returns messages", "check the process"
        if isinstance(error, UnexplainedEvidenceError):
            unusable, reason = error.samples, "that no tree of the grammar explains"
            if isinstance(self.class_prior, list) and 0 in self.class_prior:
                culprit, advice = "class_prior: excludes", "give every class a positive weight"
                reason = "every class that explains the messages"
        else:
            wrong = ~((messages >= 0) & (messages < torch.inf)).flatten(1).all(1)
            unusable, reason = wrong.nonzero().flatten().tolist(), "that are not probabilities"
        if not unusable:
            return error
        return InputError(
            f"{culprit} {reason} for sample {int(index[unusable[0]])} (and"
            f" {len(unusable) - 1} more) at {place}; {advice}"
        )


def _weights(class_prior: str | list[float]) -> Tensor | None:
    """Return the weights that a prior lists; None for one that has a name."""
    if class_prior in ("uniform", "class"):
        return None
    try:
        return torch.tensor(class_prior, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"class_prior is {class_prior!r}; give uniform, class (the sample's own), or one"
            " weight per class"
        ) from error


def _count_symbols(rhm: RandomHierarchyModel) -> int:
    """Count the numbers in a distribution over symbols at every node of a tree, at most."""
    return (rhm.num_leaves + rhm.num_choices) * max(rhm.num_features, rhm.num_classes)


def parse_data(rhm: RandomHierarchyModel, leaves: Tensor, index: Tensor) -> Tree:
    """Parse a batch of data; reject those that the grammar cannot derive."""
    tree, valid = rhm.parse(leaves)
    if not valid[-1].all():
        invalid = index[~valid[-1].flatten()].tolist()
        raise InputError(
            f"sample {invalid[0]} (and {len(invalid) - 1} more) cannot be derived by {rhm};"
            " give the grammar that generated the data"
        )
    return tree
