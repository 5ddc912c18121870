"""The form of the deployment, and the flow under which Prefect knows it. `pipeline.scheduling.launch` runs what it asks for."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from config.arms import ANOTHER, Arm
from config.names import STAGE
from config.params import Params, load_params
from config.presets import BASE, FOLDER, preset_names
from config.redaction import one_line
from jobs.state import main_worktree
from pipeline.parameters import parse_changes

AS_HERE = "as in params.yaml"
HIDDEN = {
    "random": "random patches",
    "block": "random blocks",
    "attmask_high": "the patches of most attention",
    "attmask_hint": "the patches of most attention but a few as a hint",
    "none": "nothing: it is not pretrained",
}


def params_shown(root: Path) -> Params:
    """The parameters of `root`, whose arms and values the form shows; if they cannot be read, warns and returns quickstart's."""
    try:
        return load_params(root / "params.yaml")
    except (OSError, ValueError) as error:
        print(f"warning: {one_line(error)}; the form offers the arms of preset {BASE}", file=sys.stderr)
        return load_params(root / FOLDER / f"{BASE}.yaml")


def line_of(name: str, arm: Arm) -> str:
    """What an arm is: `mae: hides random patches`."""
    if arm.parts == "none":
        return f"`{name}`: hides {HIDDEN.get(arm.mask, arm.mask)}"
    kind = "true" if arm.parts == "truth" else arm.parts
    whose = " of another image" if arm.image == ANOTHER else ""
    return f"`{name}`: hides {kind} parts{whose}, {arm.schedule}, background {arm.background}"


# A run from the form works in the main worktree, whoever registered the form.
_HERE = params_shown(main_worktree())
# The page draws one line break as a blank.
_ARMS = "\n\n".join(f"- {line_of(name, arm)}" for name, arm in _HERE.arms.definitions.items())
Preset = Literal[(AS_HERE, *preset_names())]  # type: ignore[valid-type]
ArmName = Literal[tuple(_HERE.arms.definitions)]  # type: ignore[valid-type]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
# The server stores the form's values as they are, so it takes no address with a user: no `@` in a value, or no `//`.
_VALUE = r"([^@\x00-\x1f]*|([^/\x00-\x1f]|/[^/\x00-\x1f])*/?)"
Change = Annotated[str, Field(pattern=rf"^[a-z0-9_.]+={_VALUE}$")]
Target = Annotated[str, Field(pattern=f"^{STAGE}$", max_length=200)]


class Experiment(BaseModel):
    """The form. 0 and empty mean: the value of the preset, or of params.yaml, which is in brackets."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,60})?$",
        description="name of the DVC experiment: letters, digits, `_`, `.`, `-`; empty: chosen for you if one is needed",
    )
    # mypy cannot know these two types: their values are read at import.
    preset: Preset = Field(AS_HERE, description="parameters to start from; your images stay")  # type: ignore[valid-type]
    arms: list[ArmName] = Field(  # type: ignore[valid-type]
        [],
        description=f"arms to compare; the baseline {_HERE.compare.baseline} is added; empty: as the preset "
        f"({', '.join(_HERE.arms.names)})\n\n{_ARMS}",
    )
    seeds: list[Seed] = Field(
        [],
        description="each arm runs once for each seed, 0 or more; a verdict needs at least five; empty: as the preset "
        f"({', '.join(map(str, _HERE.seeds))})",
    )
    epochs: int = Field(
        0,
        ge=0,
        le=10000,
        description=f"epochs of pretraining, 1 to 10000; 0: as the preset ({_HERE.pretrain.epochs:g})",
    )
    mask_ratio: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description=f"share of hidden patches, below 1; 0: as the preset ({_HERE.pretrain.mask_ratio:g})",
    )
    batch_size: int = Field(
        0,
        ge=0,
        le=65536,
        description="images a step of pretraining, over all devices, 1 to 65536; 0: as the preset "
        f"({_HERE.pretrain.batch_size})",
    )
    learning_rate: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="learning rate of pretraining for 256 images (base_lr), at most 1; 0: as the preset "
        f"({_HERE.pretrain.base_lr:g})",
    )
    parts: int = Field(
        0,
        ge=0,
        le=64,
        description=f"semantic parts to learn, 2 to 64; 0: as the preset ({_HERE.refine.parts})",
    )
    other: list[Change] = Field([], description="any other parameter of params.yaml, as group.name=value")
    targets: list[Target] = Field([], description="stages to run, with everything they need; empty: all")
    force: bool = Field(False, description="also run stages that did not change")
    dry_run: bool = Field(False, description="only list the stages that would run")

    def changes(self) -> dict[str, Any]:
        """Dotted key -> value of the parameters that the form changes."""
        given = {
            "pretrain.epochs": self.epochs,
            "pretrain.mask_ratio": self.mask_ratio,
            "pretrain.batch_size": self.batch_size,
            "pretrain.base_lr": self.learning_rate,
            "refine.parts": self.parts,
        }
        return {**{key: value for key, value in given.items() if value}, **parse_changes(self.other)}


@flow(name="semmae")
def semmae(form: Experiment) -> None:
    """Run the stages that changed, independent ones side by side; other parameters make a DVC experiment."""
