import warnings

import data_support
import numpy as np
import pytest

from aeent_jax.data import files, images, layouts, sources

pydicom = pytest.importorskip("pydicom")
uid = pydicom.uid


def _ramp(dtype=np.uint16, low=0, step=16, shape=(16, 16)):
    """Values from `low` in equal steps."""
    return (low + step * np.arange(np.prod(shape))).reshape(shape).astype(dtype)


def _read(path, window=None):
    return list(images.frames(path, window=window))


def _gray(path, window=None):
    (shown,) = _read(path, window)
    return np.asarray(shown.image.convert("L"))


def _scaled(values, low, high):
    scaled = np.clip((values.astype(float) - low) / (high - low), 0, 1)
    return np.rint(255 * scaled).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_without_a_window_the_range_is_shown(tmp_path, dtype, syntax):
    info = np.iinfo(dtype)
    values = np.linspace(info.min // 2, info.max // 2, 256).reshape(16, 16)
    values = values.astype(dtype)
    path = data_support.write_dicom(tmp_path / "a.dcm", values, syntax=syntax)
    (shown,) = _read(path)
    np.testing.assert_array_equal(
        np.asarray(shown.image), _scaled(values, values.min(), values.max())
    )
    assert shown.window_source == "range"
    assert shown.notes == (
        "has no usable window: its least value is black, its greatest white",
    )


def test_window_of_the_file_scales_in_rescaled_units(tmp_path):
    values = _ramp(np.int16, -1024, 8)
    path = data_support.write_dicom(
        tmp_path / "a",
        values,
        RescaleSlope=0.5,
        RescaleIntercept=-100,
        WindowCenter=["40", "300"],
        WindowWidth=["400", "2000"],
    )
    # PS3.3 C.11.2.1.2: from c - 0.5 - (w - 1) / 2 on, w - 1 wide.
    rescaled = values * 0.5 - 100
    (shown,) = _read(path)
    np.testing.assert_array_equal(
        np.asarray(shown.image), _scaled(rescaled, -160, 239)
    )
    assert (shown.window, shown.window_source) == ((-160, 239), "file")
    # The window, and not the image: half of its values look the same.
    part = data_support.write_dicom(
        tmp_path / "b",
        values[8:],
        RescaleSlope=0.5,
        RescaleIntercept=-100,
        WindowCenter=40,
        WindowWidth=400,
    )
    np.testing.assert_array_equal(_gray(part), np.asarray(shown.image)[8:])


def test_stated_window_wins(tmp_path):
    values = _ramp()
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        WindowCenter=40,
        WindowWidth=400,
        RescaleIntercept=-1000,
    )
    np.testing.assert_array_equal(
        _gray(path, (0, 1000)), _scaled(values - 1000.0, 0, 1000)
    )


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_functions_of_a_window(tmp_path, function):
    values = _ramp()
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        WindowCenter=2000,
        WindowWidth=1000,
        VOILUTFunction=function,
    )
    expected = _scaled(values, 1500, 2500)
    if function == "SIGMOID":
        exponent = -4 * (values - 2000.0) / 1000
        expected = np.rint(255 / (1 + np.exp(exponent))).astype(np.uint8)
    np.testing.assert_array_equal(_gray(path), expected)


def _table(entries, first, bits=16):
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = [int(e) for e in entries]
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    return item


def test_voi_lut_is_scaled_by_its_bits(tmp_path):
    values = _ramp(step=1)
    entries = np.linspace(0, 4095, 100) ** 2 / 4095
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        VOILUTSequence=[_table(entries, 50, bits=12)],
    )
    places = np.clip(values.astype(int) - 50, 0, 99)
    expected = np.rint(entries.astype(int)[places] / 4095 * 255)
    np.testing.assert_array_equal(_gray(path), expected)


def test_modality_lut_comes_before_the_window(tmp_path):
    values = _ramp(step=1)
    entries = 3 * np.arange(256)
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        ModalityLUTSequence=[_table(entries, 0)],
        WindowCenter=300.5,
        WindowWidth=601,
    )
    np.testing.assert_array_equal(_gray(path), _scaled(3 * values, 0, 600))


