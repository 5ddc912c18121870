"""The groups of params.yaml up to pretraining: strict, frozen, each value with type, range, unit and source.

They hold no defaults, so that a value stands in one place, params.yaml.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from config.names import NAME, check_name, check_text
from config.redaction import refuse_secrets
from shards.urls import check_url, is_url

Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Range = Annotated[tuple[Positive, Positive], Field(description="(low, high)")]


class Group(BaseModel):
    """Base of all groups: unknown keys are errors, values cannot change, numbers are not made from text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @field_validator("*")
    @classmethod
    def _refuse_odd_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, str):
                check_text(text)
                refuse_secrets(text)
        return value


class DataParams(Group):
    """Which images are read, how they are split, and how many may be refused."""

    path: str = Field(description="folder of images or Parquet shards, or the URL of one in a store")
    watch: str = Field(description="what DVC hashes for it: the same folder, or a listing made by `semmae use`")
    generate: list[Literal["creatures"]] = Field(max_length=1, description="built-in data set to draw first, or []")
    part_truth: list[Literal["masks"]] = Field(
        max_length=1, description="[masks] where the data has part labels, else []"
    )
    image_column: str = Field(description="image column of Parquet sources")
    label_column: str = Field(description="label column of Parquet sources; empty: one class for all images")
    val_share: OpenShare = Field(description="share of train that becomes val where the source has none")
    test_share: OpenShare = Field(description="share that becomes test where the source has none")
    split_seed: Seed
    shard_mib: Positive = Field(description="upper bound of an image shard, MiB of encoded bytes")
    store: str = Field(
        description="URL that those of the shards of images and of attention begin with; empty: they lie in the outs"
    )
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = Field(
        description="larger images are refused before they are decoded; the upper bound is Pillow's own"
    )
    max_rejected_share: Share = Field(description="the run stops when more than this share of the entries is refused")

    @model_validator(mode="after")
    def _check(self) -> "DataParams":
        if self.store:
            check_url(self.store, "store")
        if is_url(self.path):
            check_url(self.path, "path")
            if self.watch == self.path:
                raise ValueError("watch: DVC cannot watch a URL; `semmae use URL` makes a listing of it")
        return self


class CreaturesParams(Group):
    """The built-in, procedurally drawn data set."""

    seed: Seed
    train: Count = Field(description="images")
    test: Count = Field(description="images")
    image_size: Annotated[int, Field(ge=32, le=512)] = Field(description="pixels")
    max_clutter: Annotated[int, Field(ge=0)] = Field(description="most things behind an animal; half is the least")
    occlusion: Share = Field(description="share of the images with things before the animal")


class TeacherParams(Group):
    """The self-supervised ViT whose attention the parts start from (iBOT: Zhou et al., ICLR 2022)."""

    source: str = Field(description="`train`, a checkpoint file, `timm:NAME` or `hf-hub:NAME`")
    sha256: Sha256 = Field(description="of the checkpoint file; empty unless source is a file")
    architecture: str = Field(description="timm model of a checkpoint file; empty otherwise")
    branch: Literal["teacher", "student"] = Field(description="which network of a self-distillation checkpoint")
    image_size: Count = Field(description="pixels; input of the teacher, divisible by its patch size")
    patch_size: Count = Field(description="pixels")
    width: Count
    depth: Count
    num_heads: Count
    epochs: Positive
    batch_size: Count
    lr: Positive = Field(description="peak, for this batch size")
    weight_decay: NonNegative
    warmup_share: Share = Field(description="share of the steps with rising lr and teacher temperature")
    global_size: Count = Field(
        description="pixels of the global crops; less than image_size costs less, and shows things as large in crops "
        "as in whole images (Touvron et al., NeurIPS 2019)"
    )
    local_crops: Annotated[int, Field(ge=0)]
    local_size: Count = Field(description="pixels, divisible by the patch size")
    global_scale: Range = Field(description="area shares of the global crops")
    local_scale: Range = Field(description="area shares of the local crops")
    colour_jitter: NonNegative = Field(description="strength of brightness, contrast and saturation changes")
    prototypes: Count = Field(description="outputs of the shared head")
    head_width: Count
    student_temperature: Positive
    teacher_temperature: Range = Field(description="(start, end of warm-up)")
    momentum: OpenShare = Field(description="of the teacher's average at the start; rises to 1 (cosine)")
    mask_ratio: tuple[Share, Share] = Field(description="(low, high) share of patches hidden from the student")
    mask_probability: Share = Field(description="share of global crops that are masked at all")
    clip: Positive = Field(description="largest gradient norm")
    seed: Seed
    neighbours: Count = Field(description="k of the kNN accuracy that is reported")
    knn_images: Count = Field(description="most training images, and most test images, that it is taken over")

    @model_validator(mode="after")
    def _check(self) -> "TeacherParams":
        for name in ("image_size", "global_size", "local_size"):
            if self.source == "train" and getattr(self, name) % self.patch_size:
                raise ValueError(f"{name} {getattr(self, name)} must be divisible by patch_size {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be divisible by num_heads {self.num_heads}")
        is_file = self.source != "train" and not self.source.startswith(("timm:", "hf-hub:"))
        if is_file and not (self.sha256 and self.architecture):
            raise ValueError(f"source {self.source} is a file: name its sha256 and its timm architecture")
        return self


