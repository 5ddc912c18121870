"""The arms of params.yaml: ways to mask, of which each is one line of the comparison."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from config.groups import Group, Name, Positive, Share
from config.names import check_name

# The kinds of masks, and the maps that each follows: part labels, attention ranks or none. `parts.masking.MASKS` draws them.
MASK_KINDS = {
    "random": "none",
    "block": "none",
    "parts": "labels",
    "attmask_high": "ranks",
    "attmask_hint": "ranks",
    "none": "none",
}
ANOTHER = "another"


class Arm(Group):
    """One way to mask. The method and its baselines differ only in this."""

    mask: str = Field(
        description="none: no pretraining at all, the floor for frozen features and training from scratch for fine-tuning"
    )
    parts: Literal["none", "raw", "learned", "truth"] = Field(
        description="which part maps the masks follow; truth: the masks in the data (data.part_truth), the best that parts can be"
    )
    image: Literal["own", "another"] = Field(
        "own", description="whose map: another image's has the shape of parts without their meaning"
    )
    schedule: Literal["intra_to_inter", "intra", "inter", "inter_to_intra", "cosine"]
    gamma: Positive = Field(description="exponent of the schedule (SemMAE equation 6: 2)")
    alpha_max: Share = Field(1.0, description="factor of the schedule's alpha: below 1 no large part is hidden whole")
    background: Literal["part", "random"] = Field(description="background patches: hidden like a part, or at random")
    keep_hint: bool = Field(
        False, description="whether a patch of every part stays visible, as far as the ratio allows"
    )

    @field_validator("mask")
    @classmethod
    def _check_mask(cls, mask: str) -> str:
        if mask not in MASK_KINDS:
            raise ValueError(f"expected one of {', '.join(MASK_KINDS)}")
        return mask

    @model_validator(mode="after")
    def _check(self) -> "Arm":
        if (self.maps == "labels") != (self.parts != "none"):
            raise ValueError(
                f"mask {self.mask} with parts {self.parts}: mask parts needs parts raw, learned or truth, others none"
            )
        choices = [f"image {self.image}"] * (self.image == ANOTHER) + ["keep_hint"] * self.keep_hint
        choices += [f"alpha_max {self.alpha_max:g}"] * (self.alpha_max < 1)
        if choices and self.maps != "labels":
            raise ValueError(f"{choices[0]} with mask {self.mask}: only mask parts has parts that it can be about")
        return self

    @property
    def maps(self) -> str:
        """What its masks follow: `labels`, `ranks` or `none`."""
        return MASK_KINDS[self.mask]


class ArmsParams(BaseModel):
    """The names of the arms to run, and the definition of each arm under its name."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Arm]

    names: list[Name] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "ArmsParams":
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names {self.names} holds a name twice")
        for name in self.definitions:
            check_name(name, "name of an arm")
        missing = [name for name in self.names if name not in self.definitions]
        if missing:
            raise ValueError(f"arm {missing[0]} is not defined; expected one of {sorted(self.definitions)}")
        return self

    @property
    def definitions(self) -> dict[str, Arm]:
        """Every defined arm by name."""
        return dict(self.__pydantic_extra__ or {})