def test_ct_without_a_window_has_a_stated_one(tmp_path):
    values = _ramp(np.int16, -1000, 8)
    path = data_support.write_dicom(tmp_path / "a.dcm", values, Modality="CT")
    (shown,) = _read(path)
    assert (shown.window, shown.window_source) == ((-160, 240), "CT")
    np.testing.assert_array_equal(
        np.asarray(shown.image), _scaled(values, -160, 240)
    )


@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {
            "PhotometricInterpretation": "MONOCHROME1",
            "PresentationLUTShape": "INVERSE",
        },
    ],
)
def test_inverted_images_are_shown_upright(tmp_path, tags):
    values = _ramp()
    path = data_support.write_dicom(tmp_path / "a.dcm", values, **tags)
    expected = 255 - _scaled(values, 0, values.max()).astype(int)
    np.testing.assert_allclose(_gray(path), expected, atol=1)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("limit", [None, -1996])
def test_padding_is_left_out_and_black(tmp_path, inverted, limit):
    values = _ramp(np.int16, 100, 4)
    values[:4] = -2000
    values[4] = -1996 if limit else values[4]
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=limit,
        PhotometricInterpretation=f"MONOCHROME{1 if inverted else 2}",
    )
    start = 5 if limit else 4
    shown = _gray(path)
    assert not shown[:start].any()
    expected = _scaled(values[start:], values[start:].min(), values.max())
    if inverted:
        expected = 255 - expected
    np.testing.assert_allclose(shown[start:], expected.astype(int), atol=1)


def test_unsigned_padding_of_signed_pixels_is_understood(tmp_path):
    values = _ramp(np.int16, 0, 4)
    values[0] = -2000
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        PixelPaddingValue=pydicom.DataElement(0x00280120, "US", 63536),
    )
    assert _read(path)[0].extrema == (64, 1020)


def test_frames_have_windows_of_their_own(tmp_path):
    values = np.stack([_ramp(), _ramp()])

    def group(center, slope):
        item = pydicom.Dataset()
        voi, rescale = pydicom.Dataset(), pydicom.Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 1001
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 0
        item.FrameVOILUTSequence = [voi]
        item.PixelValueTransformationSequence = [rescale]
        return item

    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        PerFrameFunctionalGroupsSequence=[group(500.5, 1), group(2000.5, 2)],
    )
    first, second = _read(path)
    assert (first.name, second.name) == ("0000", "0001")
    assert (first.index, second.index) == (0, 1)
    np.testing.assert_array_equal(
        np.asarray(first.image), _scaled(values[0], 0, 1000)
    )
    np.testing.assert_array_equal(
        np.asarray(second.image), _scaled(2.0 * values[1], 1500, 2500)
    )
    assert first.group == second.group
    assert first.volume == second.volume != ""
    assert images.names(path) == ["0000", "0001"]


def test_shared_groups_hold_for_all_frames(tmp_path):
    voi, item = pydicom.Dataset(), pydicom.Dataset()
    voi.WindowCenter, voi.WindowWidth = 500.5, 1001
    item.FrameVOILUTSequence = [voi]
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        np.stack([_ramp(), _ramp()]),
        SharedFunctionalGroupsSequence=[item],
    )
    assert {f.window for f in _read(path)} == {(0, 1000)}


def test_colors_become_gray_as_by_pil(tmp_path):
    image = data_support.make_gray(0).convert("RGB")
    rgb = np.asarray(image).copy()
    rgb[..., 1] = rgb[::-1, :, 1]
    path = data_support.write_dicom(tmp_path / "a.dcm", rgb, Modality="XC")
    (shown,) = _read(path)
    np.testing.assert_array_equal(np.asarray(shown.image), rgb)
    assert shown.has_color
    assert shown.mode == "RGB"