class ExtractParams(Group):
    """What is kept of the teacher."""

    batch_size: Count
    token_layer: Annotated[int, Field(ge=0)] = Field(
        description="0: patch tokens after the final norm; n: those that enter the n-th block from the end"
    )
    part_images: Count = Field(description="training images whose patch tokens are kept for part learning")


class RefineParams(Group):
    """The part learner (SemMAE section 3.1); what the paper does not state is our choice."""

    parts: Annotated[int, Field(ge=2, le=254)] = Field(description="K")
    initialisation: Literal["heads", "random", "clusters"]
    token_width: Count = Field(description="C: width of the part tokens; heads needs the teacher's width")
    target_width: Count = Field(description="principal components of the teacher's tokens that are rebuilt")
    whitening: Share = Field(description="0: components as they are, 1: each of variance 1")
    centre: bool = Field(description="patch tokens relative to their image's mean; not with initialisation heads")
    normalise: Literal["parts", "space"] = Field(description="softmax over parts at a patch, or over patches of a part")
    temperature: Positive
    blur_sigma: NonNegative = Field(description="patches; 0 is no blur")
    foreground: Literal["attention", "border", "all"] = Field(
        description="patches that the losses of the parts look at: what the class token attends to, kinds of patches "
        "that are rarer at the border of images, or all"
    )
    foreground_clusters: Count = Field(description="kinds of patches that `border` tells apart")
    border_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="for `border`: a kind counts as rare at the border below this share of what chance would put there"
    )
    background: Literal["none", "attention_mass", "slot"]
    attention_mass: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the class token's attention that is foreground, for `attention` and `attention_mass`"
    )
    decoder_size: Count = Field(description="pixels of the reconstruction")
    decoder_width: Count
    reconstruction_weight: NonNegative
    perceptual: Literal["none", "teacher"] = Field(
        description="whose features compare the reconstruction with the image"
    )
    perceptual_weight: Positive
    equivariance_weight: NonNegative = Field(
        description="parts of a view against the same view of the parts; one more pass of the teacher a step"
    )
    token_weight: NonNegative = Field(description="reconstruction of the teacher's tokens from part-pooled tokens")
    token_pooling: Literal["image", "batch"] = Field(
        description="one pooled token a part for each image, or for the batch: then a part is the same kind everywhere"
    )
    diversity_weight: NonNegative
    usage_weight: NonNegative = Field(description="balance of the parts over a batch")
    slot_weight: NonNegative = Field(description="cross-entropy of the background slot with what is not foreground")
    epochs: Positive
    batch_size: Count
    lr: Positive
    weight_decay: NonNegative
    warmup_share: Share
    clip: Positive
    seed: Seed


