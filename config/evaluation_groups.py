"""The groups of params.yaml for evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.groups import Count, Group, Name, NonNegative, OpenShare, Positive, Range, Seed, Share


class ProbeParams(Group):
    """Frozen features: kNN and an exact linear probe, from all labels and from few."""

    batch_size: Count
    neighbours: list[Count] = Field(min_length=1, description="k of kNN; the first is the headline")
    knn_temperature: Positive
    penalties: list[Positive] = Field(min_length=1, description="C of the logistic regression, chosen on val")
    max_iterations: Count
    low_shot: list[OpenShare] = Field(description="shares of each class's training labels, one probe for each share")


class FinetuneParams(Group):
    """End-to-end classification as in MAE's recipe."""

    epochs: Positive
    warmup_epochs: NonNegative
    batch_size: Count
    base_lr: Positive = Field(description="for a batch of 256, scaled linearly")
    weight_decay: NonNegative
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    mixup: NonNegative
    cutmix: NonNegative
    random_erasing: Share = Field(description="chance that a rectangle of an image becomes noise")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="decay of an average of the weights that is tested; 0: none"
    )
    crop_scale: Range = Field(description="area shares of the random crop")
    clip: Positive = Field(description="largest gradient norm")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, in pairs."""
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
    base_lr: Positive = Field(description="for a batch of 256, scaled linearly")
    crop_scale: Range = Field(description="area shares of the random crop")


class TransferParams(Group):
    """Frozen features and fine-tuning on other data sets, with the groups `probe` and `finetune`."""

    sets: list[Name] = Field(description="names of data sets in data/transfer/NAME; [] for none")
    epochs: Positive = Field(description="of the fine-tuning")
    warmup_epochs: NonNegative


class SegmentParams(Group):
    """Semantic segmentation of data sets whose `masks/` name a class for every pixel, 255 for none."""

    sets: list[Name] = Field(description="names of data sets in data/segment/NAME; [] for none")
    heads: list[Literal["linear", "upernet"]] = Field(
        min_length=1,
        description="linear: on the frozen encoder; upernet: on four of its levels, trained together with it",
    )
    image_size: Count = Field(description="pixels, divisible by the patch size")
    head_width: Count = Field(description="channels of the UPerNet head")
    epochs: Positive
    warmup_epochs: NonNegative
    batch_size: Count
    lr: Positive = Field(description="peak, for this batch size; of UPerNet with the encoder")
    linear_lr: Positive = Field(
        description="the same for the linear head; higher, because its biases must reach the logarithms of the class shares"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: NonNegative
    crop_scale: Range = Field(description="area shares of the random crop")
    clip: Positive = Field(description="largest gradient norm")


class QualityParams(Group):
    """Measures of part quality and their trivial baselines."""

    images: Count = Field(description="largest number of images used from a split")
    seed: Seed


class CompareParams(Group):
    """The table and its statistics."""

    baseline: Name = Field(description="arm that the others are compared with, paired by seed")
    confidence: OpenShare = Field(description="of the Student-t interval over seeds")
    resamples: Count = Field(description="draws of the bootstrap over test images")
    pictures: Count = Field(description="images in each figure")
    mask_images: Count = Field(description="training images for the statistics of the masks")
