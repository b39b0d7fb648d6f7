"""Train the network of this folder: digits_lenet.prototxt and digits_lenet.caffemodel.

    pip install -e .[train] && python models/digits/train.py

A LeNet with BatchNorm and Scale behind each learned layer but the last, on scikit-learn's 1,797 digits of 8 x 8 pixels
(UCI Optical Recognition of Handwritten Digits). torch trains; the weights are written the way Caffe writes its own:
moments as sums, with the factor that divides them in the third blob of BatchNorm. ``digits_test.npz`` holds the 360
digits that the network has not seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from converters.caffe.schema import NetParameter

HERE = Path(__file__).parent
MOVING_AVERAGE_FACTOR = 999.98236  # what Caffe's sum 1 + 0.999 + 0.999^2 ... comes to after long training


class LeNet(nn.Module):
    """The network of digits_lenet.prototxt, layer by layer under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.ip1 = nn.Linear(32 * 2 * 2, 64)
        self.bn3 = nn.BatchNorm1d(64)
        self.ip2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        x = torch.relu(self.bn3(self.ip1(x.flatten(1))))
        return self.ip2(nn.functional.dropout(x, 0.3, self.training))


def train(images: Tensor, labels: Tensor) -> LeNet:
    """60 epochs of Adam on small shifts of the images."""
    torch.manual_seed(0)
    net = LeNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    for _ in range(60):
        for batch in torch.randperm(len(images)).split(64):
            shift = tuple(torch.randint(-1, 2, (2,)).tolist())
            loss = nn.functional.cross_entropy(net(images[batch].roll(shift, (2, 3))), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def write_caffemodel(net: LeNet, path: Path) -> None:
    """The weights as Caffe stores them; see BatchNormLayer: blobs 0 and 1 are sums, blob 2 the factor."""
    model = NetParameter(name="digits_lenet")
    for name, module in net.named_children():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            moments = [module.running_mean * MOVING_AVERAGE_FACTOR, module.running_var * MOVING_AVERAGE_FACTOR]
            _add_layer(model, name, "BatchNorm", [*moments, torch.tensor([MOVING_AVERAGE_FACTOR])])
            _add_layer(model, name.replace("bn", "scale"), "Scale", [module.weight, module.bias])
        else:
            kind = "Convolution" if isinstance(module, nn.Conv2d) else "InnerProduct"
            _add_layer(model, name, kind, [module.weight] if module.bias is None else [module.weight, module.bias])
    path.write_bytes(model.SerializeToString())


def _add_layer(model: object, name: str, kind: str, blobs: list[Tensor]) -> None:
    layer = model.layer.add(name=name, type=kind)  # type: ignore[attr-defined]
    for values in blobs:
        blob = layer.blobs.add()
        blob.shape.dim.extend(values.shape)
        blob.data.extend(values.detach().numpy().ravel())


def main() -> None:
    """Train, write, and tell how many unseen digits are read right."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    net = train(torch.from_numpy(x), torch.from_numpy(y))
    with torch.no_grad():
        right = (net(torch.from_numpy(x_test)).argmax(1).numpy() == y_test).mean()
    write_caffemodel(net, HERE / "digits_lenet.caffemodel")
    np.savez_compressed(HERE / "digits_test.npz", images=x_test, labels=y_test.astype(np.int64))
    print(f"{right:.2%} of {len(y_test)} unseen digits")


if __name__ == "__main__":
    main()
