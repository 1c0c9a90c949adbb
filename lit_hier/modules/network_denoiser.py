r"""Networks that predict leaves, as samplers of the forward-backward experiment.

A network returns beliefs in each leaf by itself, :math:`p(x_{0,i} \mid x_t)`. A sample of all
leaves together takes several evaluations, by one of two methods:

- In random order, some leaves at a time: they are sampled from their beliefs and then certain for
  the next evaluation. One at a time samples the posterior if the beliefs are exact, as
  :math:`p(x_0 \mid x_t) = \prod_k p(x_{0,i_k} \mid x_t, x_{0,i_1}, \dots, x_{0,i_{k-1}})`.
  Under masking, this is the process itself run in reverse.
- In steps from t to 0 (ancestral sampling): all leaves are sampled from their beliefs, and the
  process's bridge :math:`q(x_\tau \mid x_t, x_0)` leads to the next time.

Leaves of one step are independent of each other, so that both are exact for exact beliefs only as
steps grow. A leaf whose message is one-hot is kept by both.

Source: Austin et al., "Structured Denoising Diffusion Models in Discrete State-Spaces" (2021);
Ho et al., "Denoising Diffusion Probabilistic Models" (2020).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from lit_hier.clock import InformationClock
from lit_hier.diffusion import Denoising, ForwardBackward, Latents, Training
from lit_hier.errors import InputError
from lit_hier.io.memory import check_memory
from lit_hier.modules.bp_denoiser import BPDenoiser
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.nn.evaluation import evaluate
from lit_hier.processes import NoiseProcess
from lit_hier.rhm import Grammars, RandomHierarchyModel, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.streams import Purpose, uniform

EXACT: Final = Training(math.inf, 0)
"""How exact inference is listed among denoisers that were trained."""

_NUM_DRAWS: Final = 1024  # of a datum and a time that are drawn at once, which is faster
_CHUNK_NUMBERS: Final = 2**22  # in the messages that a network takes at once, which bounds memory


class NetworkDenoiser(ForwardBackwardModule):
    """Denoises data of a grammar with networks, each of which is one source of the run.

    The data are repeated for each source. Noise and draws depend on (seed, sample index, inversion
    time, step) only, so that all networks, and exact inference, denoise the same x_t. Samples are
    the same bits in batches of any size and in any order wherever the network's own output for a
    datum does not depend on the other data of its batch; matrix products in float32 may differ in
    the last bits, which changes a sample only where a draw falls between.

    Latents are those that `rhm` parses from sampled leaves: -1 where it cannot.

    Args:
        rhm: The grammar.
        process: How leaves are corrupted.
        times: Inversion times on the process's axis, ascending, to `last_time`.
        networks: Modules with input the leaf messages, (B, s**L, v), and output logits of the
            same shape.
        trainings: How each network was trained; by default, numbered by `step`.
        steps: Evaluations of a network for a sample. Under masking, each reveals an equal share of
            the masked leaves, one by default (0); more steps than leaves change nothing. For other
            processes, they are steps of equal information, four per leaf by default; exactly as
            many as leaves reveal one leaf at a time there too, for comparison with exact
            inference.
        last_time: Largest time, where the process's axis has no end: 4 by default.
        seed: Seed of the noise and of the samples, 0 to 2^64 - 1.
        exact: Whether exact inference on the same data is the last source.

    Attributes:
        networks: The networks.
        steps: Evaluations of a network for a sample.
        reveals: Whether samples reveal leaves rather than run the process in reverse.

    Raises:
        InputError: `rhm` is not one grammar, the process is not a channel or has no reverse step,
            an argument is out of range, or a network does not return finite logits of the shape of
            its input.
    """

    def __init__(
        self,
        rhm: Grammars,
        process: NoiseProcess,
        times: Sequence[float],
        networks: Sequence[nn.Module],
        trainings: Sequence[Training] | None = None,
        steps: int = 0,
        last_time: float | None = None,
        seed: int = 0,
        exact: bool = True,
    ) -> None:
        grammar = check_run(rhm, process, steps)
        process.check_times(times)
        clock = InformationClock(process, grammar.num_features, last_time)
        if times[-1] > clock.last_time:
            raise InputError(
                f"times: {times[-1]:g} is beyond last_time, {clock.last_time:g}; give smaller"
                " times, or networks that were trained with a larger last_time"
            )
        super().__init__(times, process.axis, seed)
        if not networks:
            raise InputError("networks: the list is empty; give at least one")
        if trainings is None:
            trainings = [Training(math.nan, position) for position in range(len(networks))]
        if len(trainings) != len(networks):
            raise InputError(
                f"trainings has {len(trainings)} entries for {len(networks)} networks; give one"
                " for each"
            )
        self.grammar = grammar
        self.process = self.noise_process = process
        self.reveals = reveals(process, steps, grammar)
        num_leaves = grammar.num_leaves
        self.steps = steps or 4 * num_leaves
        if process.erases:
            self.steps = min(steps or num_leaves, num_leaves)
        self.networks = nn.ModuleList(networks).eval()
        self.trainings = (*trainings, *[EXACT] * exact)
        self.copies = len(self.trainings)
        self.sources = (GrammarParameters.of(grammar),) * self.copies
        self.exact_denoiser = BPDenoiser(grammar, process, list(times), seed)
        self._schedules: list[list[float]] = []
        if not self.reveals:
            self._schedules = [clock.steps(time, self.steps) for time in self.times]
        self._num_data = math.inf
        self._finite: list[Tensor] = []  # whether each evaluation of a batch gave finite logits
        guess = torch.full((2, grammar.num_leaves, grammar.num_features), 1 / grammar.num_features)
        for source, network in enumerate(networks):  # before the data are evaluated
            device = next((parameter.device for parameter in network.parameters()), None)
            self._weigh(self._evaluate(source, guess.to(device)))
            self._check_finite(source)

    def setup(self, stage: str) -> None:
        """Check that the record of a batch fits into memory.

        Raises:
            InputError: It does not.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        self._num_data = getattr(data, "sizes", {}).get(stage, math.inf)
        size = int(min(getattr(data, "eval_batch_size", 1), self._num_data))
        rhm = self.grammar
        symbols = max(rhm.num_features, rhm.num_classes)
        # Marginals of all nodes; messages, beliefs and logits of leaves, with a copy each.
        num = (rhm.num_leaves + rhm.num_choices) * symbols + 6 * rhm.num_leaves * rhm.num_features
        check_memory(
            (8 if self.dtype == torch.float64 else 4) * num * size * len(self.times),
            f"times: {len(self.times)} inversion times of {size} data",
            "give fewer times or a smaller data.init_args.eval_batch_size",
        )

    def num_evaluations(self, index: Tensor) -> int:
        """Return the number of data, times and steps; 0 for exact inference."""
        exact = len(index) and int(index[0]) >= len(self.networks) * self._num_data
        return 0 if exact else len(index) * len(self.times) * self.steps

    @torch.no_grad()
    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Corrupt a batch to each time, and sample leaves with the network of its source.

        Args:
            batch: As `RHMDataset` returns it: `leaves`, (B, s**L), `x`, `label`, `index` and
                `sample`, (B,); `sample` is `index` and `source` is 0 if omitted.

        Raises:
            InputError: The grammar cannot derive some leaves, or a network returns logits that
                are not finite.
        """
        source = int(batch.get("source", 0))
        index = batch.get("sample", batch["index"])
        known = index.cpu()
        self._finite = []
        data = {"x": batch["x"], "label": batch["label"], "leaves": batch["leaves"]}
        record = self.exact_denoiser.forward_backward({**data, "index": index})
        latents = record.latents
        assert latents is not None
        assert latents.marginals is not None
        exact, v = latents.marginals[0], self.grammar.num_features
        observed, observations = self._corrupt(batch["leaves"], known, exact.dtype)
        messages = torch.stack(observations)
        predicted = self._predicted(messages)
        record = replace(record, index=batch["index"], source_index=source)
        if source >= len(self.networks):
            return replace(record, denoising=Denoising(exact, exact, predicted))
        weights = self._believe(source, messages)
        beliefs = weights / weights.sum(-1, keepdim=True)
        if self.reveals:
            leaves = self._reveal(source, messages, predicted, beliefs, known)
        else:
            leaves = self._descend(source, observed, messages, beliefs, known)
        self._check_finite(source)
        tree, _ = self.grammar.parse(leaves.flatten(0, 1))
        x_reversed = whitened_one_hot(leaves.flatten(0, 1), v)
        return replace(
            record,
            x_reversed=x_reversed.unflatten(0, messages.shape[:2]),
            latents=Latents(
                latents.tree_start,
                tuple(level.unflatten(0, messages.shape[:2]) for level in tree),
                None,
            ),
            denoising=Denoising(beliefs, exact, predicted),
        )

    def _corrupt(
        self, leaves: Tensor, index: Tensor, dtype: torch.dtype
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return what is observed of leaves at each time, and their messages."""
        v = self.grammar.num_features
        pairs = [self.exact_denoiser.observe(leaves, index, time, v, dtype) for time in self.times]
        observed = [x_t.to(dtype) if x_t.is_floating_point() else x_t for x_t, _ in pairs]
        return observed, [messages for _, messages in pairs]

    def _predicted(self, messages: Tensor) -> Tensor:
        """Return which leaves are to be predicted, bool, (T, B, d), given messages of each."""
        return self.process.predicted(messages.flatten(0, 1)).view(messages.shape[:3])

    def _believe(self, source: int, messages: Tensor) -> Tensor:
        """Return a network's beliefs where a leaf is to be predicted, elsewhere the messages.

        Each leaf's are probabilities up to a factor.
        """
        weights = self._weigh(self._evaluate(source, messages.flatten(0, 1)))
        weights, predicted = weights.view_as(messages), self._predicted(messages)
        # On a CPU, looking is faster than copying; on a GPU, copying is faster than waiting.
        if weights.device.type != "cpu" or not predicted.all():
            weights = torch.where(predicted[..., None], weights, messages)
        return weights

    def _weigh(self, logits: Tensor) -> Tensor:
        """Return probabilities up to a factor, of the same shape; `_check_finite` checks them."""
        # Over few symbols, this is several times faster than torch's softmax.
        weights = (logits - logits.amax(-1, keepdim=True)).exp_()
        self._finite.append(weights.sum().isfinite())
        return weights

    def _check_finite(self, source: int) -> None:
        """Check what a batch's logits were, all at once, as each check waits for a GPU.

        Raises:
            InputError: Some logits are NaN or infinite, or none is finite.
        """
        finite, self._finite = torch.stack(self._finite), []
        if not finite.all():
            raise InputError(
                f"{self._name(source)} returns NaN or infinity for some data; give weights of a"
                " training that converged, or trainer.precision=32-true"
            )

    def _evaluate(self, source: int, messages: Tensor) -> Tensor:
        """Return a network's logits of leaves, shape (R, d, v)."""
        network = self.networks[source]
        rows = max(1, _CHUNK_NUMBERS // messages[0].numel())
        result = []
        for part in messages.split(rows):
            try:
                logits = evaluate(network, part, part.shape)
            except InputError as error:
                reason = str(error).removeprefix("network: ")
                raise InputError(f"{self._name(source)}: {reason}") from error
            result.append(logits.to(messages.dtype))
        return result[0] if len(result) == 1 else torch.cat(result)

    def _reveal(
        self, source: int, messages: Tensor, predicted: Tensor, beliefs: Tensor, index: Tensor
    ) -> Tensor:
        """Sample leaves in random order; return them, shape (T, B, d)."""
        shape, (num_leaves, v) = predicted.shape, messages.shape[2:]
        device = messages.device
        draws = [
            uniform(self.seed, Purpose.REVERSE, index, time, 2 * num_leaves, device=device)
            for time in self.times
        ]
        of_order, of_symbols = torch.cat(draws).split(num_leaves, dim=1)
        # Leaves that are certain come last. Data with the most uncertain leaves come first, so
        # that those with a leaf left to sample are the first ones at every step.
        uncertain = predicted.flatten(0, 1)
        counts, rows = uncertain.sum(-1).sort(descending=True, stable=True)
        rank = (of_order + ~uncertain)[rows].argsort(-1).argsort(-1)
        last = counts.clamp(max=self.steps)  # of each datum's steps
        of_symbols, messages = of_symbols[rows], messages.flatten(0, 1)[rows]
        beliefs = beliefs.flatten(0, 1)[rows]
        certain = torch.eye(v, dtype=messages.dtype, device=device)
        # Which leaves are sampled at which step is known before a network is evaluated.
        on_cpu = last.cpu()
        nums = [int((on_cpu > step).sum()) for step in range(self.steps)]
        places: list[tuple[Tensor, ...]] = []
        for step, num in enumerate(nums):
            first, end = (
                (2 * counts[:num] * k + last[:num]) // (2 * last[:num]) for k in (step, step + 1)
            )
            ranks = rank[:num]
            chosen = (ranks >= first[:, None]) & (ranks < end[:, None])
            places.append(chosen.nonzero(as_tuple=True) if num else ())
        for step, (num, place) in enumerate(zip(nums, places, strict=True)):
            if num:
                if step:
                    logits = self._evaluate(source, messages[:num])[place]
                    belief = self._weigh(logits)
                else:
                    belief = beliefs[place]
                draws_at = of_symbols[place[0], rank[place]]
                messages[place] = certain[sample_symbols(belief, draws_at)]
            self.advance(len(index) * len(self.times))
        leaves = torch.empty_like(rank)
        leaves[rows] = messages.argmax(-1)
        return leaves.view(shape)

    def _descend(
        self,
        source: int,
        observed: list[Tensor],
        messages: Tensor,
        beliefs: Tensor,
        index: Tensor,
    ) -> Tensor:
        """Sample in steps from each time to 0; return the leaves, shape (T, B, d)."""
        num_leaves, v = messages.shape[2:]
        num_draws = num_leaves + self.process.num_reverse_draws(num_leaves, v)
        at_once = min(self.steps, max(1, _NUM_DRAWS // num_draws))  # steps whose draws are kept
        for step in range(self.steps):
            if step:
                for number, schedule in enumerate(self._schedules):
                    messages[number] = self.process.messages(
                        observed[number], schedule[step], v, messages.dtype
                    )
                beliefs = self._believe(source, messages)
            if step % at_once == 0:
                kept = [
                    uniform(
                        self.seed,
                        Purpose.REVERSE,
                        index,
                        time,
                        at_once * num_draws,
                        1 + step,
                        device=messages.device,
                    )
                    for time in self.times
                ]
                draws = torch.stack(kept).unflatten(-1, (at_once, num_draws))
            of_symbols, of_bridge = draws[:, :, step % at_once].tensor_split([num_leaves], dim=-1)
            leaves = sample_symbols(beliefs, of_symbols)
            for number, schedule in enumerate(self._schedules):
                start, end = schedule[step : step + 2]
                if step < self.steps - 1 and end < start:
                    observed[number] = self.process.reverse(
                        observed[number], leaves[number], start, end, of_bridge[number], v
                    )
            self.advance(len(index) * len(self.times))
        return leaves

    def _name(self, source: int) -> str:
        """Name a network, for error messages."""
        name, training = type(self.networks[source]).__name__, self.trainings[source]
        if math.isnan(training.num_train):
            return f"network: {name} at position {source}"
        return f"network: {name} of num_train={training.num_train:g} at step {training.step}"


def reveals(process: NoiseProcess, steps: int, rhm: RandomHierarchyModel) -> bool:
    """Return whether samples reveal leaves rather than run the process in reverse."""
    return process.erases or steps == rhm.num_leaves


def check_run(rhm: Grammars, process: NoiseProcess, steps: int) -> RandomHierarchyModel:
    """Return the grammar of a run, if a network can denoise its data.

    Raises:
        InputError: `rhm` is not one grammar, the process is not a channel or has no reverse step,
            or `steps` is negative.
    """
    if not isinstance(rhm, Grammars):
        raise InputError("model: LearnedDenoiser needs data of a grammar; give an RHMDataModule")
    grammar, *others = rhm.grammars
    if others:
        raise InputError(
            f"rhm: LearnedDenoiser denoises data of one grammar, not of {rhm}; give one, and"
            " average over grammars with `lit-hier study`"
        )
    process.check_channel("denoise")
    if steps < 0:
        raise InputError(
            f"steps is {steps}; give at least 1, or 0 for one per leaf under masking and four"
            " otherwise"
        )
    if not reveals(process, steps, grammar):
        _try_reverse(process, grammar.num_leaves, grammar.num_features)
    return grammar


def _try_reverse(process: NoiseProcess, num_leaves: int, v: int) -> None:
    """Run a process in reverse once, before the networks are."""
    start = min(1.0, process.axis.end)
    num_draws = process.num_draws(num_leaves, v), process.num_reverse_draws(num_leaves, v)
    forward, backward = (torch.zeros(1, num, dtype=torch.float64) for num in num_draws)
    leaves = torch.zeros(1, num_leaves, dtype=torch.int64)
    observed = process.corrupt(leaves, start, forward, v)
    process.reverse(observed, leaves, start, start / 2, backward, v)


def sample_symbols(probabilities: Tensor, draws: Tensor) -> Tensor:
    """Sample symbols by the inverse of the cumulative distribution.

    Args:
        probabilities: Any positive scale, shape (..., v).
        draws: Uniform numbers in [0, 1), shape (...,).

    Returns:
        Symbols of positive probability, int64, shape (...,); any symbols where one is NaN.
    """
    cumulative = probabilities.cumsum(-1)
    below_one = 1 - torch.finfo(cumulative.dtype).eps / 2
    place = draws.to(cumulative.dtype).clamp(max=below_one).mul_(cumulative[..., -1])
    symbols = torch.searchsorted(cumulative, place[..., None], right=True).squeeze(-1)
    return symbols.clamp_(max=probabilities.shape[-1] - 1)
