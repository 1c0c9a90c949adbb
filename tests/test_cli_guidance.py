"""How the command line leads on: configs by name, short help, near names, and the next command."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
from conftest import ROOT, inside, rejection

from lit_hier import cli
from lit_hier.callbacks import progress
from lit_hier.cli import command, configs, exits, main, own_commands, products
from lit_hier.cli.parser import OneLineParser
from lit_hier.errors import InputError, suggest

NAMES = [file.stem for file in sorted((ROOT / "configs").glob("*.yaml"))]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int | None = None) -> str:
    """Run a command that ends by itself, and return what it prints."""
    if status is None:
        main(arguments)
    else:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == status
    return capsys.readouterr().out


def test_configs_are_listed_printed_and_copied_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = printed(capsys, "configs").splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    for line in lines:
        assert len(line.split()) > 3
        assert len(line) < 100
        assert "[...]" not in line
    text = (ROOT / "configs/demo.yaml").read_text()
    assert printed(capsys, "configs", "demo") == text
    with inside(tmp_path):
        main(["configs", "demo.yaml", "--copy", "my.yaml"])
        assert Path("my.yaml").read_text() == text
    message = rejection(tmp_path, capsys, "configs", "fig7", "--copy", "my.yaml")
    assert message == "--copy: my.yaml exists; give another name"
    assert (tmp_path / "my.yaml").read_text() == text
    message = rejection(tmp_path, capsys, "configs", "dem")
    assert message.startswith("name: there is no packaged config dem (did you mean demo?);")


def test_a_config_is_found_by_name_unless_a_file_has_it(tmp_path: Path) -> None:
    packaged = str(configs.FOLDER / "demo.yaml")
    with inside(tmp_path):
        Path("fig5").mkdir()  # a folder is not a config
        assert configs.find_all(["predict", "-c", "demo", "--config=demo.yaml", "-cdemo"]) == [
            "predict", "-c", packaged, f"--config={packaged}", f"-c{packaged}"
        ]  # fmt: skip
        assert configs.find("fig5") == str(configs.FOLDER / "fig5.yaml")
        assert configs.shorten(packaged) == "demo"
        for name in ("demo", "demo.yaml"):
            Path(name).write_text("seed_everything: 1")
            assert configs.find(name) == name
        assert configs.shorten(packaged) == packaged
        assert configs.find("{a: 1}") == "{a: 1}"  # for the parser
        with pytest.raises(InputError, match=r"no file dmeo \(did you mean demo\?\); give"):
            configs.find("dmeo")
        with pytest.raises(InputError, match="did you mean fig7, which comes with this package"):
            configs.find("configs/fig7.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_the_first_lines_of_a_config_say_what_it_is_and_how_to_run_it(name: str) -> None:
    text = (ROOT / f"configs/{name}.yaml").read_text()
    assert re.match(r"# .{10,75}\.\n", text)
    assert f"-c {name}" in text
    assert not re.search(r"configs/\w+\.yaml", text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predcit"], r"there is no command predcit \(did you mean predict\?\); give predic"),
        (["--vresion"], r"--vresion: no such option \(did you mean --version\?\) before a c"),
        (["predict", "configs/demo.yaml"],
         "configs/demo.yaml is not an option; if .* `lit-hier predict -c configs/demo.yaml`$"),
        (["fit", "-c", "demo_clasifier"], r"no file demo_clasifier \(did you mean demo_classifie"),
        (["configs", "--cpoy"], "--cpoy"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_before_anything_heavy_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with patch.object(cli, "_import_matplotlib", side_effect=AssertionError):  # the first import
        assert re.search(message, rejection(tmp_path, capsys, *arguments))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "-c", "demo"],
         "model: BPDenoiser is a sampler, which is not trained; to sample, run `lit-hier predict"
         " -c demo`; to fit a task, take its config, as in `lit-hier fit -c demo_classifier`$"),
        (["predict", "-c", "demo_classifier"],
         "model: predict needs a sampler such as BPDenoiser, not RHMClassifier; to train it, run"
         " `lit-hier fit -c demo_classifier`; .* as in `lit-hier predict -c demo`$"),
        (["predict", "-c", "fig5", "fast"], "fast is not an option; if it is a config, write -"),
        (["-c", "fig5"], "there is no command; give one before the options, as in `lit-hier p"),
        (["predict", "--model.init_args.seed=1"], "model: no class is given, .* a config by -c"),
        (["predict", "-c", "fig5", "--modle.init_args.seed=1"],
         r"--modle.init_args.seed: no such option \(did you mean --model.init_args.seed\?\)"),
        (["predict", "-c", "fig5", "--chekc-only"], r"\(did you mean --check-only\?\)"),
        (["predict", "-c", "fig5", "--trainer.callbacks+=ActivationSimilarity",
          "--trainer.callbacks.reference=tset"],
         r"reference: give val or test or predict, but it is tset \(did you mean test\?\)$"),
    ],
)  # fmt: skip
def test_an_error_leads_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert re.search(message, rejection(tmp_path, capsys, *arguments))


@pytest.mark.parametrize(
    ("stage", "name", "kind", "message"),
    [
        ("fit", "demo", "BPDenoiser",
         "is a sampler, which is not trained; to sample, run `lit-hier predict -c demo`; to fit a"
         " task, take its config, as in `lit-hier fit -c demo_classifier`$"),
        ("test", "fig5", "BPDenoiser",
         "is a sampler, which is not evaluated; .* as in `lit-hier test -c demo_classifier` or"),
        ("predict", "digits_ddpm", "DDPMTask",
         "needs a sampler such as BPDenoiser, not DDPMTask; to train it, run `lit-hier fit -c"
         " digits_ddpm`; to predict, take the config of a sampler, as in `lit-hier predict -c di"),
    ],
)  # fmt: skip
def test_a_command_that_does_not_fit_the_model_names_a_config_that_does(
    stage: str, name: str, kind: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        products.check_stage(stage, f"lit_hier.modules.{kind}", ["-c", configs.find(name)])


def test_what_was_written_leads_to_the_configs_that_read_it() -> None:
    arguments = [stage_or_value for x in ("digits_ddpm", "mnist")
                 for stage_or_value in ("-c", configs.find(x))]  # fmt: skip
    users = products.list_users(["logs/digits_ddpm/pipeline"], arguments)
    assert users == ["lit-hier predict -c digits -c mnist"]
    weights = "logs/demo_classifier/weights/classifier.ckpt"
    assert products.list_users([weights], []) == ["lit-hier predict -c demo"]
    assert products.list_users(["elsewhere/classifier.ckpt"], []) == []


def test_names_are_near_whatever_their_case() -> None:
    assert suggest("bpdenoiser", ["BPDenoiser", "DDPMSampler"]) == " (did you mean BPDenoiser?)"
    assert suggest("xyz", ["BPDenoiser"]) == ""


def test_help_without_a_command_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--help", status=0)
    assert len(text.splitlines()) < 40
    assert all(f"\n    {name}" in text for name in own_commands.OWN_COMMANDS)
    assert printed(capsys, status=2) == text
    assert printed(capsys, "--version", status=0).startswith("lit-hier ")


@pytest.fixture(scope="module")
def parsers() -> list[OneLineParser]:
    return command.build_parsers()


def test_the_help_of_a_command_fits_on_two_screens(
    parsers: list[OneLineParser], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for parser in parsers:
        text, full = parser.format_help(), parser.format_all()
        assert len(text.splitlines()) <= 100
        own, library = text.split("callbacks of Lightning")
        assert ("\n  Reconstruction" in own) is (parser.command == "predict")
        assert ("\n  Interpolation" in own) is (parser.command == "fit")
        assert "\n  TimeProgressBar" in own
        assert "Reconstruction" not in library
        assert ("EarlyStopping" in library) is (parser.command != "predict")
        assert ("\n  BPDenoiser" in own) is (parser.command == "predict")
        assert ("\n  RHMClassifier" in own) is (parser.command != "predict")
        assert "--trainer.profiler" in full
        for help_text in (text, full):
            assert help_text.startswith(f"usage: lit-hier {parser.command} -c")
            assert max(map(len, help_text.splitlines())) <= 100
            foreign = re.search("<class|<function|partial|0x|``|:class:|LambdaCallb", help_text)
            assert not foreign


def test_shells_complete_commands_options_classes_and_configs(
    parsers: list[OneLineParser],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(command, "build_parsers", lambda: parsers)
    if find_spec("lit_hier.cli.study") is None:
        monkeypatch.delitem(own_commands.OWN_COMMANDS, "study")
    script = tmp_path / "script"
    script.write_text(printed(capsys, "completion", "bash"))
    cases = {
        "pre": "predict",
        "predict --model BP": "BPDenoiser",
        "predict --trainer.callbacks+ Recons": "Reconstruction",
        "predict --model.init_args.pro": "--model.init_args.process",
        "predict --model.init_args.process Eps": "EpsilonNoise",
        "fit -c demo --trainer.max_ep": "--trainer.max_epochs",
        "fit --data RHM": "RHMDataModule",
        "predict -c transition_": "transition_time",
        "predict --check": "--check-only",
        "configs gaussian_f": "gaussian_field",
    }
    program = f"source {script}\n" + "".join(
        f"COMP_WORDS=(lit-hier {words}); COMP_CWORD={len(words.split())}; COMPREPLY=();"
        ' _shtab_lit_hier; echo "${COMPREPLY[*]}"\n'
        for words in cases
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == list(cases.values())


def test_lines_say_what_is_done_at_most_every_30_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    lines = progress.ProgressLines(lambda: now)
    lines.start(100)
    for step in range(101, 200):
        now += 1.0
        lines.report("Training", step, 1000, "steps")
    written = capsys.readouterr().err.splitlines()
    assert written[0] == "Training: 130 of 1000 steps, 1 per second, 14:30 left"
    assert len(written) == 3
    now += 7200
    lines.start(0)
    now += 7200
    lines.report("Testing", 1.5, float("inf"), "batches")
    assert capsys.readouterr().err == "Testing: 1.5 batches, 0.75 per hour\n"


def test_a_closed_pipe_ends_a_command_quietly() -> None:
    for text in ("a line", "more than a buffer " * 10_000):
        reader, writer = os.pipe()
        os.close(reader)
        with (
            os.fdopen(writer, "w") as stdout,
            patch.object(sys, "stdout", stdout),
            pytest.raises(SystemExit) as end,
            exits.closed_pipes_end_quietly(),
        ):
            stdout.write(text)
        assert end.value.code == 128 + signal.SIGPIPE
    with pytest.raises(BrokenPipeError), exits.closed_pipes_end_quietly():
        raise BrokenPipeError  # of another pipe


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0, 2.0])
def test_an_interrupt_while_importing_ends_in_one_line(tmp_path: Path, delay: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "lit_hier", "predict", "-c", "fig7"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored by some shells
    )  # fmt: skip
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == "lit-hier: interrupted; run the same command again\n"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["predcit"]])
def test_what_needs_nothing_heavy_takes_half_a_second(arguments: list[str]) -> None:
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lit_hier", *arguments], capture_output=True)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.5
