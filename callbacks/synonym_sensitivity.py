"""How far the exchange of synonyms moves the hidden layers of classifiers."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from lit_hier.callbacks.axes import Floats
from lit_hier.callbacks.curves import Columns, Line, Results
from lit_hier.callbacks.networks import NetworkAnalysis
from lit_hier.diffusion import ForwardBackward
from lit_hier.errors import InputError
from lit_hier.figures import Panel, curve_figure
from lit_hier.metrics import relative_distance
from lit_hier.modules import ForwardBackwardModule, SynonymExchange
from lit_hier.nn import Probe
from lit_hier.nn.self_check import Checked
from lit_hier.nn.trained_classifiers import TrainedClassifiers


class SynonymSensitivity(NetworkAnalysis):
    r"""How much each hidden layer changes when a tuple is exchanged for a synonym, by its level.

    .. math:: S = \frac{\langle \|f(x) - f(x')\|^2 \rangle}{\langle \|f(x) - f(y)\|^2 \rangle}

    with f a layer's activations, x' the datum x after the exchange of a tuple of level l, see
    `SynonymExchange`, and y another datum: 0 where the layer is invariant to synonyms of this
    level, 1 where x' is as different as another datum. The layers of a network that learns the
    hierarchy become invariant level by level: to synonyms of level l above the layer that first
    sees their tuples whole. Source: Cagnetta et al., "How Deep Neural Networks Learn Compositional
    Data: The Random Hierarchy Model" (2023). The other data y are all those of the same batch;
    another batch size changes S within its error.

    Writes, besides what `CurveAnalysis` lists:

    - `synonym_sensitivity.csv` with columns process, time (the level), num_train and step (of the
      network; NaN if unknown), layer, layer_index, level, sensitivity, sem, sem_within, see
      `lit_hier.metrics.functional.sensitivity`, count.
    - `synonym_sensitivity.npz` with the arrays `moved` and `pairs`, the squared distances of each
      datum from x' and its mean from other data (time, curve, index), `time`, `curve`, `index`,
      `source`.
    - `synonym_sensitivity.png`: against the level, a panel for each network.
    - `synonym_sensitivity_num_train.png`, for several networks: against P, a panel for each layer.

    Logs to TensorBoard the curve `synonym_sensitivity/sensitivity` and these figures.

    Args:
        network: `TrainedClassifiers`, or one network, as `ActivationSimilarity` takes it.
        layers: Patterns of layer names, see `lit_hier.nn.match_layers`; if omitted, those that the
            network names itself.
        name: Replaces `synonym_sensitivity` in files and tags: for several in one run.

    Raises:
        InputError: A pattern matches no layer; in `setup`, the sampler is not a `SynonymExchange`
            of at least two levels; during the run, `x` does not fit a network, or an activation is
            NaN or infinite.
    """

    name = "synonym_sensitivity"
    suffixes = ("", "_deviation", "_num_train")
    quantities = ("moved", "pairs")
    logged = ("sensitivity",)
    legend = "layer"

    def __init__(
        self,
        network: nn.Module,
        layers: list[str] | None = None,
        name: str = "synonym_sensitivity",
    ) -> None:
        super().__init__(network, "time", name)
        networks: list[nn.Module] = [network]
        self._trainings: list[tuple[float, float]] = [(np.nan, np.nan)]
        if isinstance(network, TrainedClassifiers):
            networks = list(network.networks)
            self._trainings = [(x.num_train, x.step) for x in network.trainings]
        # Distances do not depend on where the channels are.
        self.probes = [Probe(each, layers, channels_last=False) for each in networks]

    def lines(self) -> list[Line]:
        """List the layers of each network, in the network's order."""
        lines: list[Line] = []
        for (num_train, step), probe in zip(self._trainings, self.probes, strict=True):
            prefix = f"P = {num_train:g}, " if len(self.probes) > 1 else ""
            for k, layer in enumerate(probe.layers):
                trained = {"num_train": num_train, "step": step}
                columns: dict[str, str | int | float] = {**trained, "layer": layer}
                sources = range(len(self.sources))
                line = Line(
                    f"{prefix}{layer}", columns | {"layer_index": k}, len(lines), k, sources
                )
                lines.append(line)
        return lines

    def check(self, x: Tensor) -> list[Checked]:
        """Prove that the layers of all networks can be measured, and find their axes."""
        return [checked for probe in self.probes for checked in probe.check(x)]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject other samplers, and as the base class does; find the layers' axes."""
        if stage == "predict" and not isinstance(pl_module, SynonymExchange):
            raise InputError(
                "model: SynonymSensitivity measures the exchange of synonyms, not"
                f" {type(pl_module).__name__}; use it with a SynonymExchange"
            )
        if isinstance(pl_module, SynonymExchange) and len(pl_module.levels) < 2:
            raise InputError(
                f"levels is {pl_module.levels}; SynonymSensitivity draws curves over levels: give"
                " at least two"
            )
        super().setup(trainer, pl_module, stage)
        checked = list(self.checked)
        for probe in self.probes:
            size = len(probe.layers) + 1
            probe.checked, checked = checked[:size], checked[size:]

    def measure(
        self, trainer: Trainer, pl_module: ForwardBackwardModule, record: ForwardBackward
    ) -> Tensor:
        """Compute squared distances: shape (2, T, layers of all networks, B)."""
        measured = [self._measure(probe, record) for probe in self.probes]
        return torch.cat(measured, dim=2)

    def _measure(self, probe: Probe, record: ForwardBackward) -> Tensor:
        start: dict[str, Tensor] = {}
        moved: dict[str, list[Tensor]] = {name: [] for name in probe.layers}

        def keep(name: str, output: Tensor) -> None:
            start[name] = output.flatten(1).clone()  # later layers may change it in place

        def compare(name: str, output: Tensor) -> None:
            moved[name].append((output.flatten(1) - start[name]).square().sum(1))

        probe(record.x_start, keep)
        for x_reversed in record.x_reversed:
            probe(x_reversed, compare)
        found = torch.stack([torch.stack(moved[name]) for name in probe.layers], dim=1)
        if not found.isfinite().all():
            k, layer, sample = (~found.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"network: {probe.layers[layer]} outputs NaN or infinity for sample"
                f" {int(record.index[sample])} at {self.axis.symbol} = {self.times[k]:g} or at the"
                " start; check the weights"
            )
        pairs = torch.stack([_distances(start[name]) for name in probe.layers])
        return torch.stack((found, pairs.expand_as(found)))

    def summarize(self, samples: Floats, source_indices: NDArray[np.int64], line: Line) -> Columns:
        """Compute the ratio of distances."""
        found = relative_distance(samples[0], samples[1], source_indices)
        levels = np.array(self.times).astype(np.int64)
        return {"level": levels, **found, "count": len(source_indices)}

    def figures(self, results: Results, tables: Mapping[str, DataFrame]) -> dict[str, Figure]:
        """Draw against the level and, for several networks, against P."""
        x = np.array([num_train for num_train, _ in self._trainings])
        layers = self.probes[0].layers
        shape = (len(self.times), len(x), len(layers))
        mean, sem = (
            results.table[name].to_numpy(float).reshape(shape) for name in ("sensitivity", "sem")
        )
        ylabel = "synonym sensitivity"
        panels = [
            Panel(
                ylabel,
                dict(zip(layers, mean[:, k].T, strict=True)),
                bands=dict(zip(layers, sem[:, k].T, strict=True)),
                title=f"P = {num:g}" if np.isfinite(num) else "",
            )
            for k, num in enumerate(x)
        ]
        figures = {self.name: curve_figure(results.x, results.xlabel, panels, self.legend)}
        if len(x) > 1:
            levels = [f"{time:g}" for time in self.times]
            by_layer = [
                Panel(
                    ylabel,
                    dict(zip(levels, mean[:, :, k], strict=True)),
                    bands=dict(zip(levels, sem[:, :, k], strict=True)),
                    title=layer,
                )
                for k, layer in enumerate(layers)
            ]
            against = (x, "training data P", by_layer, "level of the tuple")
            figures[f"{self.name}_num_train"] = curve_figure(*against, log=True)
        return figures


def _distances(start: Tensor) -> Tensor:
    r"""Return the mean squared distance of each activation from the others: shape (B,).

    With c the activations less their mean, the sum over j of :math:`\|c_i - c_j\|^2` is
    :math:`B \|c_i\|^2 + \sum_j \|c_j\|^2`. It is NaN for a batch of one datum.
    """
    squares = (start - start.mean(0)).double().square().sum(1)
    num = len(squares)
    mean = (num * squares + squares.sum()) / (num - 1) if num > 1 else squares * torch.nan
    return mean.to(start)
