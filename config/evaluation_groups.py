"""The groups of params.yaml for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.groups import Count, Group, MaskValues, Name, NonNegative, OpenShare, Positive, Range, Seed, Share


class MonitorParams(Group):
    """The encoder while it pretrains: kNN accuracy, and RankMe (Garrido et al., ICML 2023), on a few training images."""

    every: Annotated[int, Field(ge=0)] = Field(description="steps; 0 never looks")
    images: Count = Field(description="the same at every look; RankMe is at most their number")
    classes: Count = Field(description="they are of the first so many classes")
    neighbours: Count = Field(description="k, each image among the others")
    batch_size: Count


class ProbeParams(Group):
    """Frozen features: kNN and exact probes, of the class with all labels and with few, of attributes and of true parts."""

    batch_size: Count
    neighbours: list[Count] = Field(
        min_length=1, description="values of k for kNN; the first is the one reported first"
    )
    knn_temperature: Positive
    penalties: list[Positive] = Field(
        min_length=1, description="values of C for the logistic regression, selected on val"
    )
    max_iterations: Count
    low_shot: list[OpenShare] = Field(description="shares of each class's training labels, one probe for each share")
    token_images: Count = Field(
        description="most images of a split whose patch tokens (float16) are kept for the probes of patches"
    )


class FinetuneParams(Group):
    """End-to-end classification as in MAE's recipe."""

    epochs: Positive
    warmup_epochs: NonNegative
    batch_size: Count
    base_lr: Positive = Field(description="learning rate for a batch of 256, scaled linearly with the batch")
    weight_decay: NonNegative
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    mixup: NonNegative
    cutmix: NonNegative
    random_erasing: Share = Field(description="probability that a rectangle of an image is replaced by noise")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="decay of the running average of the weights that is tested; 0 tests the weights themselves"
    )
    crop_scale: Range = Field(description="(low, high) area share of the random crop")
    clip: Positive = Field(description="largest gradient norm")

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix mixes pairs of images."""
        return self.mixup > 0 or self.cutmix > 0

    @model_validator(mode="after")
    def _check(self) -> "FinetuneParams":
        if self.mixes and self.batch_size % 2:
            raise ValueError(
                f"batch_size {self.batch_size} must be even for mixup and cutmix, which mix images in pairs"
            )
        return self


class LinearMaeParams(Group):
    """Linear probe as in MAE appendix A.2, with augmentation and LARS: slower than the exact one of `probe`."""

    optimizers: list[Literal["lars"]] = Field(
        max_length=1, description="[lars] to run it for every arm and seed, [] to skip it"
    )
    epochs: Positive
    warmup_epochs: NonNegative
    batch_size: Count
    base_lr: Positive = Field(description="learning rate for a batch of 256, scaled linearly with the batch")
    crop_scale: Range = Field(description="(low, high) area share of the random crop")


class TransferParams(Group):
    """Frozen features and fine-tuning on other data sets, with the values of `probe` and `finetune`."""

    sets: list[Name] = Field(description="names of data sets in data/transfer/NAME; [] for none")
    epochs: Positive = Field(description="fine-tuning epochs")
    warmup_epochs: NonNegative


class SegmentParams(Group):
    """Semantic segmentation of data sets whose `masks/` give each pixel a class, or 255 for no class."""

    sets: list[Name] = Field(description="names of data sets in data/segment/NAME; [] for none")
    mask_values: dict[Name, MaskValues] = Field(
        description="data set -> what values of its masks stand for, as in data.mask_values, for example {camvid: {11: ignored}}"
    )
    heads: list[Literal["linear", "upernet"]] = Field(
        min_length=1,
        description="linear: on the frozen encoder; upernet: on four levels of an encoder that is trained too",
    )
    image_size: Count = Field(description="side in pixels, divisible by the patch size")
    head_width: Count = Field(description="channels of the UPerNet head")
    epochs: Positive
    warmup_epochs: NonNegative
    batch_size: Count
    lr: Positive = Field(description="peak learning rate of UPerNet and encoder for this batch size")
    linear_lr: Positive = Field(
        description="the same for the linear head; higher, because its biases must reach the logarithms of the class shares"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: NonNegative
    crop_scale: Range = Field(description="(low, high) area share of the random crop")
    clip: Positive = Field(description="largest gradient norm")


class QualityParams(Group):
    """Measures of part quality and their trivial baselines."""

    images: Count = Field(description="largest number of images used from a split")
    seed: Seed


class CompareParams(Group):
    """The comparison table and its statistics."""

    baseline: Name = Field(description="arm that the others are compared with, paired by seed")
    confidence: OpenShare = Field(description="of the Student-t interval over seeds")
    resamples: Count = Field(description="draws of the bootstrap over test images")
    pictures: Count = Field(le=100, description="images in each figure")
    mask_images: Count = Field(description="training images for the statistics of the masks")
