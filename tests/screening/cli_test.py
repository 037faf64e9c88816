"""`aeent screen`: exit status and refused flags."""

import pytest
import screening_support
import training_support
from absl import flags

from aeent_jax.cli import program
from aeent_jax.cli import screen as screen_cli


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    run = screening_support.train(tmp_path_factory, train__epochs=1)
    screening_support.load(run).save(run / "model.aeent")
    return run / "model.aeent"


@pytest.fixture
def images(tmp_path):
    normal = training_support.make_images(3, seed=7)[..., 0]
    return screening_support.write(tmp_path / "new", normal)


@pytest.fixture
def run(capsys):
    """Runs a command; returns exit status, stdout and stderr."""

    def run_command(module, *args):
        with pytest.raises(SystemExit) as caught:
            program.run(module.main, ["aeent", *args])
        for flag in flags.FLAGS.flags_by_module_dict()[module.__name__]:
            flag.unparse()
        return caught.value.code, *capsys.readouterr()

    return run_command


def test_the_exit_status_says_whether_files_were_refused(
    run, model, images, tmp_path
):
    args = (f"--model={model}", f"--images={images}", f"--out={tmp_path}/out")
    status, out, _ = run(screen_cli, *args)
    assert status == 0
    assert "3 screened" in out
    (images / "broken.png").write_bytes(b"")
    status, out, _ = run(screen_cli, *args)
    assert status == 3
    assert "1 refused" in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--alpha=0.1", "--fdr=0.1"), "give --alpha or --fdr, and not both"),
        (("--best",), "is no workdir; leave out best and root"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    run, model, images, tmp_path, more, sentence
):
    args = (f"--model={model}", f"--images={images}", f"--out={tmp_path}/out")
    status, _, error = run(screen_cli, *args, *more)
    assert status
    assert sentence in error
