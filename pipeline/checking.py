"""What must be right before any work: parameters, and an image folder that DVC can hash."""

from pathlib import Path

from config.params import load_params, load_runtime
from images.sources.tree import root_of, unhashable_entries, write_listing

# DVC watches this file instead of a folder that it cannot hash.
LISTING = Path("data/listing.txt")


def check_input() -> str:
    """One line about valid parameters and images; brings the listing up to date.

    Raises ValueError for a fault in params.yaml, runtime.yaml or the image folder.
    """
    params, _ = load_params(), load_runtime()
    data = params.data
    if not data.generate:
        root = root_of(data.path)
        if data.watch == str(LISTING):
            write_listing(root, LISTING)
        odd = next(iter(unhashable_entries(data.path)), None) if data.watch == data.path else None
        if odd is not None:
            raise ValueError(
                f"data.watch: DVC cannot hash {odd[0]} ({odd[1]}); run `semmae use {data.path}`, which makes a listing"
            )
    arms, seeds = ", ".join(params.arms.names), ", ".join(map(str, params.seeds))
    return f"params.yaml: valid; data {data.path}; arms {arms}; seeds {seeds}"
