"""The LeNet of the gradient-inversion literature: sigmoid, three convolutions, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from fedsim.models import MODELS, InputShape


@MODELS.register("lenet")
class LeNet(nn.Module):
    """The sigmoid network of DLG and iDLG, every weight and bias uniform in [-0.5, 0.5].

    conv 5x5: C -> 12 (stride 2), 12 -> 12 (stride 2), 12 -> 12 (stride 1), then linear.
    Zhu, Liu, Han, NeurIPS 2019, arXiv:1906.08935, and the authors' code.

    Args:
        input_shape: channels, height, width.
        classes: outputs.
        width: channels of each convolution; the authors' 12.
    """

    def __init__(self, input_shape: InputShape, classes: int, width: int = 12) -> None:
        super().__init__()
        channels, height, side = input_shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(width, width, 5, stride=2, padding=2),
            nn.Sigmoid(),
            nn.Conv2d(width, width, 5, stride=1, padding=2),
            nn.Sigmoid(),
            nn.Flatten(),
        )
        self.fc = nn.Linear(width * -(-height // 4) * -(-side // 4), classes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, C, H, W]."""
        logits: Tensor = self.fc(self.body(x))
        return logits
