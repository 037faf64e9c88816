"""Workdirs in a bucket: as on disk, and one sentence where they cannot be."""

import contextlib
import re

import bucket_support
import numpy as np
import pytest
import training_support
from google.auth import exceptions
from google.cloud import storage as google_storage

from aeent_jax import figures
from aeent_jax.evaluation import latents
from aeent_jax.results import report
from aeent_jax.runtime import checkpoint, storage, workdir
from aeent_jax.training import loop, restore

pytestmark = pytest.mark.usefixtures("nothing_is_made_here")


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module", autouse=True)
def bucket():
    yield from bucket_support.use_bucket()


@pytest.fixture
def folder(request):
    """A folder of the bucket."""
    name = re.sub(r"\W", "_", request.node.name)
    return storage.to_path(f"gs://bucket/{name}")


def test_path_in_a_bucket_keeps_its_address():
    path = storage.to_path("gs://bucket/runs/x/")
    assert storage.is_in_bucket(path)
    assert str(path / "config.json") == "gs://bucket/runs/x/config.json"
    assert storage.to_path(path) == storage.absolute(path) == path


@pytest.fixture
def fresh():
    """Opens buckets anew, as the first use in a process does."""
    storage._open_bucket.cache_clear()
    yield
    storage._open_bucket.cache_clear()


def test_missing_bucket_is_one_sentence(fresh, bucket):
    with pytest.raises(OSError, match=r".") as caught:
        restore.evaluate_workdir("gs://another/x")
    assert str(caught.value) == (
        "There is no bucket gs://another; make it, or correct its name."
    )
    # It was not made on the way.
    assert not bucket.storage.get_bucket("another")


def test_closed_bucket_is_one_sentence(fresh, bucket):
    with (
        bucket.refusing(lambda method, path: True),
        pytest.raises(OSError, match=r".") as caught,
    ):
        storage.to_path("gs://bucket/x")
    first, _, last = str(caught.value).partition("(403 GET")
    assert first == "The bucket gs://bucket is closed to this account "
    assert last.endswith(
        "no access); give it the roles Storage Object Admin and Storage Legacy"
        " Bucket Reader."
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            exceptions.DefaultCredentialsError("..."),
            "gs://bucket needs credentials of Google Cloud, and none are found;"
            " run gcloud auth application-default login, or give this machine"
            " a service account.",
        ),
        (
            ConnectionError("no route"),
            "The bucket gs://bucket cannot be reached (no route); see to the"
            " network, then start again.",
        ),
    ],
)
def test_unreachable_bucket_is_one_sentence(
    fresh, monkeypatch, error, sentence
):
    def fail():
        raise error

    monkeypatch.setattr(google_storage, "Client", fail)
    with pytest.raises(OSError, match=r".") as caught:
        storage.to_path("gs://bucket/x")
    assert str(caught.value) == sentence


def test_bucket_that_cannot_be_written_is_one_sentence(
    folder, bucket, tmp_path
):
    config = training_support.make_config(tmp_path, tmp_path)
    with (
        bucket.dead_after(0),
        pytest.raises(OSError, match=r".") as caught,
        workdir.claimed(folder, config),
    ):
        pass
    first, _, last = str(caught.value).partition("Forbidden: ")
    assert first == f"--workdir={folder} cannot be written ("
    assert last.endswith("no access); give a folder that can.")


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_files_are_written_and_added_to(place, folder, tmp_path):
    parent = tmp_path if place == "disk" else folder
    path = parent / "file"
    storage.append_text(path, "a\n")
    storage.append_text(path, "b\n")
    assert path.read_bytes() == b"a\nb\n"
    storage.write_text(path, "c\n")
    assert path.read_bytes() == b"c\n"
    assert [p.name for p in parent.iterdir()] == ["file"]


def test_write_of_another_process_is_seen_at_once(folder, bucket):
    storage.write_text(folder / "a", "")
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert not (folder / "b").exists()
    bucket.put(f"{folder.name}/b")
    assert [p.name for p in folder.iterdir()] == ["a", "b"]
    assert (folder / "b").exists()


def test_figure_and_latents_can_be_in_a_bucket(folder, tmp_path):
    z = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    with (folder / "z.npy").open("wb") as file:
        np.save(file, z)
    np.testing.assert_array_equal(latents.read(str(folder / "z.npy")), z)
    with pytest.raises(FileNotFoundError, match="gs://bucket/.* is no file"):
        latents.read(str(folder / "none.npy"))
    image = np.zeros((1, 4, 4, 1))
    for place in (tmp_path, folder):
        figures.save_panel(
            place,
            images=image,
            reconstructions=image,
            score_maps=image[..., 0],
            masks=None,
            labels=np.zeros(1, int),
            ids=["a"],
            scores=np.zeros(1),
        )
    on_disk, there = (
        (p / "panel.png").read_bytes() for p in (tmp_path, folder)
    )
    assert there == on_disk


def state_of(seed):
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(3, 4)), "step": np.asarray(seed)}


def open_checkpoints(folder, keep=3):
    return checkpoint.Checkpoints(folder, keep=keep)


def truncate_arrays(folder, bucket, step):
    names = bucket.names(f"{folder.name}/{step}/state")
    (name,) = (name for name in names if name.startswith("d/"))
    path = folder / f"{step}/state" / name
    path.write_bytes(path.read_bytes()[:-1])