def test_palette_is_applied(tmp_path):
    values = _ramp(np.uint8, step=1)
    descriptor = [256, 0, 16]
    tables = {}
    for name, factor in (("Red", 257), ("Green", 128), ("Blue", 0)):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = descriptor
        entries = (np.arange(256) * factor).astype("<u2")
        tables[f"{name}PaletteColorLookupTableData"] = entries.tobytes()
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        PhotometricInterpretation="PALETTE COLOR",
        **tables,
    )
    (shown,) = _read(path)
    found = np.asarray(shown.image)
    np.testing.assert_array_equal(found[..., 0], values)
    np.testing.assert_array_equal(found[..., 1], values // 2)
    assert not found[..., 2].any()


def test_bits_beyond_those_stored_do_not_count(tmp_path):
    values = _ramp() & 0x0FFF
    overlaid = values | 0xF000
    path = data_support.write_dicom(
        tmp_path / "a.dcm", overlaid, BitsStored=12, HighBit=11
    )
    (shown,) = _read(path)
    assert shown.bits == 12
    assert shown.extrema[1] == values.max()


def test_one_bit_is_black_and_white(tmp_path):
    bits = np.zeros((8, 8), np.uint8)
    bits[2:5, 2:5] = 1
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        bits,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        Modality="OT",
        SOPClassUID=uid.SecondaryCaptureImageStorage,
        PixelData=np.packbits(bits, bitorder="little").tobytes(),
    )
    np.testing.assert_array_equal(_gray(path), 255 * bits)


def test_few_levels_of_the_range_are_a_problem(tmp_path):
    values = _ramp(shape=(64, 64), step=1) % 2000
    values[0, 0] = 65535
    path = data_support.write_dicom(tmp_path / "a.dcm", values)
    (shown,) = _read(path)
    assert "gray levels in the window 0,65535" in shown.problem
    assert shown.needs_window
    with pytest.raises(files.UnreadableFileError, match="state the window"):
        images.read_image(path, image_size=8, channels=1)


def test_few_levels_of_the_window_of_the_file_are_noted(tmp_path):
    values = _ramp(shape=(64, 64), step=1)
    path = data_support.write_dicom(
        tmp_path / "a.dcm", values, WindowCenter=200000, WindowWidth=399000
    )
    (shown,) = _read(path)
    assert shown.problem == ""
    assert "gray levels in the window" in shown.notes[0]


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ({"BurnedInAnnotation": "YES"}, "has burnt-in annotations"),
        ({"Modality": "US"}, "may have burnt-in"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "may have burnt"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, ""),
        ({}, ""),
    ],
)
def test_burnt_in_annotations_are_noted(tmp_path, tags, note):
    path = data_support.write_dicom(
        tmp_path / "a.dcm", _ramp(), WindowCenter=2000, WindowWidth=4000, **tags
    )
    (shown,) = _read(path)
    assert [n[: len(note)] for n in shown.notes] == ([note] if note else [])


_REFUSED = {
    "no pixels": ({"PixelData": None}, "holds no pixels"),
    "no size": ({"Rows": None}, "lacks Rows in its DICOM header"),
    "zero": ({"Rows": 0}, "states an image of no pixels"),
    "huge": ({"Rows": 65535, "Columns": 65535}, "67108864 pixels allowed"),
    "many": ({"NumberOfFrames": 2**31 - 1}, "is cut off"),
    "short": ({"PixelData": b"\0" * 100}, "cut off"),
    "seg": ({"Modality": "SEG"}, "is a segmentation"),
    "dose": (
        {"SOPClassUID": uid.RTDoseStorage},
        r"is a dose \(RTDOSE\), and no DICOM image",
    ),
    "report": (
        {"SOPClassUID": uid.BasicTextSRStorage, "PixelData": None},
        r"is a report \(SR\)",
    ),
    "photometric": (
        {"PhotometricInterpretation": "Doe^Jane"},
        "photometric interpretation that is not known",
    ),
}


