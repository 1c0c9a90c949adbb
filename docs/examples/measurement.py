"""A measurement of your own: the share of leaves that forward-backward leaves unchanged."""

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger

from lit_hier import BPDenoiser, EpsilonNoise, RandomHierarchyModel, RHMDataModule
from lit_hier.callbacks.axes import InversionTimes
from lit_hier.callbacks.curves import CurveAnalysis, Line
from lit_hier.figures import Panel
from lit_hier.metrics import average


class LeavesKept(CurveAnalysis):
    name, legend, quantities, logged = "leaves_kept", "leaves", ("kept",), ("kept",)

    def __init__(self):
        super().__init__(InversionTimes())

    def lines(self):
        return [Line("all", {"leaves": "all"}, 0, 0, range(len(self.sources)))]

    def measure(self, trainer, pl_module, record):
        kept = record.x_start.argmax(1) == record.x_reversed.argmax(2)  # (T, B, leaves)
        return kept.float().mean(-1)[None, :, None]  # shape (quantities, T, curves, B)

    def summarize(self, samples, source_indices, line):
        kept = average(samples[0], source_indices)
        return {"kept": kept.mean, "sem": kept.sem}

    def panels(self, results):
        return [Panel("share of leaves kept", results.curves("kept"), results.curves("sem"))]


if __name__ == "__main__":
    data = RHMDataModule(rhm := RandomHierarchyModel(8, 2, 2, 4), 0, 0, 0, num_predict=100)
    model = BPDenoiser(rhm, EpsilonNoise(), [0.0, 0.5, 1.0])
    trainer = Trainer(logger=CSVLogger("logs", "measurement"), callbacks=[LeavesKept()])
    trainer.predict(model, data, return_predictions=False)
