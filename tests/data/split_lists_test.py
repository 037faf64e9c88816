import pytest

from aeent_jax.data import split_lists

_HEADER = "image,MEL,NV,BCC"


def _write(tmp_path, *lines):
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def test_nevi_are_normal(tmp_path):
    path = _write(
        tmp_path, _HEADER, "a,0.0,1.0,0.0", "b,1.0,0.0,0.0", "c,0,1,0"
    )
    found = split_lists.read_ground_truth(path)
    assert found == [(0, "a"), (1, "b"), (0, "c")]


def test_order_of_columns_and_byte_order_mark_do_not_matter(tmp_path):
    path = _write(tmp_path, "\ufeffimage,NV", "a,1.0")
    assert split_lists.read_ground_truth(path) == [(0, "a")]
    path = _write(tmp_path, "NV,image", "1.0,a")
    assert split_lists.read_ground_truth(path) == [(0, "a")]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((_HEADER, "a,0.0,0.5,0.0"), "columns image and NV.*'0.5' in row 1"),
        (("image,MEL", "a,0.0"), "columns image and NV.*None in row 1"),
        (("name,NV", "a,1.0"), "columns image and NV.*None and '1.0' in row 1"),
        ((_HEADER, "a,0,1,0", "b"), "'b' and None in row 2"),
        ((_HEADER, ",0.0,1.0,0.0"), "'' and '1.0' in row 1"),
        ((_HEADER, "a,0,1,0", "a,0,0,1"), r"1 names more than once \(a\)"),
        ((_HEADER, "../a,0,1,0"), "names files outside its folder"),
        ((_HEADER, "/etc/a,0,1,0"), "names files outside its folder"),
        ((_HEADER, "x\\a,0,1,0"), "names files outside its folder"),
        ((_HEADER, "a\0,0,1,0"), "names files outside its folder"),
        ((_HEADER, "a" * 200_000 + ",0,1,0"), "is not valid CSV"),
    ],
)
def test_table_of_another_form_is_refused(tmp_path, lines, sentence):
    with pytest.raises(ValueError, match=sentence):
        split_lists.read_ground_truth(_write(tmp_path, *lines))


def test_table_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_bytes(b"image,NV\n\xff\xfe,1.0\n")
    with pytest.raises(ValueError, match="is not valid CSV"):
        split_lists.read_ground_truth(path)


def test_table_that_is_missing_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(ValueError, match="cannot be read .*must be a file"):
            split_lists.read_ground_truth(path)