@pytest.mark.parametrize("kind", _REFUSED)
def test_other_files_are_refused_with_their_reason(tmp_path, kind):
    tags, reason = _REFUSED[kind]
    path = data_support.write_dicom(tmp_path / "a.dcm", _ramp(), **tags)
    with pytest.raises(files.UnreadableFileError, match=reason) as caught:
        _read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "Doe" not in str(caught.value)


def test_missing_tags_have_their_usual_values(tmp_path):
    values = _ramp()
    path = data_support.write_dicom(
        tmp_path / "a.dcm",
        values,
        SamplesPerPixel=None,
        PhotometricInterpretation=None,
        BitsStored=None,
        HighBit=None,
        PixelRepresentation=None,
        Modality=None,
        SOPClassUID=uid.SecondaryCaptureImageStorage,
    )
    np.testing.assert_array_equal(_gray(path), _scaled(values, 0, values.max()))


def test_file_without_preamble_is_read(tmp_path):
    path = data_support.write_dicom(tmp_path / "a.dcm", _ramp())
    path.write_bytes(path.read_bytes()[132:])
    assert _gray(path).max() == 255


@pytest.mark.parametrize("size", [0, 10, 140, 400, 700, -100])
def test_cut_files_are_refused_in_a_sentence(tmp_path, size):
    path = data_support.write_dicom(tmp_path / "a.dcm", _ramp())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(files.UnreadableFileError, match=f"^{path}: .*"):
        _read(path)


@pytest.mark.filterwarnings("error")
def test_damaged_files_raise_nothing_else(tmp_path):
    whole = data_support.write_dicom(
        tmp_path / "a.dcm", _ramp(), WindowCenter=40, WindowWidth=400
    ).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    path = tmp_path / "b.dcm"
    for _ in range(150):
        content = bytearray(whole)
        for position in rng.integers(0, len(whole), 5):
            content[position] = rng.integers(256)
        path.write_bytes(content)
        try:
            _read(path)
            outcomes.add("read")
        except files.UnreadableFileError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def _with_jpeg(path, size, stated):
    """A file whose JPEG is of another size than its header states."""
    import io

    from pydicom.encaps import encapsulate

    buffer = io.BytesIO()
    data_support.make_gray(0, size=size).save(buffer, format="JPEG")
    return data_support.write_dicom(
        path,
        np.zeros(stated[::-1], np.uint8),
        syntax=uid.JPEGBaseline8Bit,
        PixelData=encapsulate([buffer.getvalue()]),
    )


def test_compressed_pixels_of_another_size_are_refused(tmp_path):
    assert _gray(_with_jpeg(tmp_path / "a", (24, 20), (24, 20))).any()
    path = _with_jpeg(tmp_path / "b", (240, 200), (24, 20))
    with pytest.raises(files.UnreadableFileError, match="another size"):
        _read(path)


