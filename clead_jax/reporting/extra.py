"""What the report says of extra images to train on: whether some of them are test images."""

from clead_jax.reporting.render import Block, Cell, Table, Text
from clead_jax.results.read import Inputs

PAIRS = 10  # shown


def compared(inputs: Inputs) -> list[Block]:
    """The extra images and the test images that are the most alike; nothing for a run without extra data."""
    if not (found := inputs.extra):
        return []
    said = (
        f"Trained on beside the others: {found['num_images']:,} images of {found['name']}, without their labels. "
        f"{found['near_duplicates']:,} of {found['num_test']:,} test images have a near-duplicate among them: its "
        f"pixels differ by at most {found['threshold']:g} (root mean square, of the range 0 to 1). All are in "
        "extra.json. The nearest pairs, by their places:"
    )
    nearest = found["nearest"][:PAIRS]
    rows: list[list[Cell]] = [[f"{pair['test']}", f"{pair['extra']}", f"{pair['distance']:.4f}"] for pair in nearest]
    table = Table(["Test image", "Extra image", "Distance"], rows, alarm=bool(found["near_duplicates"]))
    return [Text(said), table]
