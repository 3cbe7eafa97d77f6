"""Extra images to train on against the test split: which of them are the same, or nearly.

WORKDIR/extra.json    the near-duplicate of every test image that has one, and at least the `SHOWN` nearest pairs: their
                      places in both, and how far they are apart

The distance is the root mean square of the differences of all pixels, in units of the range [0, 1]. It finds copies and
what compression makes of them, not mirrored, cropped or recoloured ones.
"""

from pathlib import Path

import numpy as np

from clead_jax.core.batches import pixels
from clead_jax.core.progress import log
from clead_jax.core.types import fingerprint
from clead_jax.experiment.context import Run
from clead_jax.results import files, forms

NEAR = 0.05  # 13 of 255 levels; ours
SHOWN = 10
BLOCK = 4096


def compare(run: Run) -> None:
    """Writes extra.json, unless it is there for the same images, and says what is found. Nothing without extra data."""
    if not len(run.extra):
        return
    path, test = Path(run.workdir) / "extra.json", np.asarray(run.dataset.test_images)
    made_of = [fingerprint(run.extra), fingerprint(test)]
    found = files.load_json(path, forms.EXTRA, "delete it and train again")
    if found.get("fingerprints") != made_of:
        places, distances = nearest(test, run.extra)
        near, order = int((distances <= NEAR).sum()), np.argsort(distances, kind="stable")
        pairs = [
            {"test": int(n), "extra": int(places[n]), "distance": round(float(distances[n]), 5)}
            for n in order[: max(near, SHOWN)]
        ]
        counts = {"num_images": len(run.extra), "num_test": len(test), "near_duplicates": near}
        found = {"name": run.extra_name, "fingerprints": made_of, **counts, "threshold": NEAR, "nearest": pairs}
        files.save_json(path, found)
    first = [f"{p['test']} and {p['extra']} ({p['distance']:.3f})" for p in found["nearest"][:3]]
    said = (
        f"of {found['num_test']:,} test images have a near-duplicate in {found['name']}; nearest, test and extra image"
    )
    (log.warning if found["near_duplicates"] else log.info)(
        f"extra data: {found['near_duplicates']:,} {said}: {', '.join(first)}"
    )


def nearest(images: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place int [N] of the nearest in `among`, distance float [N]) for every image; both uint8 [., H, W, C]."""
    flat = pixels(images).reshape(len(images), -1)
    places, least = np.zeros(len(images), int), np.full(len(images), np.inf, np.float32)
    for start in range(0, len(among), BLOCK):
        block = pixels(among[start : start + BLOCK]).reshape(-1, flat.shape[1])
        squared = (block**2).sum(1) - 2 * flat @ block.T  # but for the square of the image itself
        best = squared.argmin(1)
        value = squared[np.arange(len(flat)), best]
        places, least = np.where(value < least, start + best, places), np.minimum(value, least)
    apart = flat - pixels(among[places]).reshape(flat.shape)  # anew: small differences of large numbers are lost
    return places, np.sqrt((apart**2).mean(1))
