"""Mask files to arrays of bool: two values, and anything else is refused."""

import os
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageFile

from aeent_jax.data import files, frame, images, medical

# A mask of most of the border, and of more than half of the image, is most
# likely one of everything but the lesion.
_INVERTED_SHARE = 0.5
_INVERTED_BORDER = 0.8
_MAX_NAMED = 4


Mask = np.ndarray


def read(
    path: str | os.PathLike,
    name: str = "",
    *,
    like: tuple[int, int] | None = None,
    strict: bool = True,
) -> Mask:
    """Reads a mask, True where the file is not black.

    Args:
        path: an image file.
        name: `Facts.name` of the image that it is the mask of.
        like: (width, height) of that image. A mask of another scale is
            resized with it; one of another shape, beyond the rounding of a
            pixel, would be stretched onto the wrong places and is refused.
            None checks nothing.
        strict: whether masks must have two values, black and one other; see
            `find_problem`. The benchmark's own masks may have more.

    Returns:
        [H, W] bool.

    Raises:
        files.UnreadableFileError: the file is no readable image, is too large,
            is of another shape than its image, or no mask of two values.
    """

    def convert(image: PIL.ImageFile.ImageFile) -> Mask:
        upright, _ = images.load_upright(image)
        _check_shape(upright.size, like or upright.size)
        values = pixel_values(upright)
        problem = find_problem(upright, values, image.format) if strict else ""
        if problem:
            raise ValueError(problem)
        return values != 0

    path = pathlib.Path(path)
    kind = medical.kind(path)
    if kind == medical.NIFTI:
        return _read_slice(path, name, like, strict)
    if kind or name:
        what = f"the image {name} of a volume" if name else "an image"
        raise files.UnreadableFileError(
            f"{path}: is no mask of {what}; NIfTI is needed for volumes, and "
            "PNG or NIfTI for images"
        )
    return images.with_image(path, convert)


def _read_slice(
    path: pathlib.Path, name: str, like: tuple[int, int] | None, strict: bool
) -> Mask:
    """Reads the slice of a NIfTI mask that belongs to an image."""
    medical.require(medical.NIFTI, path)
    from aeent_jax.data import nifti

    values = nifti.read_slice(path, name)
    image = PIL.Image.fromarray(values.astype(np.float32))
    try:
        _check_shape(image.size, like or image.size)
    except ValueError as error:
        raise files.UnreadableFileError(f"{path}: {error}") from None
    problem = find_problem(image, values, "NIfTI") if strict else ""
    if problem:
        raise files.UnreadableFileError(f"{path}: {problem}")
    return values != 0


def to_network(mask: np.ndarray, image_size: int, resize: str) -> np.ndarray:
    """Brings a mask `[H, W]` bool to `[S, S]`, by the nearest pixels."""
    if resize == frame.PAD:
        mask = frame.pad_mask(mask)
    image = PIL.Image.fromarray(mask)
    size = (image_size, image_size)
    return np.array(image.resize(size, PIL.Image.Resampling.NEAREST))


def pixel_values(image: PIL.Image.Image) -> np.ndarray:
    """Returns one number per pixel: gray, or 65536 r + 256 g + b of a color.

    PIL's conversion to gray would make the darkest colors black, and truncate
    0.5 of a floating-point mask to 0.
    """
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    if images.is_wide(image.mode):
        return np.asarray(image)
    color = np.asarray(image.convert("RGB")).astype(np.int32)
    return (color[..., 0] << 16) + (color[..., 1] << 8) + color[..., 2]


def find_problem(
    image: PIL.Image.Image, values: np.ndarray, file_format: str | None
) -> str:
    """Says why an image is no mask of two values.

    Args:
        image: upright, of any mode.
        values: its `pixel_values`.
        file_format: PIL's name of the format of its file.

    Returns:
        A reason that follows the file's name, or an empty text: a mask has
        black pixels and those of one other value, and at most one of both may
        be missing.
    """
    used = np.unique(values)
    return (
        _in_alpha(image, used)
        or _of_more_values(image, used, file_format)
        or _in_palette(image, used)
        or _inverted(values)
    )


def _in_alpha(image: PIL.Image.Image, used: np.ndarray) -> str:
    if not image.has_transparency_data:
        return ""
    low, high = image.convert("RGBA").getchannel("A").getextrema()
    if low == high == 255:
        return ""
    where = "" if len(used) > 1 else ", where its shape seems to be"
    return (
        f"is a mask with a channel of transparency{where}; save it in black "
        "and white without one"
    )


def _of_more_values(
    image: PIL.Image.Image, used: np.ndarray, file_format: str | None
) -> str:
    named = ", ".join(_name(image, v) for v in used[:_MAX_NAMED])
    if len(used) > 2:
        more = ", ..." if len(used) > _MAX_NAMED else ""
        cause = (
            "JPEG changes the values at edges: save it as PNG"
            if file_format == "JPEG"
            else "keep one region, and make borders and other labels black"
        )
        return (
            f"is a mask of {len(used)} values ({named}{more}), and two are "
            f"needed; {cause}"
        )
    if not np.isfinite(used).all():
        return "is a mask with values that are not finite"
    if len(used) == 2 and 0 not in used:
        return f"is a mask of the values {named}, and one of two must be 0"
    return ""


def _name(image: PIL.Image.Image, value: np.generic) -> str:
    is_color = not images.is_wide(image.mode) and value > 255
    return f"#{int(value):06x}" if is_color else f"{value:.5g}"


def _in_palette(image: PIL.Image.Image, used: np.ndarray) -> str:
    if image.mode != "P":
        return ""
    indices = np.unique(np.asarray(image))
    if len(indices) == len(used):
        return ""
    return (
        f"is a mask of {len(indices)} labels whose palette shows "
        f"{len(used)} colors; save it in black and white"
    )


def _inverted(values: np.ndarray) -> str:
    mask = values != 0
    share = mask.mean()
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    marked = border.mean()
    if not _INVERTED_SHARE < share < 1 or marked < _INVERTED_BORDER:
        return ""
    return (
        f"is a mask of {share:.0%} of its image and {marked:.0%} of the border,"
        " so it seems to be inverted; lesions must be white"
    )


def _check_shape(size: tuple[int, int], like: tuple[int, int]):
    """Refuses a mask whose sides have another ratio than those of its image."""
    # Zero where the ratios are equal; a pixel more on a side adds the length of
    # the other image's other side.
    difference = abs(size[0] * like[1] - size[1] * like[0])
    if difference > max(*size, *like):
        raise ValueError(
            f"is a mask of {size[0]} x {size[1]} pixels for an image of "
            f"{like[0]} x {like[1]}, another shape"
        )
