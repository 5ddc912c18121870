"""The groups of params.yaml up to pretraining: strict, frozen, each value with type, range, unit and source.

There are no defaults: params.yaml is the only place for a value.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator, model_validator

from config.names import NAME, check_text, shown
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
# The list of files that DVC watches instead of images that it cannot hash.
LISTING = "data/listing.txt"


def _check_meaning(value: Any) -> Any:
    if value in ("background", "ignored") or (type(value) is int and 0 <= value <= 254):
        return value
    raise ValueError("expected background, ignored, or a label from 0 to 254")


MaskValues = dict[Annotated[int, Field(ge=0, le=255)], Annotated[str | int, PlainValidator(_check_meaning)]]


class Group(BaseModel):
    """Base of all groups: unknown keys are errors, values are frozen, text is not converted to numbers."""

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
    """Which images are read, how they are split, and how many may be rejected."""

    path: str = Field(description="folder of images or Parquet shards, local or as the URL of a store")
    watch: str = Field(
        description="what DVC hashes to detect changes: the same folder, or the listing that `semmae use` writes"
    )
    generate: list[Literal["creatures"]] = Field(
        max_length=1, description="[creatures] draws the built-in data first, else []"
    )
    labels: list[Literal["class"]] = Field(
        max_length=1, description="[class] if images have class labels, which judge the encoders; else []"
    )
    part_truth: list[Literal["masks"]] = Field(max_length=1, description="[masks] if the data has part labels, else []")
    mask_values: MaskValues = Field(
        description="value in the masks -> background, ignored, or the label that it stands for; a value that is not named is "
        "its own label, 0 the background and 255 ignored; {} reads masks of 0 and 255 alone as objects"
    )
    attributes: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]] = Field(
        description="columns of data.path's attributes.csv, for each of which a linear probe is fitted; [] for none"
    )
    image_column: str = Field(description="column of images in Parquet and Arrow files")
    label_column: str = Field(description="column of classes there, or key in a tar's JSON; empty for no labels")
    val_share: OpenShare = Field(description="share of train that becomes val if the source has no val")
    test_share: OpenShare = Field(description="share that becomes test if the source has no test")
    split_seed: Seed
    shard_mib: Positive = Field(
        description="most encoded bytes of an image shard, MiB; the first ones of a split are smaller"
    )
    store: str = Field(description="URL prefix for the shards of images and of attention; empty keeps them in the outs")
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = Field(
        description="larger images are rejected before decoding; the upper bound is Pillow's"
    )
    max_rejected_share: Share = Field(
        description="the run stops if a larger share of the files, or of the masks, is rejected"
    )

    @model_validator(mode="after")
    def _check(self) -> "DataParams":
        if len({*self.attributes, "id"}) <= len(self.attributes):
            raise ValueError(f"attributes {self.attributes}: holds a name twice, or id, which stands for the image")
        if self.store:
            check_url(self.store, "store")
        if is_url(self.path):
            check_url(self.path, "path")
            if self.watch != LISTING:
                raise ValueError(
                    f"watch: DVC cannot watch a URL; run `semmae use {self.path}`, which writes a listing to watch"
                )
        elif self.watch not in (self.path, LISTING):
            raise ValueError(
                f"watch: got {shown(self.watch)}, expected {shown(self.path)} as in path, or {LISTING}: DVC would miss changes "
                f"of the images; run `semmae use {self.path}`"
            )
        return self


class CreaturesParams(Group):
    """The built-in, procedurally drawn data set."""

    seed: Seed
    train: Count = Field(description="images")
    test: Count = Field(description="images")
    image_size: Annotated[int, Field(ge=32, le=512)] = Field(description="pixels")
    max_clutter: Annotated[int, Field(ge=0)] = Field(
        description="most objects behind an animal; the least is half of it"
    )
    occlusion: Share = Field(description="share of the images with objects in front of the animal")
    coherence: Share = Field(description="probability that a part has its species' shape and not any")


class TeacherParams(Group):
    """The self-supervised ViT whose attention initialises the parts (iBOT: Zhou et al., ICLR 2022)."""

    source: str = Field(description="`train`, a checkpoint file, `timm:NAME` or `hf-hub:NAME`")
    sha256: Sha256 = Field(description="SHA-256 of the checkpoint file; empty for other sources")
    architecture: str = Field(description="timm model of the checkpoint file; empty for other sources")
    branch: Literal["teacher", "student"] = Field(description="network to load from a self-distillation checkpoint")
    image_size: Count = Field(description="side of the teacher's input in pixels, divisible by its patch size")
    patch_size: Count = Field(description="pixels")
    width: Count
    depth: Count
    num_heads: Count
    epochs: Positive
    batch_size: Count
    lr: Positive = Field(description="peak learning rate for this batch size")
    weight_decay: NonNegative
    warmup_share: Share = Field(description="share of the steps in which lr and teacher temperature rise")
    global_size: Count = Field(
        description="pixels of the global crops; below image_size is cheaper, and objects then have the same size in "
        "crops as in whole images (Touvron et al., NeurIPS 2019)"
    )
    local_crops: Annotated[int, Field(ge=0)]
    local_size: Count = Field(description="pixels, divisible by the patch size")
    global_scale: Range = Field(description="(low, high) area share of the global crops")
    local_scale: Range = Field(description="(low, high) area share of the local crops")
    colour_jitter: NonNegative = Field(description="strength of brightness, contrast and saturation changes")
    prototypes: Count = Field(description="outputs of the shared head")
    head_width: Count
    student_temperature: Positive
    teacher_temperature: Range = Field(description="(start, end of warm-up)")
    momentum: OpenShare = Field(description="of the teacher's running average at the start; rises to 1 along a cosine")
    mask_ratio: tuple[Share, Share] = Field(description="(low, high) share of patches hidden from the student")
    mask_probability: Share = Field(description="share of the global crops that are masked")
    clip: Positive = Field(description="largest gradient norm")
    seed: Seed
    neighbours: Count = Field(description="k of the reported kNN accuracy")
    knn_images: Count = Field(
        description="most training images and most test images used for it; by how much the teacher is above pixels is paired "
        "over both, each training image judged by the other ones"
    )

    @model_validator(mode="after")
    def _check(self) -> "TeacherParams":
        for name in ("image_size", "global_size", "local_size"):
            if self.source == "train" and getattr(self, name) % self.patch_size:
                raise ValueError(f"{name} {getattr(self, name)} must be divisible by patch_size {self.patch_size}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be divisible by num_heads {self.num_heads}")
        is_file = self.source != "train" and not self.source.startswith(("timm:", "hf-hub:"))
        if is_file and not (self.sha256 and self.architecture):
            raise ValueError(f"source {self.source} is a file: give its sha256 and its timm architecture")
        return self


class ExtractParams(Group):
    """What is stored of the teacher's output."""

    batch_size: Count
    token_layer: Annotated[int, Field(ge=0)] = Field(
        description="0: patch tokens after the final norm; n: the input of the n-th block from the end"
    )
    part_images: Count = Field(
        description="training images for part learning, those of the smallest ids; patch tokens are stored of a quarter more at "
        "most, so that added images leave stored ones as they are"
    )
    token_gib: NonNegative = Field(
        description="patch tokens of all images are stored if they take so many GiB at most: then cache_masks need not ask the "
        "teacher a second time"
    )


