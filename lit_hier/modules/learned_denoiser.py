"""Trained denoisers of RHM data, as a sampler of the forward-backward experiment."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from lit_hier.errors import InputError
from lit_hier.modules.network_denoiser import NetworkDenoiser, check_run
from lit_hier.nn.trained import check_held_out, split_training_set
from lit_hier.nn.trained_denoisers import read_denoisers
from lit_hier.nn.trained_nested import NestedNetwork
from lit_hier.processes import NoiseProcess
from lit_hier.rhm import Grammars, RandomHierarchyModel


class LearnedDenoiser(NetworkDenoiser):
    """Denoises data of a grammar with networks that `DenoisingTask` has trained.

    Each network of each checkpoint is one source of the run, and so is exact inference: all
    denoise the same data with the same noise. Networks of several checkpoints with the same number
    of training data and steps, such as those of several `network_seed`, form one line of a table,
    with the error between them.

    Under masking, each step reveals an equal share of the masked leaves in random order: they are
    sampled from their beliefs and are then certain. One leaf at a time, the default, samples the
    posterior if beliefs are exact; more steps than leaves change nothing. For other processes,
    each step samples all leaves and returns to the next time by the process's bridge, four steps
    per leaf by default; its error falls as 1/steps. With exact beliefs on the grammar of (v, n, m,
    s, L) = (8, 8, 2, 2, 4), the share of generated strings that are valid is (1000 strings, to
    0.02)

    ===== ======= ======= ========
    steps masking strings gaussian
    ===== ======= ======= ========
    4     0.22    0.45    0.65
    8     0.60    0.83    0.92
    15    0.94    -       -
    16    1       1       1
    17    1       0.95    0.99
    64    1       0.99    1.00
    256   1       1.00    1.00
    ===== ======= ======= ========

    Exactly as many steps as leaves, 16 there, reveal one leaf at a time for every process. This is
    for networks that infer exactly: others see leaves that are certain beside noisy ones, which
    under strings and gaussian they were not trained on, and sample worse.

    At the end of the process's axis, such as the masked fraction 1, samples are generated from
    noise alone.

    Args:
        rhm: The grammar; the command line links it to the data module's.
        process: How leaves are corrupted: the process of the training.
        times: Inversion times on the process's axis, ascending.
        weights: Checkpoints of a `DenoisingTask`, one or several.
        steps: Evaluations of a network for a sample; 0 for one per leaf under masking and four per
            leaf otherwise.
        network: Builds your own network from (v, s, L); those of `lit_hier.nn` are built as the
            checkpoint says.
        use: Weights with the lowest validation loss (`best`) or those of the last step (`last`).
        last_time: Largest time, where the process's axis has no end; by default that of the
            training.
        seed: Seed of the noise and of the samples, 0 to 2^64 - 1.
        exact: Whether exact inference is the last source, for its curves beside the networks'.

    Raises:
        InputError: A checkpoint is unreadable or of another grammar, alphabet or process,
            checkpoints are of data of several seeds, `rhm` is not one grammar, the process has no
            reverse step, or an argument is out of range.
    """

    def __init__(
        self,
        rhm: Grammars,
        process: NoiseProcess,
        times: list[float],
        weights: str | list[str],
        steps: int = 0,
        network: Callable[[int, int, int], nn.Module] | None = None,
        use: Literal["best", "last"] = "best",
        last_time: float | None = None,
        seed: int = 0,
        exact: bool = True,
    ) -> None:
        grammar = check_run(rhm, process, steps)
        process.check_times(times)
        paths = [weights] if isinstance(weights, str) else list(weights)
        if not paths:
            raise InputError("weights: the list is empty; give at least one checkpoint")
        if len(set(paths)) < len(paths):
            raise InputError(f"weights: {paths} repeats a checkpoint; give each one once")
        found: list[NestedNetwork] = []
        for path in paths:

            def check(record: Mapping[str, Any], path: str = path) -> None:
                check_record(record, grammar, process, path)

            found += read_denoisers(path, network, use, check)
        sets = sorted({str(denoiser.record["trained_on"]) for denoiser in found} - {""})
        splits = [split_training_set(name) for name in sets]
        seeds = sorted({seed for _, _, seed in splits})
        if len(seeds) > 1:
            raise InputError(
                f"weights: the networks were trained on data of seeds {seeds}, so that no data are"
                " held out from all; give weights of one data seed, and average over seeds with"
                " `lit-hier study`"
            )
        trained_to = min(float(denoiser.record["last_time"]) for denoiser in found)
        if last_time is None:
            last_time = trained_to
        elif last_time > trained_to:
            raise InputError(
                f"last_time is {last_time:g}, but the networks were trained to {trained_to:g};"
                " give at most this, or other weights"
            )
        super().__init__(
            rhm,
            process,
            times,
            [denoiser.network for denoiser in found],
            [denoiser.training for denoiser in found],
            steps,
            last_time,
            seed,
            exact,
        )
        self._trained_on = sets
        self._is_known = all(denoiser.record["trained_on"] for denoiser in found)
        self._split = max((num for _, num, _ in splits), default=0), next(iter(seeds), 0)

    def training_split(self) -> tuple[int, int | None]:
        """Return the number of data of the largest training set, and their seed.

        Raises:
            InputError: A checkpoint does not name its training set.
        """
        if not self._is_known:
            raise InputError(
                "data: a checkpoint in `weights` does not name its training set; give an"
                " RHMDataModule with the num_train and the seed of the training, whose prediction"
                " data are held out"
            )
        return self._split

    def setup(self, stage: str) -> None:
        """Check the memory, and that the data are not those that the networks were trained on.

        Raises:
            InputError: A batch does not fit into memory, or a network was trained on data of
                another seed, or on more of them, than the data module holds out.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        for trained_on in self._trained_on:
            check_held_out(trained_on, getattr(data, "training_set", ""), "weights")


def check_record(
    record: Mapping[str, Any], rhm: RandomHierarchyModel, process: NoiseProcess, path: str
) -> None:
    """Reject networks that were trained on other data or for another process.

    Args:
        record: Of the checkpoint, see `lit_hier.nn.trained_nested.NestedNetwork`.
        rhm: The grammar of the run.
        process: The process of the run.
        path: The checkpoint.

    Raises:
        InputError: The sizes, the rules or the process differ.
    """
    source = f"weights: {path}"
    trained_on = record["trained_on"]
    for name in ("num_features", "tuple_size", "num_layers"):
        if record[name] != getattr(rhm, name):
            raise InputError(
                f"{source} is of data with {name}={record[name]}, but the data are of {rhm}; give"
                " data of the training's grammar, or other weights"
            )
    if trained_on and split_training_set(trained_on)[0] != rhm.description:
        raise InputError(
            f"{source} was trained on {trained_on:.120}, but the data are of"
            f" {rhm.description}; give data of the training's grammar, or other weights"
        )
    if record["process_key"] != process.key:
        name, own = record["process"], process.axis.process
        other = f"the {name:.40} process, not for {own}"
        if name == own:
            other = f"{record['process_key']:.120}, not for {process.key:.120}"
        raise InputError(
            f"{source} was trained for {other}; give model.init_args.process of the training, or"
            " other weights"
        )
