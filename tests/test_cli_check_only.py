"""`--check-only` prints what was checked, runs nothing and leaves nothing behind."""

from pathlib import Path

import pytest

from lit_hier.cli import main

CONFIG = """
data:
  class_path: RHMDataModule
  init_args:
    rhm: {class_path: RandomHierarchyModel, init_args: {num_features: 8, num_synonyms: 2, tuple_size: 2, num_layers: 3}}
    num_train: 20
    num_val: 5
    num_test: 5
    num_predict: 5
model: {class_path: BPDenoiser, init_args: {process: EpsilonNoise, times: [0.1, 0.5]}}
trainer:
  callbacks:
    - class_path: ActivationSimilarity
      init_args:
        network: {class_path: FourierBands, init_args: {size: SIZE, dimensions: 1}}
        layers: ["bands.*"]
"""  # noqa: E501


def test_check_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(CONFIG.replace("SIZE", "8"))
    Path("bad.yaml").write_text(CONFIG.replace("SIZE", "4"))
    for name, status in (("good.yaml", 0), ("bad.yaml", 2)):
        with pytest.raises(SystemExit) as raised:
            main(["predict", "-c", name, "--check-only"])
        assert raised.value.code == status
    out, err = capsys.readouterr()
    assert "similarity: FourierBands: bands.0: B x 8 x 8, 8 channels, rounding" in out
    assert "nothing ran" in out
    assert "network: this FourierBands takes 4 positions" in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "good.yaml"]
