"""Self-distillation of a vision transformer with masked patches (iBOT): student, averaged teacher, targets, losses.

B images, G global views (2), V = G + local views, L patches, M hidden patches a view, D width, P prototypes.
Source: Zhou et al., "iBOT", ICLR 2022; Caron et al., "DINO", ICCV 2021; Caron et al., "SwAV", NeurIPS 2020 (balanced targets).
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

BALANCE_ROUNDS = 3


class Head(nn.Module):
    """Cosines (..., P) of tokens (..., D) with the prototypes. Class and patch tokens share one head.

    Source: iBOT (shared head), DINO (normalised prototypes).
    """

    def __init__(self, width: int, *, head_width: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, head_width),
            nn.GELU(),
            nn.Linear(head_width, head_width),
            nn.GELU(),
            nn.Linear(head_width, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))


class Branch(nn.Module):
    """One of the two networks: a timm VisionTransformer, the head, and the token that replaces hidden patches."""

    def __init__(self, vit: VisionTransformer, head: Head) -> None:
        super().__init__()
        self.vit = vit
        self.head = head
        self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim))

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (N, 1 + L, D) after the final norm of images (N, 3, h, w); mask: (N, L) bool, True is hidden."""
        patches = self.vit.patch_embed(images)
        if mask is not None:
            patches = torch.where(mask.view(*patches.shape[:3], 1), self.mask_token.to(patches.dtype), patches)
        tokens: Tensor = self.vit.norm(self.vit.blocks(self.vit.norm_pre(self.vit._pos_embed(patches))))
        return tokens


class Output(NamedTuple):
    """Scalars of one step: the loss and its two terms, and two signs of collapse.

    information: mutual information of views and prototypes in nats, 0 if every image has the same target. spread: standard
    deviation over images of the teacher's class tokens, scaled to length 1; 0 if all images have the same token.
    """

    loss: Tensor
    class_loss: Tensor
    patch_loss: Tensor
    information: Tensor
    spread: Tensor


class SelfDistillation(nn.Module):
    """Student and teacher. The student trains by gradient; the teacher is the student's running average (`follow`)."""

    def __init__(
        self, vit: VisionTransformer, *, head_width: int, bottleneck: int, prototypes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        head = Head(vit.embed_dim, head_width=head_width, bottleneck=bottleneck, prototypes=prototypes)
        self.student = Branch(vit, head)
        with torch.no_grad():
            for name, parameter in head.named_parameters():
                if parameter.ndim > 1:
                    scale = 1.0 if name == "prototypes" else math.sqrt(2 / sum(parameter.shape))
                    parameter.normal_(0.0, scale, generator=generator)
                else:
                    parameter.zero_()
            self.student.mask_token.normal_(0.0, 0.02, generator=generator)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(
        self,
        global_views: Tensor,
        local_views: Tensor | None,
        mask: Tensor,
        *,
        student_temperature: float,
        teacher_temperature: float,
    ) -> Output:
        """Losses of a batch of B images.

        global_views: (2B, 3, h, w), the first views of all images, then the second ones. local_views: (n * B, 3, s, s) or
        None. mask: (2B, L) bool, True is hidden from the student; the teacher sees every patch.
        Source: iBOT equations 2 and 3, DINO equation 3.
        Differs: targets are balanced over the batch (SwAV) instead of centred by a running mean, which takes thousands of
        steps to settle.
        """
        batch = len(global_views) // 2
        with torch.no_grad():
            tokens = self.teacher(global_views)
            class_targets = balance(self.teacher.head(tokens[:, 0]), teacher_temperature)
            patch_targets = balance(self.teacher.head(tokens[:, 1:][mask]), teacher_temperature)
        seen = self.student(global_views, mask)
        class_tokens = [seen[:, 0]] if local_views is None else [seen[:, 0], self.student(local_views)[:, 0]]
        guesses = (self.student.head(torch.cat(class_tokens)) / student_temperature).log_softmax(-1)
        pairs = -torch.einsum("gbp,vbp->gv", class_targets.unflatten(0, (2, batch)), guesses.unflatten(0, (-1, batch)))
        others = ~torch.eye(2, pairs.shape[1], dtype=torch.bool, device=pairs.device)
        class_loss = pairs[others].mean() / batch
        patch_loss = class_loss.new_zeros(())
        if len(patch_targets):
            patches = (self.student.head(seen[:, 1:][mask]) / student_temperature).log_softmax(-1)
            patch_loss = -(patch_targets * patches).sum(-1).mean()
        spread = F.normalize(tokens[:, 0], dim=-1).std(dim=0).square().sum().sqrt()
        information = entropy(class_targets.mean(dim=0)) - entropy(class_targets).mean()
        return Output(class_loss + patch_loss, class_loss, patch_loss, information, spread)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher's weights towards the student's by 1 - momentum."""
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)


def entropy(shares: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    return -torch.xlogy(shares, shares).sum(-1)


def balance(logits: Tensor, temperature: float) -> Tensor:
    """Targets (N, P), whose rows sum to 1, from cosines (N, P): every prototype gets about the same share of the batch.

    Source: SwAV equation 3, by Sinkhorn-Knopp.
    """
    if not len(logits):
        return logits
    shares = ((logits.float() - logits.max()) / temperature).exp()
    for _ in range(BALANCE_ROUNDS):
        shares = shares / shares.sum(0, keepdim=True)
        shares = shares / shares.sum(1, keepdim=True)
    return shares
