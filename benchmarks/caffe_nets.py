"""VGG-16 and ResNet-50 as Caffe files: the published architectures with seeded weights.

python benchmarks/caffe_nets.py vgg16|resnet50 FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from converters.wire import bytes_header, write_varint

HEAD = (
    'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: {0} dim: {0} }} }} }}\n'
)


class CaffeNet:
    """A prototxt that grows layer by layer, and the shapes of its weights."""

    def __init__(self, size: int) -> None:
        self.text = HEAD.format(size)
        self.blobs: dict[str, tuple[str, list[tuple[int, ...]]]] = {}

    def layer(
        self,
        kind: str,
        name: str,
        bottoms: Sequence[str],
        top: str,
        options: str = "",
        blobs: Sequence[tuple[int, ...]] = (),
    ) -> str:
        """Add a layer; returns its top."""
        edges = "".join(f' bottom: "{bottom}"' for bottom in bottoms)
        self.text += f'layer {{ name: "{name}" type: "{kind}"{edges} top: "{top}" {options} }}\n'
        if blobs:
            self.blobs[name] = kind, list(blobs)
        return top

    def conv(
        self, name: str, x: str, shape: tuple[int, int, int], *, stride: int = 1, pad: int = 0, bias: bool = True
    ) -> str:
        out, channels, kernel = shape
        options = f"num_output: {out} kernel_size: {kernel} stride: {stride} pad: {pad}" + (
            "" if bias else " bias_term: false"
        )
        blobs = [(out, channels, kernel, kernel), *([(out,)] if bias else [])]
        return self.layer("Convolution", name, [x], name, f"convolution_param {{ {options} }}", blobs)

    def bn_scale(self, name: str, x: str, channels: int) -> str:
        self.layer("BatchNorm", f"bn{name}", [x], x, "", [(channels,), (channels,), (1,)])
        return self.layer(
            "Scale", f"scale{name}", [x], x, "scale_param { bias_term: true }", [(channels,), (channels,)]
        )

    def relu(self, x: str) -> str:
        return self.layer("ReLU", f"{x}_relu", [x], x)

    def write(self, folder: Path, name: str) -> Path:
        """NAME.prototxt and NAME.caffemodel; returns the latter."""
        folder.joinpath(f"{name}.prototxt").write_text(self.text)
        path = folder / f"{name}.caffemodel"
        rng = np.random.default_rng(0)
        with path.open("wb") as out:
            for layer, (kind, shapes) in self.blobs.items():
                head = _field(1, layer.encode()) + _field(2, kind.encode())
                sizes = [_blob_size(shape) for shape in shapes]
                total = len(head) + sum(len(bytes_header(7, size)) + size for size in sizes)
                out.write(bytes_header(100, total) + head)
                for shape, size in zip(shapes, sizes, strict=True):
                    out.write(bytes_header(7, size) + _field(7, _field(1, b"".join(map(write_varint, shape)))))
                    out.write(bytes_header(5, 4 * int(np.prod(shape))))
                    for values in _values(kind, shape, rng):
                        out.write(values.tobytes())
        return path


def _values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Seeded values in pieces: positive ones for variances and scales, small ones for filters."""
    count, step = int(np.prod(shape)), 1 << 22
    for start in range(0, count, step):
        values = rng.random(min(step, count - start), dtype=np.float32)
        yield (
            values + np.float32(0.5)
            if kind in ("BatchNorm", "Scale")
            else (values - np.float32(0.5)) * np.float32(0.05)
        )


def _field(number: int, payload: bytes) -> bytes:
    return bytes_header(number, len(payload)) + payload


def _blob_size(shape: tuple[int, ...]) -> int:
    dims = _field(7, _field(1, b"".join(map(write_varint, shape))))
    count = 4 * int(np.prod(shape))
    return len(dims) + len(bytes_header(5, count)) + count


def vgg16() -> CaffeNet:
    """Simonyan and Zisserman, 2014: configuration D, 138 M parameters, 553 MB."""
    net, x, channels = CaffeNet(224), "data", 3
    for block, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for index in range(1, count + 1):
            x = net.relu(net.conv(f"conv{block}_{index}", x, (width, channels, 3), pad=1))
            channels = width
        x = net.layer("Pooling", f"pool{block}", [x], f"pool{block}", "pooling_param { kernel_size: 2 stride: 2 }")
    for name, width, inputs in (("fc6", 4096, 25088), ("fc7", 4096, 4096), ("fc8", 1000, 4096)):
        options = f"inner_product_param {{ num_output: {width} }}"
        x = net.layer("InnerProduct", name, [x], name, options, [(width, inputs), (width,)])
        x = net.relu(x) if name != "fc8" else x
    net.layer("Softmax", "prob", [x], "prob")
    return net


def resnet50() -> CaffeNet:
    """He et al., 2015, as its authors released it for Caffe: BatchNorm and Scale behind each convolution, 102 MB."""
    net = CaffeNet(224)
    x = net.relu(net.bn_scale("_conv1", net.conv("conv1", "data", (64, 3, 7), stride=2, pad=3), 64))
    x = net.layer("Pooling", "pool1", [x], "pool1", "pooling_param { kernel_size: 3 stride: 2 }")
    channels = 64
    for stage, (width, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 2):
        for index in range(count):
            name, stride = f"{stage}{'abcdef'[index]}", 2 if index == 0 and stage > 2 else 1
            y = net.bn_scale(
                f"{name}_branch2a",
                net.conv(f"res{name}_branch2a", x, (width, channels, 1), stride=stride, bias=False),
                width,
            )
            y = net.bn_scale(
                f"{name}_branch2b",
                net.conv(f"res{name}_branch2b", net.relu(y), (width, width, 3), pad=1, bias=False),
                width,
            )
            y = net.conv(f"res{name}_branch2c", net.relu(y), (4 * width, width, 1), bias=False)
            y = net.bn_scale(f"{name}_branch2c", y, 4 * width)
            if index == 0:
                x = net.conv(f"res{name}_branch1", x, (4 * width, channels, 1), stride=stride, bias=False)
                x = net.bn_scale(f"{name}_branch1", x, 4 * width)
            x = net.relu(net.layer("Eltwise", f"res{name}", [x, y], f"res{name}"))
            channels = 4 * width
    x = net.layer("Pooling", "pool5", [x], "pool5", "pooling_param { pool: AVE kernel_size: 7 }")
    x = net.layer(
        "InnerProduct", "fc1000", [x], "fc1000", "inner_product_param { num_output: 1000 }", [(1000, 2048), (1000,)]
    )
    net.layer("Softmax", "prob", [x], "prob")
    return net


if __name__ == "__main__":
    {"vgg16": vgg16, "resnet50": resnet50}[sys.argv[1]]().write(Path(sys.argv[2]), sys.argv[1])
