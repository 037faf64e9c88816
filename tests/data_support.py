"""Small folders of images for the tests of aeent_jax.data."""

import dataclasses
import hashlib
import json
import os
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pytest

from aeent_jax.data import catalog, phantoms

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def make_gray(seed: int, size: tuple[int, int] = (24, 20)) -> PIL.Image.Image:
    """A gray image of (width, height) that differs between seeds."""
    rng = np.random.default_rng(seed)
    return PIL.Image.fromarray(
        rng.integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    )


def write_gray(path: pathlib.Path, seed: int, **kwargs) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_gray(seed, **kwargs).save(path)
    return path


def write_mask(path: pathlib.Path, size=(24, 20), marked=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[4:12, 4:12] = 255 * marked
    PIL.Image.fromarray(mask).save(path)


def make_flat(root: pathlib.Path, count: int = 4) -> pathlib.Path:
    for i in range(count):
        write_gray(root / f"n{i}.png", seed=i)
    return root


def make_class_folders(root: pathlib.Path, masks: bool = True) -> pathlib.Path:
    """5 normal to train; 2 normal and 3 abnormal to test."""
    for i in range(5):
        write_gray(root / f"train/normal/t{i}.png", seed=i)
    for i in range(2):
        write_gray(root / f"test/normal/n{i}.png", seed=10 + i)
    for i in range(3):
        write_gray(root / f"test/abnormal/a{i}.png", seed=20 + i)
        if masks:
            write_mask(root / f"test/masks/a{i}.png")
    return root


def make_data_json(root: pathlib.Path, content=None) -> pathlib.Path:
    """The benchmark's layout, by default 4 to train and 1 + 2 to test."""
    if content is None:
        content = {
            "train": {
                "0": ["c.png", "a.png", "d.png", "b.png"],
                "unlabeled": {"0": ["u.png"], "1": ["v.png"]},
            },
            "test": {"0": ["n.png"], "1": ["y.png", "x.png"]},
        }
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.json").write_text(json.dumps(content))
    names = [
        name
        for split in content.values()
        for label in ("0", "1")
        for name in split.get(label, [])
    ]
    for seed, name in enumerate(sorted(set(names))):
        write_gray(root / "images" / name, seed=seed)
    return root


def make_brats(root: pathlib.Path) -> pathlib.Path:
    """BraTS2021: 4 to train; 2 normal and 3 with masks to test."""
    for i in range(4):
        write_gray(root / f"train/b{i}_flair_9.png", seed=i)
    for i in range(2):
        write_gray(root / f"test/normal/n{i}_flair_9.png", seed=10 + i)
    for i in range(3):
        write_gray(root / f"test/tumor/t{i}_flair_9.png", seed=20 + i)
        write_mask(root / f"test/annotation/t{i}_seg_9.png")
    return root


def make_camelyon(root: pathlib.Path) -> pathlib.Path:
    """Camelyon16: 4 to train and 2 + 3 to test, in color."""
    counts = {"train/good": 4, "test/good": 2, "test/Ungood": 3}
    for folder, count in counts.items():
        for i in range(count):
            path = write_gray(root / folder / f"{i}.png", seed=i)
            bands = [make_gray(len(folder) * 10 + i + 5 * c) for c in range(3)]
            PIL.Image.merge("RGB", bands).save(path)
    return root


def make_isic(root: pathlib.Path) -> pathlib.Path:
    """ISIC2018_Task3: 4 nevi of 6 to train, and 2 + 3 to test."""
    for part, nevi in (("Training", "110110"), ("Test", "01001")):
        name = f"ISIC2018_Task3_{part}"
        lines = ["image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"]
        for i, nevus in enumerate(nevi):
            image = f"ISIC_{part}{i}"
            write_gray(root / f"{name}_Input/{image}.jpg", len(part) * 10 + i)
            other = "0.0" if nevus == "1" else "1.0"
            lines.append(f"{image},0.0,{nevus}.0,0.0,0.0,{other},0.0,0.0")
        table = root / f"{name}_GroundTruth/{name}_GroundTruth.csv"
        table.parent.mkdir()
        table.write_text("\n".join([*lines, ""]))
    return root


BENCHMARK = {
    "rsna": make_data_json,
    "vindr_cxr": make_data_json,
    "brain_tumor": make_data_json,
    "brats2021": make_brats,
    "lag": make_data_json,
    "isic2018": make_isic,
    "camelyon16": make_camelyon,
}


def make_archive(
    path: pathlib.Path, folder: pathlib.Path, *members: tarfile.TarInfo
) -> str:
    """Packs a folder under its name, and empty members; returns the md5."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
        for member in members:
            tar.addfile(member)
    return hashlib.md5(path.read_bytes()).hexdigest()


def change_entry(monkeypatch, name: str, **changes):
    """Has the catalog state other counts or another md5."""
    entry = dataclasses.replace(catalog.CATALOG[name], **changes)
    monkeypatch.setitem(catalog.CATALOG, name, entry)


def draw_few_phantoms(monkeypatch):
    """Makes the phantom sets small: 6 to train, 2 + 3 to test."""
    counts = {"train": (6, 0), "test": (2, 3)}
    for name, entry in list(phantoms.PHANTOMS.items()):
        monkeypatch.setitem(
            phantoms.PHANTOMS, name, entry._replace(counts=counts)
        )


def real_folder(name: str) -> pathlib.Path:
    """A folder of real images, or skips the test where there is none."""
    default = _REPOSITORY.parent / "shared"
    folder = pathlib.Path(os.environ.get("AEENT_SHARED", default), "data", name)
    if not folder.is_dir():
        pytest.skip(f"the real images {name} are not on this machine")
    return folder


def write_dicom(path: pathlib.Path, pixels: np.ndarray, **tags) -> pathlib.Path:
    """Writes pixels `[H, W]`, `[F, H, W]` or `[H, W, 3]` as DICOM.

    Args:
        path: the file.
        pixels: of 8 or 16 bits, signed or not.
        tags: further ones by their keyword, or others than the usual; None
            leaves one out. `syntax` is the transfer syntax.
    """
    pydicom = pytest.importorskip("pydicom")
    uid = pydicom.uid
    syntax = tags.pop("syntax", uid.ExplicitVRLittleEndian)
    color = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = len(pixels) if pixels.ndim == 3 and not color else 1
    bits = 8 * pixels.dtype.itemsize
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    big = syntax == uid.ExplicitVRBigEndian
    order = pixels.dtype.newbyteorder(">" if big else "<")
    usual = {
        "SOPClassUID": uid.MRImageStorage,
        "SOPInstanceUID": uid.generate_uid(),
        "Modality": "MR",
        "Rows": pixels.shape[-3 if color else -2],
        "Columns": pixels.shape[-2 if color else -1],
        "SamplesPerPixel": 3 if color else 1,
        "PhotometricInterpretation": "RGB" if color else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "NumberOfFrames": frames if frames > 1 else None,
        "PlanarConfiguration": 0 if color else None,
        "PixelData": pixels.astype(order).tobytes(),
    }
    for name, value in {**usual, **tags}.items():
        if isinstance(value, pydicom.DataElement):
            data.add(value)
        elif value is not None:
            setattr(data, name, value)
    if "PixelData" in data:
        data["PixelData"].VR = "OW" if bits == 16 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path: pathlib.Path, values: np.ndarray, affine=None, **fields):
    """Writes values `[R, A, S]` or `[R, A, S, T]` as NIfTI.

    Args:
        path: the file.
        values: of any type of NIfTI.
        affine: `[4, 4]`, by default the unit matrix: axes go to the right,
            anterior and superior.
        fields: of the header.
    """
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
