"""`aeent sweep` in real processes: killed, stopped and started again."""

import json
import signal
import time

import process_support
import pytest
import training_support

from aeent_jax import sweep
from aeent_jax.results import runs
from aeent_jax.sweep import records as records_lib

MEMBERS = """
from aeent_jax import config as config_lib

def get_config():
    return config_lib.default()

def get_members(config):
    # One program for all, so that it is compiled once.
    yield "first", {"entropy.weight": 1e-2, "train.seed": 1}
    yield "diverging", {"entropy.weight": 3e38, "train.seed": 2}
    yield "second", {"entropy.weight": 1e-2, "train.seed": 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    training_support.make_class_folders(made / "images")
    (made / "members.py").write_text(MEMBERS)
    (made / "empty.py").write_text(
        MEMBERS.split("    yield")[0] + "    return []\n"
    )
    (made / "alone.py").write_text(MEMBERS.split("def get_members")[0])
    return made


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """Starts `aeent sweep ARGS`, with FOLDER replaced."""
    cache_home = training_support.cache_home(tmp_path_factory)

    def call(*args):
        args = [arg.replace("FOLDER", str(folder)) for arg in args]
        return process_support.start(
            folder / "process", cache_home, "sweep", *args
        )

    return call


def tiny_flags():
    flags = training_support.tiny("FOLDER/images", "FOLDER/prepared")
    del flags["entropy.weight"]
    return [f"--config.{key}={value}" for key, value in flags.items()]


def sweep_args(*args, config="members"):
    return [f"--config=FOLDER/{config}.py", *tiny_flags(), *args]


def wait_for(condition, command):
    while not condition():
        assert command.process.is_alive(), command.err
        time.sleep(0.02)


def starts(folder, name):
    """How often training of a member was started."""
    text = (folder / f"out/logs/{name}.log").read_text()
    return text.count("aeent train --workdir=")


@pytest.fixture(scope="module")
def swept(start, folder):
    """A sweep that was killed after its first member, and one after it."""
    args = sweep_args("--out=FOLDER/out", "--workers=1")
    killed = start(*args)
    wait_for((folder / "out/records/first.json").exists, killed)
    assert killed.kill(signal.SIGKILL) == -signal.SIGKILL
    # As of an earlier version: it is made again of the workdir.
    (folder / "out/records/first.json").write_text("{}")
    # Its worker, if one was at work, lives on and is waited for.
    command = start(*args)
    return command.wait(), command.out, command.err


def test_killed_sweep_does_not_repeat_what_was_finished(swept, folder):
    assert starts(folder, "first") == 1
    for name in ("first", "second"):
        assert (folder / f"out/{name}/eval/test/metrics.json").exists()


def test_one_program_trains_the_same_members(start, folder, swept):
    args = sweep_args("--out=FOLDER/together", "--population=2")
    command = start(*args)
    assert command.wait() == 1
    assert "One program trains first, diverging." in command.err
    assert "FAILED: diverging: " in command.err
    assert starts(folder, "second") == 1  # The third of two is by itself.
    for name in ("first", "second"):
        one, other = (
            json.loads((folder / f"{out}/records/{name}.json").read_text())
            for out in ("out", "together")
        )
        assert one["config"] == other["config"]
        assert one["train"]["train/loss"] == pytest.approx(
            other["train"]["train/loss"],
            rel=1e-3,  # float32 through 12 steps, other sums
        )
    again = start(*args)
    assert again.wait() == 1
    assert "One program trains diverging." in again.err


def test_failing_member_is_reported_and_the_others_are_trained(swept, folder):
    status, out, err = swept
    assert status == 1
    (line,) = [x for x in err.splitlines() if x.startswith("FAILED: ")]
    assert line.startswith("FAILED: diverging: ")
    assert "so training stopped;" in line
    assert err.splitlines()[-1].startswith(
        "error: these members failed: diverging;"
    )
    assert "3/3  training none" in err
    assert "Traceback" not in err
    header, _, row = (line.split("|") for line in out.splitlines()[:3])
    named = {k.strip(): v.strip() for k, v in zip(header, row, strict=True)}
    # The two seeds of one configuration.
    assert named["seeds"] == "2"
    assert " mean image |" in out
    assert (folder / "out/auroc_against_nats.png").exists()


def test_record_holds_what_the_run_found_and_no_path(swept, folder):
    path = folder / "out/records/first.json"
    record = json.loads(path.read_text())
    metrics = json.loads(
        (folder / "out/first/eval/test/metrics.json").read_text()
    )
    assert record["overrides"] == {
        "entropy.weight": 1e-2,
        "train.seed": 1,
    }
    assert record["config"]["model.latent_dim"] == 4
    keys = ("auroc", "auroc_interval", "pixel_ap", "rate_nats", "baselines")
    for key in keys:
        assert record["evaluation"][key] == metrics[key]
    found = metrics["diagnostics"]["test_abnormal"]["rho"]
    assert record["diagnostics"]["test_abnormal"]["rho"] == found
    trained = training_support.read_history(folder / "out/first")[-2]
    assert record["train"]["train/loss"] == trained["train/loss"]
    assert str(folder) not in path.read_text()
    assert path.stat().st_size < 6000


def test_tables_are_made_of_records_alone(swept, start, folder, tmp_path):
    command = start("--records=FOLDER/out/records", f"--out={tmp_path}")
    assert command.wait() == 0, command.err
    written = (tmp_path / "table.md").read_text()
    assert written == (folder / "out/table.md").read_text()
    assert written in command.out


def test_other_configuration_in_the_same_folder_is_refused(swept, start):
    args = sweep_args("--out=FOLDER/out", "--config.train.batch_size=5")
    command = start(*args)
    assert command.wait() == 1
    assert "out/first belongs to another configuration: train.batch_size" in (
        command.err
    )


def test_longer_run_is_not_finished(swept, folder):
    directory = folder / "out/first"
    config = training_support.make_config(
        folder / "images", folder / "prepared"
    )
    run = records_lib.find_finished(directory, config)
    assert run.evaluation["step"] == 12
    config.train.epochs = 4
    assert records_lib.find_finished(directory, config) is None


def test_stopped_sweep_says_how_to_go_on(start, folder):
    args = sweep_args("--out=FOLDER/stopped", "--only=first", "--workers=1")
    args += ["--config.train.epochs=2000", "--interrupted_status=75"]
    command = start(*args)
    log = folder / "stopped/first/metrics.jsonl"
    wait_for(log.exists, command)
    assert command.kill(signal.SIGTERM) == 75
    assert command.err.splitlines()[-1] == (
        "Stopped by SIGTERM after 0 of 1 members; those at work have saved"
        " their state, and the same command goes on from it."
    )
    said = (folder / "stopped/logs/first.log").read_text().splitlines()
    assert said[-1].startswith("Stopped by SIGTERM after step ")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--config=FOLDER/members.py"], "give the folder of this sweep with"),
        (
            ["--config=FOLDER/alone.py", "--out=FOLDER/x"],
            "alone.py has no function get_members, which this command needs;",
        ),
        (
            ["--config=FOLDER/empty.py", "--out=FOLDER/x"],
            "get_members gives no member, so there is nothing to train;",
        ),
        (["--out=FOLDER/x"], "default.py has no function get_members"),
        (sweep_args("--out=FOLDER/x", "--only=third"), "--only=third matches"),
        (
            sweep_args("--out=FOLDER/x", "--workers=-1"),
            "--workers is -1, but must be at least 1, or 0 for one a core.",
        ),
        (
            ["--config=FOLDER/members.py", "--out=FOLDER/members.py/x"],
            "--out=FOLDER/members.py/x cannot be made (Not a directory);",
        ),
        (
            ["--records=FOLDER/images", "--out=FOLDER/x"],
            "images holds no records of a sweep; give the folder `records`",
        ),
        (
            [
                "--config=FOLDER/members.py",
                "--out=FOLDER/x",
                "--config.entropy.weight=1e-2",
            ],
            "--config.entropy.weight is given, but the member first sets"
            " entropy.weight itself;",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_sentence(
    start, folder, args, sentence
):
    command = start(*args)
    assert command.wait() == 1
    (line,) = command.err.splitlines()
    assert line.startswith("error: ")
    assert sentence.replace("FOLDER", str(folder)) in line
    assert not (folder / "x").exists()


@pytest.mark.parametrize(
    ("estimator", "rate", "meter", "note"),
    [
        ("kde_kl", 0.99 * 1.386, 30.0, "saturated"),
        ("kde_kl", 0.5 * 1.386, 30.0, ""),
        ("kde_loo", 5.0, 30.0, ""),
        ("kde_loo", 0.2, 0.3, "collapsed"),
    ],
)
def test_saturated_and_collapsed_members_are_noted(
    tmp_path, estimator, rate, meter, note
):
    config = training_support.make_config(
        tmp_path, tmp_path, entropy__estimator=estimator
    )
    trained = {"train/loss": 1.0, "train/rate_nats": rate}
    run = runs.Run(
        name="a",
        config={},
        evaluation={"rate_nats": meter, "diagnostics": {}},
        trained=trained,
        images_per_second=None,
        notes=[],
    )
    record = records_lib.make_record(sweep.Member("a", {}, config), run)
    assert record["note"] == note
