import errno
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import data_support
import numpy as np
import pytest

from aeent_jax.data import builders, cache, files, prepared, sources

_SPEC = sources.Spec(image_size=16)


def _prepare(tmp_path, root="root", spec=_SPEC, name="folder"):
    root = str(tmp_path / root) if root else ""
    return prepared.prepare(
        name, spec, root=root, cache_dir=str(tmp_path / "cache")
    )


def _copies(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache/prepared").iterdir())


def test_second_start_reuses_the_copy(tmp_path):
    data_support.make_class_folders(tmp_path / "root")
    first = _prepare(tmp_path)
    second = _prepare(tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert first.path == second.path
    assert _copies(tmp_path) == [first.path.name]
    for split, content in first.splits.items():
        np.testing.assert_array_equal(
            content.images, second.splits[split].images
        )


def test_copy_does_not_depend_on_the_name_of_the_folder(tmp_path):
    data_support.make_flat(tmp_path / "root")
    first = _prepare(tmp_path)
    (tmp_path / "root").rename(tmp_path / "moved")
    moved = _prepare(tmp_path, "moved")
    assert moved.reused
    assert moved.path == first.path


def test_two_folders_with_the_same_names_do_not_collide(tmp_path):
    data_support.make_flat(tmp_path / "a")
    data_support.make_flat(tmp_path / "b")
    data_support.write_gray(tmp_path / "b/n2.png", seed=99)
    a, b = _prepare(tmp_path, "a"), _prepare(tmp_path, "b")
    assert a.path != b.path
    rows = (a.splits["train"].images != b.splits["train"].images).any((1, 2, 3))
    np.testing.assert_array_equal(rows, [False, False, True, False])


def _change_pixels(root):
    data_support.write_gray(root / "test/abnormal/a1.png", seed=99)


def _change_mask(root):
    data_support.write_mask(root / "test/masks/a1.png", marked=False)


def _change_name(root):
    (root / "train/normal/t0.png").rename(root / "train/normal/t9.png")


def _change_label(root):
    (root / "test/abnormal/a1.png").rename(root / "test/normal/a1.png")
    (root / "test/masks/a1.png").unlink()


def _add_image(root):
    data_support.write_gray(root / "train/normal/t9.png", seed=99)


def _remove_masks(root):
    for i in range(3):
        (root / f"test/masks/a{i}.png").unlink()
    (root / "test/masks").rmdir()


@pytest.mark.parametrize(
    "change",
    [
        _change_pixels,
        _change_mask,
        _change_name,
        _change_label,
        _add_image,
        _remove_masks,
    ],
)
def test_changed_folder_is_prepared_again(tmp_path, change):
    root = data_support.make_class_folders(tmp_path / "root")
    before = _prepare(tmp_path)
    change(root)
    after = _prepare(tmp_path)
    assert not after.reused
    assert before.path != after.path
    assert _prepare(tmp_path).path == after.path


def _lists(**splits):
    """A data.json of images a, b, ...; "ab|c" is "ab" normal, "c" abnormal."""
    return {
        split: {
            str(label): [f"{name}.png" for name in names]
            for label, names in enumerate(letters.split("|"))
        }
        for split, letters in splits.items()
    }


@pytest.mark.parametrize(
    "other",
    [
        _lists(train="ab", test="cd"),  # another split
        _lists(train="ab", val="c", test="d"),
        _lists(train="abc", test="|d"),  # another label
        _lists(train="abc", test="e"),  # the image d under another name
    ],
)
def test_other_lists_of_the_same_images_have_a_copy_of_their_own(
    tmp_path, other
):
    data_support.make_data_json(tmp_path / "a", _lists(train="abc", test="d"))
    data_support.make_data_json(tmp_path / "b", other)
    assert _prepare(tmp_path, "a").path != _prepare(tmp_path, "b").path


def test_spec_is_part_of_the_key(tmp_path):
    data_support.make_flat(tmp_path / "root")
    specs = [
        _SPEC,
        sources.Spec(image_size=32),
        sources.Spec(image_size=16, channels=3),
        sources.Spec(image_size=16, window=(0, 4095)),
    ]
    assert len({_prepare(tmp_path, spec=spec).path for spec in specs}) == 4
    assert _prepare(tmp_path).splits["train"].images.shape == (4, 16, 16, 1)


def test_phantoms_are_keyed_by_name_seed_and_size(tmp_path, monkeypatch):
    data_support.draw_few_phantoms(monkeypatch)
    paths = {
        _prepare(tmp_path, "", spec, name).path
        for name in ("phantom_cxr", "phantom_mri")
        for spec in (
            _SPEC,
            sources.Spec(image_size=32),
            sources.Spec(image_size=16, phantom_seed=1),
        )
    }
    assert len(paths) == 6
    assert _prepare(tmp_path, "", _SPEC, "phantom_cxr").reused


@pytest.mark.parametrize("name", ["phantom_cxr", "folder"])
def test_code_that_makes_the_pixels_is_part_of_the_key(
    tmp_path, monkeypatch, name
):
    data_support.draw_few_phantoms(monkeypatch)
    data_support.make_flat(tmp_path / "root")
    root = "root" if name == "folder" else ""
    before = _prepare(tmp_path, root, name=name)
    hash_file = files.hash_file
    changed = "mri.py" if name == "phantom_cxr" else "images.py"

    def edited(path, **kwargs):
        return "other" if path.name == changed else hash_file(path, **kwargs)

    monkeypatch.setattr(files, "hash_file", edited)
    assert _prepare(tmp_path, root, name=name).path != before.path


def test_generated_set_with_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="phantom_cxr is generated .*root;"):
        _prepare(tmp_path, name="phantom_cxr")


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [_flip_a_bit, _truncate, os.unlink])
@pytest.mark.parametrize(
    "pattern",
    ["*train.array_record*", "dataset_info.json", prepared._MANIFEST],
)
def test_damaged_copy_is_reported_and_made_again(
    tmp_path, caplog, damage, pattern
):
    data_support.make_class_folders(tmp_path / "root")
    whole = _prepare(tmp_path)
    (path,) = whole.path.rglob(pattern)
    damage(path)
    again = _prepare(tmp_path)
    assert not again.reused
    assert f"{whole.path}" in caplog.text
    assert "making it again" in caplog.text
    assert again.path == whole.path
    assert _copies(tmp_path) == [whole.path.name]
    np.testing.assert_array_equal(
        again.splits["train"].images, whole.splits["train"].images
    )
    assert _prepare(tmp_path).reused