def test_names_of_patients_stay_in_the_file(tmp_path, caplog, recwarn):
    secret = "Doe^Jane"
    tags = {
        name: secret
        for name in (
            *("PatientName", "PatientID", "AccessionNumber", "StudyID"),
            *("Modality", "BodyPartExamined", "SeriesDescription"),
            *("InstitutionName", "BurnedInAnnotation", "WindowCenter"),
        )
    }
    tags["WindowCenter"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = data_support.write_dicom(tmp_path / "a.dcm", _ramp(), **tags)
    recwarn.clear()
    (shown,) = _read(path)
    assert secret not in repr(shown.facts)
    assert shown.modality == "other"
    assert not recwarn.list
    assert secret not in caplog.text


def test_groups_are_patients_then_studies_then_series(tmp_path):
    def group(name, **tags):
        path = tmp_path / name
        return _read(data_support.write_dicom(path, _ramp(), **tags))[0].group

    first = group("a", PatientID="7", StudyInstanceUID="1.2")
    assert group("b", PatientID="7", StudyInstanceUID="1.3") == first
    assert group("c", PatientID="8", StudyInstanceUID="1.2") != first
    study = group("d", StudyInstanceUID="1.2", SeriesInstanceUID="1.9")
    assert group("e", PatientID=" ", StudyInstanceUID="1.2") == study != first
    assert group("f", SeriesInstanceUID="1.9") not in (study, first)
    assert group("g") != group("h")


def test_folder_of_dicom_is_read_with_and_without_suffix(tmp_path):
    for i in range(3):
        data_support.write_dicom(
            tmp_path / f"train/normal/p{i}/IM{i:06d}",
            _ramp() + np.uint16(i),
            PatientID=str(i // 2),
        )
    data_support.write_dicom(
        tmp_path / "train/normal/film.dcm", np.stack([_ramp()] * 3)
    )
    (tmp_path / "train/normal/DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    listing = layouts.read_listing(tmp_path)
    splits = sources.read_files(listing, sources.Spec(image_size=16))
    assert splits["train"].ids == (
        *(f"train/normal/film.dcm#000{i}" for i in range(3)),
        *(f"train/normal/p{i}/IM{i:06d}" for i in range(3)),
    )
    np.testing.assert_array_equal(
        splits["train"].images[0, ..., 0], _scaled(_ramp(), 0, _ramp().max())
    )


# Mean gray of each file as it is read, and of the middle frame of several;
# or the reason why it is refused.
_CLINICAL = {
    "cr_chest_mono1_10bit_explicit.dcm": 139.36,
    "cr_chest_mono1_8bit_faked_same_image.dcm": 93.86,
    "cr_chest_mono2_8bit_jpegbaseline_nih.dcm": 161.14,
    "ct_13bit_signed_jpeg2000_pixelrep_mismatch.dcm": 63.21,
    "ct_16bit_jpeg2000lossless.dcm": 48.18,
    "ct_16bit_rle.dcm": 48.18,
    "ct_small_128.dcm": 101.32,
    "mr_512_16bit_signed_jpegls.dcm": 79.88,
    "mr_enhanced_multiframe10_bigendian.dcm": 50.71,
    "mr_small_bigendian.dcm": 113.07,
    "nm_12bit_jpegextended.dcm": "JPEG of 12 bits",
    "no_pixel_data_plan_hard.dcm": r"a plan \(RTPLAN\)",
    "rtdose_32bit_multiframe.dcm": r"a dose \(RTDOSE\)",
    "seg_1bit_3frames.dcm": r"a segmentation \(SEG\)",
    "truncated_pixel_data_hard.dcm": "cut off",
    "us_mono2_8bit_jpeglossless.dcm": 17.36,
    "us_palette_8bit.dcm": 19.44,
    "us_ybr422_multiframe30_jpeg.dcm": 10.7,
}


@pytest.mark.parametrize("name", sorted(_CLINICAL))
def test_real_files_are_read_or_refused(name):
    path = data_support.real_folder("clinical") / "dicom" / name
    expected = _CLINICAL[name]
    if isinstance(expected, str):
        with pytest.raises(files.UnreadableFileError, match=expected):
            _read(path)
        return
    shown = _read(path)
    middle = shown[len(shown) // 2]
    mean = np.asarray(middle.image.convert("L")).mean()
    assert mean == pytest.approx(expected, abs=0.01)
    assert not any(f.problem for f in shown)


def test_real_files_tell_nothing_of_their_patients(caplog):
    folder = data_support.real_folder("clinical") / "dicom"
    outputs, secrets = [], set()
    for path in sorted(folder.iterdir()):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        for element in header.iterall():
            if element.VR in ("PN", "UI", "DA", "TM", "LO", "SH", "AE", "ST"):
                secrets.add(str(element.value))
        try:
            outputs += [repr(f.facts) for f in _read(path)]
        except files.UnreadableFileError as error:
            outputs.append(str(error))
    text = " ".join(outputs).replace(str(folder), "") + caplog.text
    secrets = {s for s in secrets if len(s) > 4}
    assert len(secrets) > 100
    assert not [s for s in secrets if s in text]
