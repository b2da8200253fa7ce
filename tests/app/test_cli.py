"""The command: what it prints, what it returns, and what it leaves."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import tifffile
from discs import disc_picture, write_pairs

import minidl
from minidl import cli, recipe, train

SMALL = [
    "--root", "4", "--depth", "2", "--batch-size", "2", "--crop", "16", "--lr", "0.01",
]  # fmt: skip


def test_a_whole_job_by_commands(tmp_path, capsys):
    data, run, out = write_pairs(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    names = ["--class-names", "nothing,disc"]
    assert cli.main(["train", str(data), "--out", str(run), "--steps", "25", *SMALL, *names]) == 0
    said = capsys.readouterr().out
    assert "8 pairs of image and mask" in said
    assert re.search(r"step +25 .*val Dice 0\.\d+ ", said)
    assert f"minidl predict {run} IMAGES" in said

    scores = tmp_path / "scores"
    files = ["--json", f"{scores}.json", "--csv", f"{scores}.csv"]
    assert cli.main(["evaluate", str(run), str(data), *files]) == 0
    said = capsys.readouterr().out
    assert "val part of the run's own split, 2 images" in said
    assert re.search(r"^disc +255 ", said, re.M)
    assert json.loads((tmp_path / "scores.json").read_text())["images"] == 2
    assert (tmp_path / "scores.csv").read_text().startswith("name,value,pixels")

    tifffile.imwrite(tmp_path / "new.tif", disc_picture(70, (19, 23))[0])
    assert cli.main(["predict", str(run), str(tmp_path / "new.tif"), "--out", str(out)]) == 0
    assert "1 masks are in" in capsys.readouterr().out
    assert tifffile.imread(out / "new_mask.tif").shape == (19, 23)


def test_without_arguments_it_gives_an_overview(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    for command in (
        "demo", "train", "evaluate", "predict", "doctor", "report", "summary", "profile"
    ):  # fmt: skip
        assert f"minidl {command}" in said


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"minidl {minidl.__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["demo"],
        ["train"],
        ["evaluate"],
        ["predict"],
        ["doctor"],
        ["report"],
        ["summary"],
        ["receptive-field"],
        ["profile"],
    ],
)
def test_help_explains_itself_in_lines_of_a_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main([*command, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(" ".join(["usage: minidl", *command]))
    assert all(len(line) <= 100 for line in said.splitlines())
    assert len(said.splitlines()) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "invalid choice: 'bogus'"),
        (["train"], "the following arguments are required: DATA"),
        (["train", "x", "--steps", "0"], "--steps: '0', expected a whole number, 1 or more"),
        (["train", "x", "--steps", "2.5"], "--steps: '2.5', expected a whole number"),
        (["train", "x", "--minutes", "0"], "--minutes: '0', expected a number above 0"),
        (["train", "x", "--minutes", "inf"], "--minutes: 'inf', expected a number above 0"),
        (["train", "x", "--epochs", "-1"], "--epochs"),
        (["train", "x", "--lr", "nan"], "--lr: 'nan', expected a number above 0"),
        (["train", "x", "--lr", "high"], "--lr: 'high', expected a number above 0"),
        (["train", "x", "--depth", "1"], "--depth: '1', expected a whole number, 2 or more"),
        (["train", "x", "--root", "0"], "--root: '0', expected a whole number, 1 or more"),
        (["train", "x", "--batch-size", "0"], "--batch-size: '0'"),
        (["train", "x", "--crop", "-8"], "--crop"),
        (["train", "x", "--seed", "-1"], "--seed"),
        (["train", "x", "--threads", "0"], "--threads: '0'"),
        (["train", "x", "--val-fraction", "1"], "expected a number between 0 and 1"),
        (["train", "x", "--labels", "0,zero"], "two or more different whole numbers"),
        (["train", "x", "--labels", "0,0"], "two or more different whole numbers"),
        (["train", "x", "--loss", "ce+luck"], "--loss: loss 'ce+luck': expected one of ce, dice"),
        (["train", "x", "--loss", "ce+ce"], "different ones with a + between them"),
        (["train", "x", "--class-weights", "0,0"], "expected weights that are not all 0"),
        (["train", "x", "--class-weights", "1,x"], "--class-weights: 'x', expected a number"),
        (["train", "x", "--average", "1"], "--average: '1', expected a number from 0 to below 1"),
        (["train", "x", "--weight-decay", "-1"], "--weight-decay"),
        (["train", "x", "--patience", "0"], "--patience: '0', expected a whole number, 1 or more"),
        (["train", "--resume", "x", "--lr", "1"], "--lr cannot be given with --resume: a run"),
        (["train", "--resume", "x", "--out", "y"], "--out cannot be given with --resume"),
        (["evaluate", "x", "y", "--flips", "x"], "--flips: invalid choice: 'x'"),
        (["train", "x", "--model", "nut"], "--model: no network 'nut', expected unet, fcn8s, "),
        (["evaluate", "x", "y", "--split", "some"], "--split: invalid choice: 'some'"),
        (["predict", "x", "y"], "the following arguments are required: --out"),
        (["demo", "--steps", "many"], "--steps: 'many'"),
        (["profile", "--input", "4,256,256"], "--input: '4,256,256', expected four whole numbers"),
        (["profile", "--input", "4,0,256,1"], "expected four whole numbers, 1 or more"),
        (["profile", "--input", "4,x,256,1"], "such as 4,256,256,1"),
        (["summary"], "the following arguments are required: MODEL"),
        (["summary", "unet", "--input", "5"], "--input: '5', expected height, width and channels"),
        (["summary", "unet", "--input", "9,0,1"], "such as 256,256,3"),
        (["summary", "unet", "--input", "9,x,1"], "expected height, width and channels"),
        (["summary", "unet", "width"], "'width', expected NAME=VALUE such as width=16"),
        (["summary", "unet", "--depth", "0"], "--depth: '0', expected a whole number, 1 or more"),
        (["receptive-field", "unet", "--at", "1,-2"], "--at: '1,-2', expected whole numbers"),
        (["receptive-field", "unet", "--at", "x"], "--at: 'x', expected whole numbers"),
    ],
)
def test_a_bad_option_is_one_line_and_code_2(arguments, message, capsys):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def fails(arguments, capsys, code=2):
    """Run a command that must end with `code` and words; the words."""
    assert cli.main([str(argument) for argument in arguments]) == code
    words = capsys.readouterr().err
    assert "Traceback" not in words
    assert words.startswith(f"minidl {arguments[0]}: error: ")
    return words


def test_an_existing_run_is_refused(tiny_run, pairs_folder, capsys):
    words = fails(["train", pairs_folder, "--out", tiny_run, "--steps", 1], capsys)
    assert "exists already" in words
    assert "--out" in words
    assert len(words.splitlines()) == 1


def test_data_problems_are_all_said(tmp_path, capsys):
    data = write_pairs(tmp_path / "data")
    (data / "f2_mask.tif").unlink()
    (data / "f6.tif").write_bytes(b"")
    words = fails(["train", data, "--out", tmp_path / "run", "--steps", 1], capsys)
    assert "f2.tif" in words
    assert "f6.tif" in words
    assert not (tmp_path / "run").exists()


def test_missing_folders_are_said(tiny_run, pairs_folder, tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    assert "nowhere" in fails(["train", nowhere, "--out", tmp_path / "run"], capsys)
    assert "no such run folder" in fails(["evaluate", nowhere, pairs_folder], capsys)
    assert "nowhere" in fails(["evaluate", tiny_run, nowhere], capsys)
    assert "nowhere" in fails(["predict", tiny_run, nowhere, "--out", tmp_path / "o"], capsys)


def test_a_crop_that_the_network_cannot_take_is_said(pairs_folder, tmp_path, capsys):
    command = ["train", pairs_folder, "--out", tmp_path / "run", "--steps", 1, "--crop", 100]
    assert "must be multiples of 8. Take 96" in fails(command, capsys)


def test_files_for_scores_are_not_overwritten(tiny_run, pairs_folder, tmp_path, capsys):
    (tmp_path / "s.json").write_text("mine")
    command = ["evaluate", tiny_run, pairs_folder, "--json", tmp_path / "s.json"]
    assert "nothing is overwritten" in fails(command, capsys)
    assert (tmp_path / "s.json").read_text() == "mine"


def test_masks_are_not_overwritten(tiny_run, pairs_folder, capsys):
    """The training masks themselves lie where the predictions would go."""
    command = ["predict", tiny_run, pairs_folder, "--out", pairs_folder]
    assert "8 of the masks exist already" in fails(command, capsys)


def test_a_loss_that_is_not_finite_is_said_with_the_step(
    pairs_folder, tmp_path, monkeypatch, capsys
):
    true = train.segmentation_loss
    broken = lambda *a: true(*a) * float("nan")  # noqa: E731
    monkeypatch.setattr(train, "segmentation_loss", broken)
    command = ["train", pairs_folder, "--out", tmp_path / "run", "--steps", 3, *SMALL]
    assert "the loss became nan at step 1" in fails(command, capsys, code=1)


def test_ctrl_c_says_where_the_network_is(pairs_folder, tmp_path, monkeypatch, capsys):
    def stepped(self, trainer):
        if trainer.step == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe.Recorder, "stepped", stepped)
    run = tmp_path / "run"
    command = ["train", str(pairs_folder), "--out", str(run), "--steps", "50", *SMALL]
    assert cli.main(command) == 130
    said = capsys.readouterr().out
    assert "stopped by Ctrl-C after 12 steps" in said
    assert f"best network so far is in {run / 'model.safetensors'}" in said


def test_a_run_is_resumed(tiny_run, tmp_path, threads, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert cli.main(["train", "--resume", str(run), "--steps", "31", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "from step 30, after " in said
    assert re.search(r"step +31 .*val Dice 0\.\d+ ", said)
    assert "waited for data: " in said
    assert "its budget of 31 steps is used up" in said
    assert f"minidl predict {run} IMAGES" in said
    assert "give more" in fails(["train", "--resume", run, "--epochs", "1"], capsys)
    assert "no such run folder" in fails(["train", "--resume", tmp_path / "none"], capsys)


def test_options_of_learning_reach_the_settings(pairs_folder, tmp_path, capsys):
    given = {
        "--loss": "ce+focal", "--class-weights": "1,4", "--optimiser": "sgd", "--lr": "0.03",
        "--momentum": "0.5", "--weight-decay": "0.001", "--schedule": "step", "--warm-up": "2",
        "--clip": "3", "--accumulate": "2", "--average": "0.5", "--patience": "7", "--steps": "3",
        "--epochs": "80", "--minutes": "9", "--batch-size": "1", "--crop": "8", "--seed": "4",
        "--augment": "mirror", "--foreground-crops": "0.5", "--root": "2", "--depth": "2",
        "--empty-images": "0.25",
    }  # fmt: skip
    words = [word for pair in given.items() for word in pair] + ["--weight-map"]
    run = tmp_path / "run"
    assert cli.main(["train", str(pairs_folder), "--out", str(run), *words]) == 0
    said = capsys.readouterr().out
    assert "class weights 1 : 4" in said
    assert "optimiser sgd" in said
    assert json.loads((run / "config.json").read_text())["settings"] == {
        "steps": 3, "epochs": 80.0, "minutes": 9.0, "batch_size": 1, "crop": [8, 8],
        "augment": "mirror", "foreground_crops": 0.5, "lr": 0.03, "seed": 4, "accumulate": 2,
        "optimiser": "sgd", "momentum": 0.5, "weight_decay": 0.001, "schedule": "step",
        "warm_up": 2, "clip": 3.0, "average": 0.5, "patience": 7, "loss": "ce+focal",
        "class_weights": [1.0, 4.0], "empty_images": 0.25, "weight_map": True,
    }  # fmt: skip


def test_a_bug_keeps_its_traceback(tiny_run, pairs_folder, monkeypatch):
    def buggy(*arguments, **settings):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr("minidl.evaluate.evaluate_folder", buggy)
    with pytest.raises(ZeroDivisionError, match="bug"):
        cli.main(["evaluate", str(tiny_run), str(pairs_folder)])


def test_threads_are_set(tiny_run, pairs_folder, threads, capsys):
    assert cli.main(["evaluate", str(tiny_run), str(pairs_folder), "--threads", "1"]) == 0
    assert minidl.get_num_threads() == 1


def test_as_a_module_it_is_the_same_command():
    command = [sys.executable, "-m", "minidl", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "minidl train DATA" in result.stdout
    assert result.stderr == ""


def test_help_does_not_load_what_is_heavy():
    script = (
        "import sys; from minidl import cli; cli.main(['train', '--help']); "
        "print([m for m in ('numba', 'matplotlib', 'PIL', 'tifffile') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_profile_of_a_new_network(tmp_path, capsys):
    path = tmp_path / "profile.json"
    network = ["--root", "4", "--depth", "2", "--classes", "3", "--no-batch-norm"]
    command = ["profile", "--input", "2,16,24,3", "--steps", "2", *network, "--json", str(path)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "UNet, input 2 x 16 x 24 x 3, 2 steps on " in said
    assert re.search(r"^down\.0\.conv1 +Conv +\d", said, re.M)
    assert re.search(r"^optim\.adam +\d", said, re.M)
    found = json.loads(path.read_text())
    assert len(found["seconds"]) == 2
    layers = [row["layer"] for row in found["layers"]]
    assert "merge.0.conv2" in layers
    assert "down.0.norm1" not in layers


def test_profile_of_the_inference_of_a_run(tiny_run, capsys):
    shape = ["--input", "1,16,16,1", "--threads", "1"]
    assert cli.main(["profile", str(tiny_run), "--inference", "--steps", "1", *shape]) == 0
    said = capsys.readouterr().out
    assert "UNet, input 1 x 16 x 16 x 1, 1 step on 1 thread: mean" in said
    assert re.search(r"^down\.0\.norm1 +BatchNorm +\d", said, re.M)
    assert "optim." not in said


def test_profile_refuses_what_does_not_fit(tiny_run, tmp_path, capsys):
    assert "--root, --no-batch-norm: the network of" in fails(
        ["profile", tiny_run, "--no-batch-norm", "--root", 4], capsys
    )
    words = fails(["profile", "--depth", 3, "--input", "1,18,16,1"], capsys)
    assert "--input 1,18,16,1: UNet: height and width must be multiples of 4" in words
    assert "no such run folder" in fails(["profile", tmp_path / "nowhere"], capsys)
    (tmp_path / "p.json").write_text("mine")
    assert "nothing is overwritten" in fails(["profile", "--json", tmp_path / "p.json"], capsys)


def test_summary_of_a_network_by_its_name(tmp_path, capsys):
    files = ["--draw", str(tmp_path / "net.svg"), "--json", str(tmp_path / "net.json")]
    network = ["UNET", "depth=3", "root=4", "padding=valid", "--classes", "5"]
    command = ["summary", *network, "--input", "60,44,1", "--batch", "2", "--depth", "1", *files]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "UNet, input 2 images of 60 × 44 × 1" in said
    assert re.search(r"^scores +Conv2d 1x1 +20x4x5 ", said, re.M)
    assert "conv1" not in said
    assert said.endswith(f"drawn in {tmp_path / 'net.svg'}\n")
    assert "<svg" in (tmp_path / "net.svg").read_text()
    assert json.loads((tmp_path / "net.json").read_text())["input"] == [2, 60, 44, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet18", "width=2"], "ResNet, input 224 × 224 × 3"),
        (["lenet5"], "LeNet5, input 32 × 32 × 1"),  # takes nothing larger
        (["wavenet", "channels=2", "skip_channels=2"], "WaveNet, input 4096 × 256"),
        (["segnet-basic", "width=1"], "SegNetBasic, input 224 × 224 × 3"),
        (["unet", "root=1"], "UNet, input 224 × 224 × 3"),
    ],
)
def test_summary_knows_what_a_network_takes(arguments, said, capsys):
    assert cli.main(["summary", *arguments, "--depth", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == said


def test_summary_of_a_run(tiny_run, capsys):
    assert cli.main(["summary", str(tiny_run), "--input", "16,16,1"]) == 0
    assert "UNet, input 16 × 16 × 1" in capsys.readouterr().out
    assert "is what it is" in fails(["summary", tiny_run, "root=2"], capsys)


def test_summary_refuses_what_does_not_fit(tmp_path, capsys):
    words = fails(["summary", "nothing-like-that"], capsys)
    assert "no run folder, and no network. Networks are alexnet, " in words
    assert ", unet, " in words
    assert "no setting 'breadth'. It takes depth, root, " in fails(
        ["summary", "unet", "breadth=3"], capsys
    )
    words = fails(["summary", "unet", "root=1", "--input", "17,16,1"], capsys)
    assert "input 17,16,1: UNet: height and width must be multiples of 16" in words
    words = fails(["summary", "unet", "root=1", "--draw", tmp_path / "net.doc"], capsys)
    assert "net.doc: a picture must end in .png, .svg, .pdf" in words
    (tmp_path / "net.svg").write_text("mine")
    for option in ("--draw", "--json"):
        words = fails(["summary", "unet", option, tmp_path / "net.svg"], capsys)
        assert "nothing is overwritten" in words
    assert (tmp_path / "net.svg").read_text() == "mine"


def test_receptive_field_draws_and_tells(tmp_path, capsys):
    tifffile.imwrite(tmp_path / "image.tif", disc_picture(7, (19, 23))[0])
    out = tmp_path / "field.png"
    command = ["receptive-field", "unet", "root=2", "depth=3", "--layer", "down.1", "--at", "3,4"]
    more = ["--image", str(tmp_path / "image.tif"), "--out", str(out)]
    assert cli.main([*command, *more]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^down\.1 +10x12x4 +3,4 +14 +14x14 +12x14 ", said, re.M)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "nothing is overwritten" in fails([*command, *more], capsys)


def test_receptive_field_refuses_what_does_not_fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["receptive-field", "unet", "root=1", "depth=2", "--input", "8,8,1"]
    assert "there is no layer 'x'" in fails([*small, "--layer", "x"], capsys)
    assert "position must be one of" in fails([*small, "--layer", "down.1", "--at", "9,9"], capsys)
    assert "must end in" in fails([*small, "--out", "x.txt"], capsys)
    words = fails(["receptive-field", "wavenet", "channels=2", "--input", "99,256"], capsys)
    assert "fields are drawn over images only" in words
    assert cli.main(small) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["receptive-field.png"]


def test_profile_of_a_network_by_its_name(capsys):
    command = ["profile", "resnet20", "--classes", "3", "--input", "2,16,16,3", "--steps", "1"]
    assert cli.main([*command, "--inference"]) == 0
    assert "CifarResNet, input 2 x 16 x 16 x 3, 1 step on" in capsys.readouterr().out
    assert "--depth: the network of resnet20" in fails(
        ["profile", "resnet20", "--depth", 3], capsys
    )


def test_doctor_writes_a_page_and_says_whether_training_can_start(pairs_folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert cli.main(["doctor", str(pairs_folder), "--out", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert cli.main(["doctor", str(pairs_folder), "--out", str(page)]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["doctor", str(tmp_path / "empty"), "--out", str(tmp_path / "other.html")]) > 0


def test_report_of_a_run(tiny_run, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert cli.main(["report", str(tiny_run), "--out", str(page)]) == 0
    assert page.stat().st_size > 1000
    assert "is written" in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
