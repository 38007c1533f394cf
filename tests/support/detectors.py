"""A small detector of our own: a list of images in, a loop that depends on the data, heads called often.

It is built like torchvision's two-stage detectors, so that it can be captured in parts only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageList:
    """Images padded to one size, with the sizes they had."""

    def __init__(self, tensors: Tensor, sizes: list[tuple[int, int]]) -> None:
        self.tensors, self.sizes = tensors, sizes


class Backbone(nn.Module):
    """Three maps at strides 2, 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.three = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        a = torch.relu(self.norm(self.one(x)))
        b = torch.relu(self.two(a))
        return {"0": a, "1": b, "2": torch.relu(self.three(b))}


class ScoreHead(nn.Module):
    """Called on every level with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.score = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.score(torch.relu(self.norm(self.conv(x))))
        return result


class ProposalHead(nn.Module):
    """Looks at as many crops as there are proposals."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 2)

    def forward(self, crops: Tensor) -> Tensor:
        result: Tensor = self.fc(torch.relu(self.conv(crops)).mean((2, 3)))
        return result


class Detector(nn.Module):
    """(3, H, W) images in a list; for each a dictionary of boxes (N, 4) and scores (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = ScoreHead()
        self.proposals = ProposalHead()

    def gather(self, images: list[Tensor]) -> ImageList:
        """Pad to the largest image, in multiples of 8."""
        height = -(-max(i.shape[1] for i in images) // 8) * 8
        width = -(-max(i.shape[2] for i in images) // 8) * 8
        batch = torch.zeros(len(images), 3, height, width, dtype=images[0].dtype)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = image - 0.5
        return ImageList(batch, [(i.shape[1], i.shape[2]) for i in images])

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        gathered = self.gather(images)
        levels = self.backbone(gathered.tensors)
        maps = [self.head(level) for level in levels.values()]
        for level in maps:
            level.sigmoid_()  # the code around a part may write into what it got
        results = []
        for index, (height, width) in enumerate(gathered.sizes):
            boxes, scores = [], []
            for number, level in enumerate(maps):
                stride = 2 << number
                best = (level[index, 0] > level[index, 0].mean() + level[index, 0].std()).nonzero()
                for y, x in best.tolist():  # how often depends on the picture
                    if y * stride < height and x * stride < width:
                        boxes.append([x * stride, y * stride, (x + 1) * stride, (y + 1) * stride])
                        scores.append(level[index, 0, y, x])
            found = torch.tensor(boxes, dtype=levels["0"].dtype).reshape(-1, 4)
            if scores:
                crops = torch.stack([self._crop(levels["0"][index], b) for b in boxes])
                kind = self.proposals(crops).softmax(1)[:, 0]
                results.append({"boxes": found, "scores": torch.stack(scores) * kind})
            else:
                results.append({"boxes": found, "scores": found.sum(1)})
        return results

    @staticmethod
    def _crop(level: Tensor, box: list[int]) -> Tensor:
        top = min(max(box[1] // 2 - 2, 0), level.shape[1] - 5)
        left = min(max(box[0] // 2 - 2, 0), level.shape[2] - 5)
        return level[:, top : top + 5, left : left + 5]


class CallsAgain(nn.Module):
    """Calls its part a second time when the picture is bright, and with half the picture when it is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        mean = float(x.mean())
        if mean < 0.2:
            return F.interpolate(self.body(x[:, :, ::2, ::2]), scale_factor=2.0)
        y = self.body(x)
        result: Tensor = self.body(y) if mean > 2.0 else y
        return result


def detector() -> Detector:
    """One in evaluation mode; its weights depend on the global seed."""
    return Detector().eval()