class RefineParams(Group):
    """The part learner (SemMAE section 3.1); values that the paper does not state are our choice."""

    parts: Annotated[int, Field(ge=2, le=254)] = Field(description="K, the number of parts")
    initialisation: Literal["heads", "random", "clusters"]
    token_width: Count = Field(
        description="C, the width of the part tokens; initialisation heads needs the teacher's width"
    )
    target_width: Count = Field(description="principal components of the teacher's tokens to reconstruct")
    whitening: Share = Field(description="0 leaves the components unscaled, 1 gives each variance 1")
    centre: bool = Field(description="subtract the image's mean from its patch tokens; not with initialisation heads")
    normalise: Literal["parts", "space"] = Field(
        description="softmax over the parts of a patch, or over the patches of a part"
    )
    temperature: Positive
    blur_sigma: NonNegative = Field(description="standard deviation in patches; 0 turns the blur off")
    foreground: Literal["attention", "border", "all"] = Field(
        description="patches that count in the losses: those that the class token attends to, clusters of patches "
        "that are rarer at the border of images, or all"
    )
    foreground_clusters: Count = Field(description="number of clusters for `border`")
    border_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="for `border`: a cluster is rare at the border below this multiple of its share by chance"
    )
    background: Literal["none", "attention_mass", "slot"]
    attention_mass: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the class token's attention that marks the foreground, for `attention` and `attention_mass`"
    )
    decoder_size: Count = Field(description="pixels of the reconstruction")
    decoder_width: Count
    reconstruction_weight: NonNegative
    perceptual: Literal["none", "teacher"] = Field(
        description="whose features compare the reconstruction with the image"
    )
    perceptual_weight: Positive
    equivariance_weight: NonNegative = Field(
        description="parts of a crop must match the crop of the parts; costs one more teacher pass a step"
    )
    token_weight: NonNegative = Field(description="reconstruction of the teacher's tokens from part-pooled tokens")
    token_pooling: Literal["image", "batch"] = Field(
        description="one pooled token a part for each image, or for the whole batch, which makes parts alike across images"
    )
    diversity_weight: NonNegative
    usage_weight: NonNegative = Field(description="weight of the balanced use of the parts over a batch")
    slot_weight: NonNegative = Field(
        description="weight of the cross-entropy of the background slot with patches outside the foreground"
    )
    epochs: Positive
    batch_size: Count
    lr: Positive
    weight_decay: NonNegative
    warmup_share: Share
    clip: Positive
    seed: Seed