_PROGRAM = """
import os, signal, sys
from aeent_jax.data import builders, files, prepared, sources

def die():
    os.kill(os.getpid(), signal.SIGKILL)

if "{moment}" == "while decoding":
    read_files = sources.read_files
    sources.read_files = lambda *a, **k: (read_files(*a, **k), die())
elif "{moment}" == "before the manifest":
    prepared._write_manifest = lambda *a: die()
elif "{moment}" == "before the rename":
    prepared._publish = lambda *a: die()
done = prepared.prepare(
    "folder", sources.Spec(image_size=16), root={root!r}, cache_dir={cache!r})
print(done.path.name, done.splits["train"].images.sum())
"""


def _start(tmp_path, moment):
    program = _PROGRAM.format(
        moment=moment,
        root=str(tmp_path / "root"),
        cache=str(tmp_path / "cache"),
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    "moment", ["while decoding", "before the manifest", "before the rename"]
)
def test_killed_preparation_leaves_no_copy(tmp_path, moment):
    data_support.make_flat(tmp_path / "root")
    process = _start(tmp_path, moment)
    assert process.wait(timeout=600) == -signal.SIGKILL
    (abandoned,) = _copies(tmp_path)
    assert abandoned.startswith(cache.MARK)
    assert not _prepare(tmp_path).reused
    # A copy left behind may be another's work in progress, until it is old.
    assert abandoned in _copies(tmp_path)
    old = time.time() - 2 * cache.ABANDONED_SECONDS
    os.utime(tmp_path / "cache/prepared" / abandoned, (old, old))
    _prepare(tmp_path, spec=sources.Spec(image_size=8))
    assert abandoned not in _copies(tmp_path)


def test_concurrent_preparations_agree(tmp_path):
    data_support.make_flat(tmp_path / "root", count=40)
    processes = [_start(tmp_path, "never") for _ in range(3)]
    outputs = {p.communicate(timeout=600)[0] for p in processes}
    assert [p.returncode for p in processes] == [0] * 3
    (output,) = outputs
    assert _copies(tmp_path) == [output.split()[0]]


def test_the_first_of_two_whole_copies_counts(tmp_path, monkeypatch):
    root = str(data_support.make_flat(tmp_path / "root"))
    write = builders.write
    made = []

    def write_second(*args, **kwargs):
        if not made:
            made.append(None)
            made.append(_prepare(tmp_path))
            made.append(made[1].path.stat().st_ino)
        write(*args, **kwargs)

    monkeypatch.setattr(builders, "write", write_second)
    done = prepared.prepare(
        "folder", _SPEC, root=root, cache_dir=str(tmp_path / "cache")
    )
    assert done.path.stat().st_ino == made[2]
    assert _copies(tmp_path) == [done.path.name]


def test_folder_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    root = data_support.make_flat(tmp_path / "root")
    write = builders.write

    def write_and_add(*args, **kwargs):
        write(*args, **kwargs)
        data_support.write_gray(root / "new.png", seed=99)

    monkeypatch.setattr(builders, "write", write_and_add)
    with pytest.raises(ValueError, match="changed while folder was made"):
        _prepare(tmp_path)
    assert _copies(tmp_path) == []


def test_cache_that_cannot_be_written_is_named(tmp_path):
    data_support.make_flat(tmp_path / "root")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match="cache/prepared cannot be .*cache_dir"):
        _prepare(tmp_path)


def test_copy_in_a_cache_that_is_read_only_is_used(tmp_path, monkeypatch):
    data_support.make_flat(tmp_path / "root")
    _prepare(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    for module, name in ((tempfile, "mkstemp"), (pathlib.Path, "mkdir")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert _prepare(tmp_path).reused
    with pytest.raises(OSError, match="cannot be written .Read-only file"):
        _prepare(tmp_path, spec=sources.Spec(image_size=8))


def test_bad_images_leave_nothing_behind(tmp_path):
    data_support.make_flat(tmp_path / "root")
    (tmp_path / "root/n1.png").write_text("no image")
    with pytest.raises(ValueError, match="^1 of 4 files cannot be read"):
        _prepare(tmp_path)
    assert _copies(tmp_path) == []


def test_no_pickle_is_written(tmp_path):
    data_support.make_class_folders(tmp_path / "root")
    copy = _prepare(tmp_path).path
    names = {p.name for p in copy.rglob("*") if p.is_file()}
    assert names == {
        "dataset_info.json",
        "features.json",
        "folder-test.array_record-00000",
        "folder-train.array_record-00000",
        "label.labels.txt",
        prepared._MANIFEST,
    }
