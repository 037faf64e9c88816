"""Model files: round trips, damage and hostile content."""

import io
import json
import zipfile

import numpy as np
import pytest

from aeent_jax.screening import archive

CARD = {"config": {"method": "ae"}, "note": "déjà vu"}
ARRAYS = {
    "weights/params/dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "training/blocks": np.zeros((0, 16, 16), np.uint8),
    "calibration/scores": np.array([0.5, np.inf]),
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.aeent"
    archive.write(path, CARD, ARRAYS)
    return path


def rewritten(path, change):
    """The same file, with its members passed through `change`."""
    with zipfile.ZipFile(path) as file:
        members = {m.filename: file.read(m) for m in file.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def change_card(members, **values):
    card = json.loads(members[archive.CARD]) | values
    members[archive.CARD] = json.dumps(card).encode()


def test_a_model_comes_back_as_it_was_written(model):
    card, arrays = archive.read(model)
    assert card["note"] == CARD["note"]
    assert card["digest"] == archive.digest(CARD, ARRAYS)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_digest_covers_card_and_arrays():
    other = {**ARRAYS, "calibration/scores": np.array([0.5, 1.0])}
    digests = {
        archive.digest(CARD, ARRAYS),
        archive.digest(CARD, other),
        archive.digest(CARD | {"note": ""}, ARRAYS),
    }
    assert len(digests) == 3


def flip_weight(members):
    content = bytearray(members["weights/params/dense/kernel.npy"])
    content[-1] ^= 1
    members["weights/params/dense/kernel.npy"] = bytes(content)


def change_note(members):
    change_card(members, note="other")


def drop_array(members):
    del members["calibration/scores.npy"]


def add_array(members):
    members["more.npy"] = b"x"


def escape(members):
    members["../evil.npy"] = b"x"


def add_pickle(members):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    members["calibration/scores.npy"] = buffer.getvalue()


def claim_object(members):
    arrays = json.loads(members[archive.CARD])["arrays"]
    arrays["calibration/scores"]["dtype"] = "object"
    change_card(members, arrays=arrays)


def claim_much(members):
    arrays = json.loads(members[archive.CARD])["arrays"]
    arrays["calibration/scores"]["shape"] = [2**40]
    change_card(members, arrays=arrays)


def claim_negative(members):
    arrays = json.loads(members[archive.CARD])["arrays"]
    arrays["calibration/scores"]["shape"] = [-2]
    change_card(members, arrays=arrays)


def claim_much_in_the_header(members):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f8", "fortran_order": False, "shape": (2**44,)}
    )
    members["calibration/scores.npy"] = buffer.getvalue()


def nest_card(members):
    members[archive.CARD] = b"[" * 10**6


def spoil_card(members):
    members[archive.CARD] = b"{"


def drop_card(members):
    del members[archive.CARD]


@pytest.mark.parametrize(
    "damage",
    [
        flip_weight,
        change_note,
        drop_array,
        add_array,
        escape,
        add_pickle,
        claim_object,
        claim_much,
        claim_negative,
        claim_much_in_the_header,
        spoil_card,
        drop_card,
    ],
)
def test_a_damaged_model_is_refused(model, damage):
    path = rewritten(model, damage)
    with pytest.raises(ValueError, match="no sound model file.*export"):
        archive.read(path)


def test_a_compressed_member_is_refused(model):
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(archive.CARD, b"0" * 10_000)
    with pytest.raises(ValueError, match="is compressed"):
        archive.read(model)


def test_a_newer_format_is_refused(model):
    path = rewritten(model, lambda m: change_card(m, format=99))
    with pytest.raises(ValueError, match="format 99.*install a newer"):
        archive.read(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "x.aeent"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no model file"):
        archive.read(path)


def test_a_cut_file_is_refused(model):
    model.write_bytes(model.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is no model file"):
        archive.read(model)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a work"):
        archive.read(tmp_path / "none.aeent")


def test_a_card_that_is_nested_too_deep_is_refused(model):
    with pytest.raises(ValueError, match="no (sound )?model file"):
        archive.read(rewritten(model, nest_card))


def test_an_encrypted_member_is_refused(model):
    content = bytearray(model.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    model.write_bytes(content)
    with pytest.raises(ValueError, match="is no model file"):
        archive.read(model)
