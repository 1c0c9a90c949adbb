"""The exchange of synonyms, as a sampler whose inversion time is the level of the tuple."""

from typing import Literal

import torch
from torch import Tensor

from lit_hier.diffusion import ForwardBackward, Latents
from lit_hier.errors import InputError
from lit_hier.modules.bp_denoiser import parse_data
from lit_hier.modules.forward_backward import ForwardBackwardModule
from lit_hier.processes import TimeAxis
from lit_hier.rhm import Grammars, whitened_one_hot
from lit_hier.rhm.parameters import GrammarParameters
from lit_hier.rhm.synonyms import exchange_synonyms, num_exchange_draws
from lit_hier.streams import Purpose, uniform


class SynonymExchange(ForwardBackwardModule):
    """Exchanges a tuple at each level for a synonym; the class stays.

    In x_reversed at the inversion time l, a node of level l, drawn uniformly, keeps its symbol and
    has its tuple of children exchanged for another of the symbol's m tuples, drawn uniformly.
    Below children whose symbols change, rules are drawn anew; all else stays: see
    `lit_hier.rhm.synonyms`. What is drawn for a sample depends on (seed, sample index, level)
    only.

    Args:
        rhm: The grammar, or an ensemble of them; the command line links it to the data module's.
        levels: Levels of the nodes, ascending, 1 to L; all by default.
        seed: Seed of the exchanges, 0 to 2^64 - 1.
        tuples: Which tuples of the level are exchanged: `one`, or `every` one of them, each for a
            synonym of its own.

    Raises:
        InputError: `rhm` is not a grammar or has m = 1, or levels or seed are out of range or out
            of order.
    """

    def __init__(
        self,
        rhm: Grammars,
        levels: list[int] | None = None,
        seed: int = 0,
        tuples: Literal["one", "every"] = "one",
    ) -> None:
        if not isinstance(rhm, Grammars):
            raise InputError(
                "model: SynonymExchange needs data of a grammar; give an RHMDataModule"
            )
        if any(grammar.num_synonyms == 1 for grammar in rhm.grammars):
            raise InputError(
                "data.rhm: num_synonyms is 1, so tuples have no synonyms; give at least 2"
            )
        depth = min(grammar.num_layers for grammar in rhm.grammars)
        chosen = list(range(1, depth + 1)) if levels is None else levels
        if not chosen or chosen != sorted({x for x in chosen if 1 <= x <= depth}):
            raise InputError(
                f"levels is {chosen}; give some of 1 to num_layers = {depth}, ascending, each once"
            )
        axis = TimeAxis("synonyms", "level of the exchanged tuple", "l", float(depth))
        super().__init__(chosen, axis, seed)
        self.levels = chosen
        self.every = tuples == "every"
        self.sources = tuple(map(GrammarParameters.of, rhm.grammars))
        self._grammars = rhm.grammars

    def forward_backward(self, batch: dict[str, Tensor]) -> ForwardBackward:
        """Exchange tuples of each level.

        Args:
            batch: `leaves`, (B, s**L), `index`, (B,), `x`, `label`, and `source`, the position of
                the grammar in `rhm`, 0 if omitted; as `RHMDataset` returns them.

        Raises:
            InputError: The grammar cannot derive some leaves.
        """
        index, source = batch["index"], int(batch.get("source", 0))
        rhm = self._grammars[source]
        tree = parse_data(rhm, batch["leaves"], index)
        known, trees = index.cpu(), []
        for level in self.levels:
            num = num_exchange_draws(rhm, level)
            draws = uniform(self.seed, Purpose.SYNONYM, known, level, num, device=index.device)
            trees.append(exchange_synonyms(rhm, tree, level, draws, self.every))
        tree_reversed = tuple(map(torch.stack, zip(*trees, strict=True)))
        x_reversed = whitened_one_hot(tree_reversed[0].flatten(0, 1), rhm.num_features)
        return ForwardBackward(
            x_start=batch["x"],
            x_reversed=x_reversed.unflatten(0, (len(self.levels), -1)),
            times=torch.tensor(self.times, dtype=torch.float64),
            axis=self.axis,
            index=index,
            label=batch["label"],
            latents=Latents(tree, tree_reversed, None),
            source_index=source,
        )
