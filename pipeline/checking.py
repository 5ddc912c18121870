"""What must be right before any work: parameters, and images that DVC can watch and that are what the parameters say."""

from pathlib import Path

from config.groups import LISTING, DataParams
from config.params import load_params, load_runtime
from images.sources.tree import check_listing, root_of, unhashable_entries, write_listing
from jobs.git import git


def check_repository() -> None:
    """ValueError if the current folder is in no repository that git opens, as after a download without `.git`."""
    try:
        git("rev-parse", "--git-dir")
    except ValueError as error:
        is_none = "not a git repository" in str(error)
        remedy = "; `git init && git add -A && git commit -m start` makes one" if is_none else ""
        raise ValueError(f"{Path.cwd()}: DVC and experiments need git: {error}{remedy}") from None


def renew_listing(data: DataParams) -> None:
    """Bring the listing up to date where DVC watches one; ValueError where it lists another place."""
    if data.watch == LISTING:
        if Path(LISTING).exists():
            check_listing(LISTING, data.path)
        write_listing(root_of(data.path), LISTING)


def check_input() -> str:
    """One line about valid parameters and images; brings the listing up to date.

    Raises ValueError for a fault in git, params.yaml, runtime.yaml or the image folder.
    """
    check_repository()
    params, _ = load_params(), load_runtime()
    data = params.data
    if not data.generate:
        root_of(data.path)
        renew_listing(data)
        odd = next(iter(unhashable_entries(data.path)), None) if data.watch == data.path else None
        if odd is not None:
            raise ValueError(
                f"data.watch: DVC cannot hash {odd[0]} ({odd[1]}); run `semmae use {data.path}`, which makes a listing"
            )
    arms, seeds = ", ".join(params.arms.names), ", ".join(map(str, params.seeds))
    return f"params.yaml: valid; data {data.path}; arms {arms}; seeds {seeds}"


def check_images() -> list[str]:
    """Lines on what the images of data.path and of the sets in transfer.sets are taken for; none for images yet to be drawn.

    Raises ValueError where they are not what the parameters say.
    """
    from images.sources.understanding import understand

    params = load_params()
    lines = [] if params.data.generate else understand(params.data, labels=bool(params.data.labels)).lines
    for name in params.transfer.sets:
        data_set = params.data.model_copy(update={"path": f"data/transfer/{name}"})
        lines += understand(data_set, labels=True, masks=False).lines
    return lines
