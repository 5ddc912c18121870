"""What a teacher's class token knows of the classes, beside an untrained network's and raw pixels."""

import torch

from images.dataset import WholeImages
from training.accuracy import accuracy
from training.knn import knn_predict

BATCH, TEMPERATURE = 256, 0.07


@torch.no_grad()
def knn_accuracy(vit: torch.nn.Module | None, *, splits: list[WholeImages], k: int, mean: tuple, std: tuple) -> float:
    """Test accuracy of weighted kNN on class tokens, or on standardised pixels where there is no network.

    splits: training and test images.
    """

    def tokens(pixels: torch.Tensor) -> torch.Tensor:
        if vit is None:
            return pixels.flatten(1).float()
        device = next(vit.parameters()).device
        offset, scale = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        return vit.forward_features((pixels.to(device).float() / 255 - offset) / scale)[:, 0].float()

    train, test = (images.gather(tokens, BATCH) for images in splits)
    if vit is None:
        centre, spread = train.mean(dim=0), train.std(dim=0) + 1e-6
        train, test = (train - centre) / spread, (test - centre) / spread
    labels = torch.from_numpy(splits[0].labels)
    classes = int(labels.max()) + 1
    predicted = knn_predict(train, labels, test, k=k, temperature=TEMPERATURE, num_classes=classes)
    return accuracy(predicted.numpy(), splits[1].labels)