def test_damaged_checkpoint_is_set_aside(folder, bucket):
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(1, state_of(1), metadata={})
    # The second time in place of the first.
    for _ in range(2):
        with open_checkpoints(folder) as checkpoints:
            checkpoints.save(2, state_of(2), metadata={})
        truncate_arrays(folder, bucket, 2)
        with open_checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_latest(state_of(0))
            assert (restored.step, len(restored.damaged)) == (1, 1)
            training_support.assert_bitwise(restored.state, state_of(1))
            assert checkpoints.steps() == (1,)
        assert (folder / "damaged-2/record/metadata").exists()
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(2, state_of(2), metadata={})
    assert checkpoint.restore_from(folder, state_of(0)).step == 2


def test_bucket_that_does_not_answer_is_not_taken_for_damage(folder, bucket):
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(1, state_of(1), metadata={})

    def refuse(method, path):
        return "alt=media" in path

    with (
        open_checkpoints(folder) as checkpoints,
        bucket.refusing(refuse),
        pytest.raises(OSError, match=r".") as caught,
    ):
        checkpoints.restore_latest(state_of(0))
    assert str(caught.value).startswith(
        f"{folder}/1/commit_success.txt cannot be read (Forbidden: "
    )
    assert {p.name for p in folder.iterdir()} == {"1"}


def test_failed_write_of_a_metric_is_one_sentence(folder, bucket):
    writer = workdir.MetricsWriter(folder, 0, tensorboard=False)
    writer.write({"step": 1})
    with bucket.dead_after(0), pytest.raises(OSError, match=r".") as caught:
        writer.write({"step": 2})
    assert re.fullmatch(
        f"{folder}/metrics.jsonl cannot be written \\(Forbidden: .*\\); make"
        " room or give access, then start the run again to go on from its"
        " latest checkpoint.",
        str(caught.value),
    )
    writer.write({"step": 2})
    records = training_support.read_history(folder)
    assert [record["step"] for record in records] == [1, 2]


def test_failed_save_is_one_sentence(folder, bucket):
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(1, state_of(1), metadata={})
        checkpoints.wait()

        def save():
            checkpoints.save(2, state_of(2), metadata={})
            checkpoints.wait()

        with bucket.dead_after(5), pytest.raises(OSError, match=r".") as caught:
            save()
    assert re.fullmatch(
        f"The checkpoint of step 2 could not be written to {folder}: .*. The"
        " latest that is complete: step 1 is; make room or give access, then"
        " start the run again to go on from it.",
        str(caught.value),
    )


def test_folder_made_in_the_console_is_empty(folder, bucket, tmp_path):
    bucket.put(f"{folder.name}/")
    assert storage.names_in(folder) == set()
    with workdir.claimed(
        folder, training_support.make_config(tmp_path, tmp_path)
    ):
        assert "config.json" in storage.names_in(folder)
    storage.write_text(folder / folder.name, "mine")
    assert folder.name in storage.names_in(folder)


def assert_goes_on(folder):
    """The newest is one of the two, and the next can be saved."""
    with open_checkpoints(folder, keep=1) as checkpoints:
        restored = checkpoints.restore_latest(state_of(0))
        assert (restored.step in (1, 2), restored.damaged) == (True, ())
        training_support.assert_bitwise(restored.state, state_of(restored.step))
        checkpoints.save(3, state_of(3), metadata={})
        checkpoints.wait()
        assert checkpoints.steps() == (3,)
    restored = checkpoint.restore_from(folder, state_of(0))
    assert (restored.step, restored.damaged) == (3, ())


def die_in_a_save(folder, bucket, writes):
    """Saves 1, and 2 as far as so many writes go; whether that is all of it."""
    folder.rmtree(missing_ok=True)
    with open_checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, state_of(1), metadata={})
    with (
        bucket.dead_after(writes) as seen,
        contextlib.suppress(OSError),
        open_checkpoints(folder, keep=1) as checkpoints,
    ):
        checkpoints.save(2, state_of(2), metadata={})
    return len(seen) <= writes


def test_death_in_the_midst_of_a_save_leaves_the_one_before(folder, bucket):
    assert not die_in_a_save(folder, bucket, 5)
    # Nothing was removed that a reader could miss, nor taken for whole.
    assert bucket.names(f"{folder.name}/2")
    assert checkpoint.restore_from(folder, state_of(0)).step == 1
    assert_goes_on(folder)


@pytest.mark.slow
def test_death_after_any_write_of_a_save_leaves_a_checkpoint(folder, bucket):
    writes = 0
    while not die_in_a_save(folder, bucket, writes):
        assert_goes_on(folder)
        writes += 2
    # Objects of the new one, and of the old one, which goes.
    assert writes > 10


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """The tiny configuration, which other tests of training compile too."""
    return training_support.config_maker(tmp_path_factory)


@pytest.fixture(scope="module")
def on_disk(make_config, tmp_path_factory):
    """The workdir of a run, on disk."""
    workdir = tmp_path_factory.mktemp("disk") / "run"
    loop.train(make_config(), workdir)
    return workdir


def test_run_in_a_bucket_is_as_one_on_disk(
    make_config, on_disk, folder, tmp_path
):
    config = make_config()
    loop.train(config, str(folder))
    bucket_support.assert_same_end(folder, on_disk, config)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "eval",
        "metrics.jsonl",
    ]
    table = report.make_report([str(on_disk), str(folder)], tmp_path / "r.html")
    assert folder.name in table
    assert "svg" in (tmp_path / "r.html").read_text()
    with pytest.raises(ValueError, match="belongs to another configuration"):
        loop.train(make_config(train__seed=1), folder)
    with pytest.raises(ValueError, match="log.profile is '1:3', but"):
        loop.train(make_config(log__profile="1:3"), folder)
