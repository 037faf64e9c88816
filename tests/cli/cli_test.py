import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import process_support
import pytest
import training_support

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With images, a network of another size, and caches shared by all."""
    made = tmp_path_factory.mktemp("cli")
    training_support.make_class_folders(made / "images")
    (made / "empty").mkdir()
    (made / "file").write_text("")
    (made / "stray").mkdir()
    (made / "stray/thesis.tex").write_text("")
    return made


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """Runs `aeent ARGS`, with FOLDER replaced; (status, stdout, stderr)."""

    cache_home = training_support.cache_home(tmp_path_factory)

    def call(*args):
        args = [arg.replace("FOLDER", str(folder)) for arg in args]
        return process_support.run(folder / "process", cache_home, *args)

    return call


def tiny_flags(**overrides):
    flags = training_support.tiny("FOLDER/images", "FOLDER/prepared")
    flags |= {key.replace("__", "."): v for key, v in overrides.items()}
    return [f"--config.{key}={value}" for key, value in flags.items()]


def assert_one_sentence(result, sentence, folder):
    status, out, err = result
    assert status == 1
    assert out == ""
    (line,) = [x for x in err.splitlines() if "Preparing folder in" not in x]
    assert line.startswith("error: ")
    assert sentence.replace("FOLDER", str(folder)) in line


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ["--config.train.epoch=3"],
            "--config.train.epoch is no key of the configuration; did you"
            " mean --config.train.epochs?",
        ),
        (
            ["--noconfig.entropy.alow_unsound"],
            "--config.entropy.alow_unsound is no key of the configuration;"
            " did you mean --config.entropy.allow_unsound?",
        ),
        (
            ["--config.foo=3"],
            "--config.foo is no key of the configuration; the groups are"
            " channel, checkpoint, compute, corruption, data,",
        ),
        (
            ["--config.train=3"],
            "--config.train is a group; give one of its keys:"
            " train.batch_size, train.epochs,",
        ),
        (
            ["--config.train.epochs=many"],
            "--config.train.epochs is 'many', but must be a whole number of at"
            " least 1.",
        ),
        (
            ["--config.train.epochs=1.5"],
            "--config.train.epochs is '1.5', but must be a whole number of at"
            " least 1.",
        ),
        (
            ["--config.optimizer.learning_rate=fast"],
            "--config.optimizer.learning_rate is 'fast', but must be a finite"
            " number above 0.",
        ),
        (
            ["--config.entropy.allow_unsound=maybe"],
            "--config.entropy.allow_unsound is 'maybe', but must be true or"
            " false.",
        ),
        (
            ["--config.train.epochs"],
            "Missing value for flag --config.train.epochs",
        ),
        (
            ["--config=FOLDER/nothing.py"],
            "--config=FOLDER/nothing.py is no file from the folder that you"
            " are in, and no preset; the presets are benchmark, dae, default,",
        ),
        (
            [f"--config={ROOT}/configs/quickstart.py:plian"],
            "quickstart.py:plian cannot be loaded (ValueError: the variant is"
            " 'plian', but must be controlled or plain.).",
        ),
        (
            ["--config=FOLDER/file"],
            "--config=FOLDER/file cannot be loaded (KeyError: 'get_config').",
        ),
        (["--workdri=FOLDER/run"], "Unknown command line flag 'workdri'."),
        ([], "give the folder of this run with --workdir=DIR."),
        (
            ["runs/mine"],
            "'runs/mine' is no flag of this command; flags are written"
            " --name=value.",
        ),
    ],
)
def test_train_refuses_a_wrong_command_line(run, folder, args, sentence):
    assert_one_sentence(run("train", *args), sentence, folder)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"method": "gan"}, "method is 'gan'; choose one of ae, ae_grad, "),
        (
            {"entropy__estimator": "knm"},
            "entropy.estimator is 'knm', and one of ",
        ),
        (
            {"channel__sigma": "0"},
            "channel.sigma is 0, but a penalty on latents without a noisy"
            " channel compresses nothing",
        ),
        (
            {"channel__sigma": "nan"},
            "--config.channel.sigma is 'nan', but must be a finite number of at"
            " least 0.",
        ),
        (
            {"optimizer__schedule": "step"},
            "optimizer.schedule is 'step', but must be one of constant,",
        ),
        (
            {"optimizer__warmup_steps": "12"},
            "optimizer.warmup_steps is 12, but must be below the 12 steps of"
            " the whole training.",
        ),
        ({"train__batch_size": "1"}, "train.batch_size is '1', but must be"),
        ({"checkpoint__keep": "0"}, "checkpoint.keep is '0', but must be"),
        ({"data__image_size": "20"}, "image_size is '20', but must be a mul"),
        ({"data__channels": "2"}, "channels is '2', but must be one of 1, 3"),
        ({"model__latent_dim": "0"}, "latent_dim is '0', but must be a whole"),
        (
            {"parallel__mode": "jit"},
            "parallel.mode is 'jit', but this version maps steps with",
        ),
        (
            {"parallel__num_devices": "9"},
            "parallel.num_devices is 9, but this machine shows 8 cpu"
            " device(s); give 0 for all of them, or at most that number.",
        ),
        ({"data__name": "foldr"}, "foldr"),
        ({"data__root": ""}, "data.root"),
        ({"data__root": "FOLDER/nothing"}, "FOLDER/nothing"),
        ({"data__root": "FOLDER/empty"}, "FOLDER/empty"),
        ({"data__root": "FOLDER/file"}, "FOLDER/file"),
        ({"data__cache_dir": "FOLDER/file/cache"}, "FOLDER/file/cache"),
        ({"data__validation_fraction": "1.0"}, "fraction"),
        ({"data__window": "9"}, "window"),
        (
            {"checkpoint__restore_from": "FOLDER/empty"},
            "There is no checkpoint in FOLDER/empty; give the workdir of a"
            " run that has saved one.",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_train_refuses_a_wrong_configuration(
    run, folder, tmp_path, overrides, sentence
):
    args = ["train", f"--workdir={tmp_path}/run", *tiny_flags(**overrides)]
    assert_one_sentence(run(*args), sentence, folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("workdir", "sentence"),
    [
        (
            "FOLDER/file",
            "--workdir=FOLDER/file is a file, but a folder is needed; give"
            " another path.",
        ),
        (
            "FOLDER/file/run",
            "--workdir=FOLDER/file/run cannot be written (Not a directory);"
            " give a folder that can.",
        ),
        (
            "FOLDER/stray",
            "--workdir=FOLDER/stray holds files but no config.json of a run;"
            " give an empty or new folder, so that nothing is overwritten.",
        ),
    ],
)
def test_train_refuses_a_wrong_workdir(run, folder, workdir, sentence):
    result = run("train", f"--workdir={workdir}", *tiny_flags())
    assert_one_sentence(result, sentence, folder)


def test_refused_run_leaves_no_workdir(run, tmp_path):
    run("train", f"--workdir={tmp_path}/run", *tiny_flags(method="gan"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "give the folder of a run with --workdir=DIR."),
        (
            ["--workdir=FOLDER/empty"],
            "FOLDER/empty is not the workdir of a run (it has no"
            " config.json); give the --workdir of an `aeent train` command.",
        ),
        (["--workdir=FOLDER/empty", "--bset"], "Unknown command line flag"),
    ],
)
def test_evaluate_refuses_what_is_no_run(run, folder, args, sentence):
    assert_one_sentence(run("evaluate", *args), sentence, folder)


@pytest.fixture(scope="module")
def trained(run, folder):
    """The outcome of `aeent train` in FOLDER/run."""
    return run("train", "--workdir=FOLDER/run", *tiny_flags(train__epochs=1))


def test_train_prints_results_and_says_progress_on_standard_error(
    trained, folder
):
    status, out, err = trained
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0] == "test: 6 normal and 5 abnormal images, step 4"
    assert any(line.startswith("  auroc ") for line in lines)
    assert lines[-1] == f"Everything is in {folder / 'run'}"
    assert f"4 steps, workdir {folder / 'run'}" in err
    assert "4/4  loss " in err
    assert "Traceback" not in err


def test_evaluate_prints_the_same_results(trained, run):
    status, out, err = run("evaluate", "--workdir=FOLDER/run")
    assert status == 0, err
    wanted = trained[1].splitlines()[:-1]
    assert out.splitlines() == wanted


def test_best_of_a_run_without_held_out_images_is_refused(trained, run, folder):
    result = run("evaluate", "--workdir=FOLDER/run", "--best")
    assert_one_sentence(result, "has a criterion to be the best by", folder)


def test_another_configuration_in_the_same_workdir_is_refused(
    trained, run, folder
):
    flags = tiny_flags(train__epochs=1, train__seed=1)
    result = run("train", "--workdir=FOLDER/run", *flags)
    assert_one_sentence(
        result,
        "--workdir=FOLDER/run belongs to another configuration: train.seed is"
        " 0 there and 1 here. Give another workdir,",
        folder,
    )


def test_weights_of_another_network_are_refused(trained, run, folder, tmp_path):
    flags = tiny_flags(
        model__latent_dim=3, checkpoint__restore_from="FOLDER/run"
    )
    result = run("train", f"--workdir={tmp_path}/run", *flags)
    assert_one_sentence(result, "is of another network: ", folder)
    assert not (tmp_path / "run").exists()


def test_damaged_configuration_is_named(trained, run, folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run/config.json").write_text("{")
    result = run("evaluate", f"--workdir={tmp_path}/run")
    assert_one_sentence(
        result, f"{tmp_path}/run/config.json is not readable as JSON", folder
    )


def test_diverging_run_ends_with_one_sentence(run, folder, tmp_path):
    flags = tiny_flags(optimizer__learning_rate="1e30")
    status, out, err = run("train", f"--workdir={tmp_path}/run", *flags)
    last = err.splitlines()[-1]
    assert_one_sentence((status, out, last), "so training stopped;", folder)
    assert "Traceback" not in err


def test_commands_are_listed_and_have_help(run):
    for args in ((), ("--help",)):
        status, out, _ = run(*args)
        assert status == 0
        assert "\n  aeent train     train or resume," in out
    status, out, _ = run("train", "--help")
    assert status == 0
    assert "--workdir: Folder of this run." in out
    assert "--config: Configuration file, or the name of a preset: " in out
    assert "\n  --config.train.epochs=250: passes over the" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--train_images=-1"], "--train_images is -1, but must be at least"),
        (["now"], "'now' is no flag of this command;"),
    ],
)
def test_cost_refuses_a_wrong_command_line(run, folder, args, sentence):
    assert_one_sentence(run("cost", *args), sentence, folder)


@pytest.mark.slow
def test_cost_is_printed_for_the_devices_that_are_asked_for(run):
    flags = tiny_flags(parallel__num_devices=1)
    args = ("--train_images=14", "--devices=3", "--json")
    status, out, err = run("cost", *flags, *args)
    assert status == 0, err
    cost = json.loads(out)
    assert cost["step"]["devices"] == 3
    assert cost["training"]["images"] == 14


def test_unknown_command_names_the_nearest(run, folder):
    assert_one_sentence(
        run("trian", "--workdir=x"),
        "there is no command 'trian'; did you mean train? `aeent --help`"
        " lists them.",
        folder,
    )
    assert_one_sentence(
        run("--workdir=x"),
        "there is no command '--workdir=x'; `aeent --help` lists them.",
        folder,
    )


@pytest.mark.parametrize("module", ["main", "train"])
def test_programs_can_be_run_as_modules(module, tmp_path):
    # From another folder, as a user would.
    args = ["train"] if module == "main" else []
    args += ["--config.train.epoch=3"]
    found = subprocess.run(
        [sys.executable, "-m", f"aeent_jax.cli.{module}", *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == (
        "error: --config.train.epoch is no key of the configuration; did you"
        " mean --config.train.epochs?\n"
    )


ENTROPY_OF_A_RUN = ["entropy", "--workdir=FOLDER/run", "--json"]


def test_entropy_measures_the_latents_of_a_run(trained, run):
    names = "--estimators=kde_loo,coding_rate"
    status, out, err = run(*ENTROPY_OF_A_RUN, "--split=test", names)
    assert status == 0, err
    found = json.loads(out)
    # The run's own: 6 normals and 5 abnormals, 4 dimensions, sigma .5.
    assert (found["rows"], found["dim"], found["sigma"]) == (11, 4, 0.5)
    assert list(found["estimators"]) == ["kde_loo", "coding_rate"]
    _, out, _ = run(*ENTROPY_OF_A_RUN, "--sigma=2", names)
    wider = json.loads(out)
    assert (wider["rows"], wider["sigma"]) == (14, 2.0)
    rates = [
        result["estimators"]["coding_rate"]["rate_nats"]
        for result in (found, wider)
    ]
    assert rates[0] > rates[1] > 0


def test_entropy_of_an_unknown_split_is_refused(trained, run, folder):
    assert_one_sentence(
        run(*ENTROPY_OF_A_RUN, "--split=validation"),
        "The data of FOLDER/run has no split 'validation'; choose one of"
        " train, test.",
        folder,
    )


def test_entropy_of_a_run_without_channel_needs_a_sigma(
    trained, run, folder, tmp_path
):
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run/config.json"
    config = json.loads(path.read_text())
    config["channel"]["sigma"] = 0.0
    config["entropy"] |= {"weight": 0.0, "estimator": "none"}
    path.write_text(json.dumps(config))
    args = ["entropy", f"--workdir={tmp_path}/run"]
    assert_one_sentence(
        run(*args),
        "sigma is 0.0, and a positive number is needed, because without noise"
        " the rate is infinite: give --sigma=1.0, say.",
        folder,
    )
    status, out, err = run(*args, "--sigma=1", "--estimators=coding_rate")
    assert status == 0, err
    assert "| coding_rate |" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "give one of --latents=z.npy and --workdir=DIR."),
        (
            ["--latents=FOLDER/z.npy", "--workdir=FOLDER/run"],
            "give one of --latents=z.npy and --workdir=DIR.",
        ),
        (["--latents=FOLDER/none.npy"], "FOLDER/none.npy is no file, and"),
        (["--workdir=FOLDER/empty"], "FOLDER/empty is not the workdir of"),
        (
            ["--latents=FOLDER/z.npy", "--estimators=kde_lo"],
            "estimators holds 'kde_lo', and each must be one of none, kde_loo",
        ),
        (["z.npy"], "'z.npy' is no flag of this command; flags are written"),
    ],
)
def test_entropy_refuses_a_wrong_command_line(run, folder, args, sentence):
    np.save(folder / "z.npy", np.eye(4))
    assert_one_sentence(run("entropy", *args), sentence, folder)


def test_entropy_prints_a_table_of_latents(run, folder):
    np.save(folder / "z.npy", np.random.default_rng(0).normal(size=(50, 3)))
    status, out, err = run("entropy", "--latents=FOLDER/z.npy")
    assert (status, err) == (0, "")
    assert out.startswith("50 latents of 3 dimensions, seed 0\n")
    assert "| kde_loo " in out
    assert "\ntotal correlation" in out