class PretrainParams(Group):
    """Masked autoencoding (He et al., CVPR 2022), the same for every arm."""

    start: str = Field(description="MAE or SemMAE checkpoint to start from; empty starts from random weights")
    start_sha256: Sha256 = Field(description="SHA-256 of that file; empty without one")
    decode_size: Count = Field(description="least pixels of either side of an image decoded for crops")
    shuffle_images: Count = Field(description="images that are shuffled among each other; a larger set by its files")
    image_size: Count = Field(description="pixels")
    patch_size: Count = Field(description="pixels")
    width: Count
    depth: Count
    num_heads: Count
    decoder: Literal["self", "cross"] = Field(
        description="self: MAE's, all patches attend to each other; cross: hidden ones to visible ones alone (CrossMAE)"
    )
    decoder_width: Count
    decoder_depth: Count
    decoder_num_heads: Count
    feature_maps: Count = Field(description="layers of the encoder that a cross decoder reads a learned sum of")
    predicted: Annotated[float, Field(gt=0, le=1)] = Field(
        description="share of the hidden patches that is predicted in a step"
    )
    norm_pix_loss: bool
    mask_ratio: OpenShare
    epochs: NonNegative = Field(description="0 keeps the weights of `start`")
    warmup_epochs: NonNegative
    batch_size: Count
    base_lr: Positive = Field(description="learning rate for a batch of 256, scaled linearly with the batch")
    weight_decay: NonNegative
    betas: tuple[OpenShare, OpenShare]
    clip: Positive = Field(description="largest gradient norm")
    crop_scale: Range = Field(description="(low, high) area share of the random crop")
    crop_ratio: Range = Field(description="(low, high) aspect ratio of the random crop")
    flip: bool
    val_images: Count = Field(description="most images of val for the validation loss")
    hint_share: Share = Field(description="AttMask-Hint reveals this share of the hidden, most attended patches")

    @model_validator(mode="after")
    def _check(self) -> "PretrainParams":
        if bool(self.start) != bool(self.start_sha256):
            raise ValueError(f"start {self.start!r} and start_sha256 {self.start_sha256!r}: set both or neither")
        if self.epochs == 0 and not self.start:
            raise ValueError("epochs 0 needs a checkpoint; set start, or train for more epochs")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be divisible by patch_size {self.patch_size}")
        if self.width % self.num_heads or self.decoder_width % self.decoder_num_heads:
            raise ValueError("width must be divisible by num_heads, and decoder_width by decoder_num_heads")
        if self.feature_maps > (self.depth if self.decoder == "cross" else 1):
            raise ValueError(
                f"feature_maps {self.feature_maps}: expected at most depth {self.depth} of a cross decoder, and 1 of others"
            )
        return self


class ComputeParams(Group):
    """What changes bits but not the method: tracked, and part of the resume fingerprints."""

    threads: Count = Field(description="CPU threads of a process; 1 and 2 give different bits")
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        description="tf32: fp32 whose matrix products read ten bits of each fraction, on CUDA devices"
    )
    compile: bool
    world_size: Count = Field(description="processes of pretrain and finetune; other stages train in one")
    micro_batch: Annotated[int, Field(ge=0)] = Field(
        description="most images that a pretraining process computes at once; 0: its whole part of the batch"
    )