class CacheParams(Group):
    """The pass that labels every image."""

    batch_size: Count


# The kinds of masks, and the maps that each follows: part labels, attention ranks or none. `parts.masking.MASKS` draws them.
MASK_KINDS = {
    "random": "none",
    "block": "none",
    "parts": "labels",
    "attmask_high": "ranks",
    "attmask_hint": "ranks",
    "none": "none",
}


class Arm(Group):
    """One way to mask: the method and its baselines differ in nothing else."""

    mask: str = Field(
        description="none: no pretraining at all, the floor for frozen features and training from scratch for fine-tuning"
    )
    parts: Literal["none", "raw", "learned"] = Field(description="which part maps the masks follow")
    schedule: Literal["intra_to_inter", "intra", "inter", "inter_to_intra", "cosine"]
    gamma: Positive = Field(description="exponent of the schedule (SemMAE equation 6: 2)")
    background: Literal["part", "random"] = Field(description="background patches: hidden like a part, or at random")

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
                f"mask {self.mask} with parts {self.parts}: mask parts needs parts raw or learned, others none"
            )
        return self

    @property
    def maps(self) -> str:
        """What its masks follow: `labels`, `ranks` or `none`."""
        return MASK_KINDS[self.mask]


class ArmsParams(BaseModel):
    """The arms that run, and the definition of each under its name."""

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
            raise ValueError(f"arm {missing[0]} is not defined; defined are {sorted(self.definitions)}")
        return self

    @property
    def definitions(self) -> dict[str, Arm]:
        """Every defined arm by name."""
        return dict(self.__pydantic_extra__ or {})


class PretrainParams(Group):
    """Masked autoencoding (He et al., CVPR 2022), the same for every arm."""

    start: str = Field(description="checkpoint of MAE or SemMAE to start from, or empty for random weights")
    start_sha256: Sha256 = Field(description="of that file; empty without one")
    decode_size: Count = Field(description="pixels that either side of an image keeps when it is decoded for crops")
    shuffle_images: Count = Field(description="images that are shuffled among each other; a larger set by its files")
    image_size: Count = Field(description="pixels")
    patch_size: Count = Field(description="pixels")
    width: Count
    depth: Count
    num_heads: Count
    decoder_width: Count
    decoder_depth: Count
    decoder_num_heads: Count
    norm_pix_loss: bool
    mask_ratio: OpenShare
    epochs: NonNegative = Field(description="0 takes the weights of `start` as they are")
    warmup_epochs: NonNegative
    batch_size: Count
    base_lr: Positive = Field(description="for a batch of 256, scaled linearly")
    weight_decay: NonNegative
    betas: tuple[OpenShare, OpenShare]
    clip: Positive = Field(description="largest gradient norm")
    crop_scale: Range = Field(description="area shares of the random crop")
    crop_ratio: Range = Field(description="aspect ratios of the random crop")
    flip: bool
    hint_share: Share = Field(description="share of the hidden, most attended patches that AttMask-Hint reveals")

    @model_validator(mode="after")
    def _check(self) -> "PretrainParams":
        if bool(self.start) != bool(self.start_sha256):
            raise ValueError(f"start {self.start!r} and start_sha256 {self.start_sha256!r}: name both or neither")
        if self.epochs == 0 and not self.start:
            raise ValueError("epochs 0 needs a checkpoint to start from; name one in start, or train for some epochs")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be divisible by patch_size {self.patch_size}")
        if self.width % self.num_heads or self.decoder_width % self.decoder_num_heads:
            raise ValueError("width must be divisible by num_heads, and decoder_width by decoder_num_heads")
        return self


class ComputeParams(Group):
    """What changes bits without changing the science: tracked, and part of the resume fingerprints."""

    threads: Count = Field(description="CPU threads a process; 1 and 2 give different bits")
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool
    world_size: Count = Field(description="processes of pretrain and of finetune; what else trains runs in one")
    micro_batch: Annotated[int, Field(ge=0)] = Field(
        description="most images that a process of a pretraining takes at once; 0: its part of the batch"
    )
