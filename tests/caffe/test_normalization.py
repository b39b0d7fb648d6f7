"""BatchNorm, LRN and MVN against their formulas in plain numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tests.caffe.nets import Array, Oracle, Refusal, Row, check_refused, check_row, named


def by_stored_statistics(eps: float = 1e-5) -> Oracle:
    """(x - mean) / sqrt(variance + eps) a channel, the statistics divided by blob 2, and zero if that is zero."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, (mean, variance, (factor,)) = inputs["x"], blobs
        scale = 1 / factor if factor else 0
        a_channel = (-1, *[1] * (x.ndim - 2))
        return (x - (mean * scale).reshape(a_channel)) / np.sqrt((variance * scale).reshape(a_channel) + eps)

    return want


def by_batch_statistics(eps: float = 1e-5) -> Oracle:
    """(x - mean) / sqrt(variance + eps), both taken from all that the batch holds of a channel."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x = inputs["x"]
        axes = (0, *range(2, x.ndim))
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)

    return want


def across(size: int = 5, alpha: float = 1, beta: float = 0.75, k: float = 1) -> Oracle:
    """x / (k + alpha / size * sum x^2)^beta, the sum over the ``size`` channels around each."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, half = inputs["x"], size // 2
        sums = [(x[:, max(0, c - half) : c + half + 1] ** 2).sum(axis=1) for c in range(x.shape[1])]
        return x * (k + alpha / size * np.stack(sums, axis=1)) ** -beta

    return want


def within(size: int = 5, alpha: float = 1, beta: float = 0.75) -> Oracle:
    """x / (1 + alpha * mean x^2)^beta, the mean over the size x size values around each, zeros outside."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x, half = inputs["x"], size // 2
        padded = np.pad(x, [(0, 0), (0, 0), (half, half), (half, half)])
        means = sliding_window_view(padded**2, (size, size), axis=(2, 3)).mean(axis=(4, 5))
        return x * (1 + alpha * means) ** -beta

    return want


def centred(*, across_channels: bool = False, normalize: bool = True, eps: float = 1e-9) -> Oracle:
    """(x - mean) / (standard deviation + eps) of each channel or each item, with four axes."""

    def want(inputs: Mapping[str, Array], blobs: Sequence[Array]) -> Array:
        x = inputs["x"]
        x = x.reshape(x.shape + (1,) * (4 - x.ndim))
        axes = (1, 2, 3) if across_channels else (2, 3)
        without_mean = x - x.mean(axes, keepdims=True)
        return without_mean / (x.std(axes, keepdims=True) + eps) if normalize else without_mean

    return want


def layer(kind: str, options: str = "") -> str:
    return f'layer {{ name: "l" type: "{kind}" bottom: "x" top: "y" {options} }}'


def batch_norm(options: str) -> str:
    return layer("BatchNorm", f"batch_norm_param {{ {options} }}")


def lrn(options: str) -> str:
    return layer("LRN", f"lrn_param {{ {options} }}")


def lrn_within(options: str) -> str:
    return lrn(f"norm_region: WITHIN_CHANNEL {options}")


def mvn(options: str) -> str:
    return layer("MVN", f"mvn_param {{ {options} }}")


X = {"x": (2, 3, 5, 6)}
CHANNELS = {"x": (2, 9, 3, 2)}
ONE = np.array([1.0])
STATISTICS = [(3,), (3,)]

# fmt: off
BATCH_NORMS = [
    Row("statistics as they are", layer("BatchNorm"), X, by_stored_statistics(), [*STATISTICS, ONE]),
    Row("a factor of 999.98 divides the statistics", layer("BatchNorm"), X, by_stored_statistics(), [*STATISTICS, 999.98 * ONE]),
    Row("a factor of 0 makes mean and variance 0", layer("BatchNorm"), X, by_stored_statistics(), [*STATISTICS, 0 * ONE]),
    Row("the layer's own eps", batch_norm("eps: 0.002"), X, by_stored_statistics(0.002), [*STATISTICS, ONE]),
    Row("eps is not divided by the factor", batch_norm("eps: 0.002"), X, by_stored_statistics(0.002), [*STATISTICS, 50 * ONE]),
    Row("use_global_stats: true says what holds anyway", batch_norm("use_global_stats: true moving_average_fraction: 0.9"), X, by_stored_statistics(), [*STATISTICS, 2 * ONE]),
    Row("use_global_stats: false takes the batch's own statistics", batch_norm("use_global_stats: false"), X, by_batch_statistics(), [*STATISTICS, ONE]),
    Row("use_global_stats: false with another eps", batch_norm("use_global_stats: false eps: 0.1"), X, by_batch_statistics(0.1), [*STATISTICS, ONE]),
    Row("use_global_stats: false over two axes", batch_norm("use_global_stats: false"), {"x": (6, 3)}, by_batch_statistics(), [*STATISTICS, ONE]),
    Row("batch norm over two axes", layer("BatchNorm"), {"x": (4, 3)}, by_stored_statistics(), [*STATISTICS, 2 * ONE]),
    Row("batch norm over three axes", layer("BatchNorm"), {"x": (2, 3, 7)}, by_stored_statistics(), [*STATISTICS, ONE]),
    Row("batch norm over five axes", layer("BatchNorm"), {"x": (2, 3, 2, 3, 2)}, by_stored_statistics(), [*STATISTICS, ONE]),
]

LOCAL_RESPONSES = [
    Row("five channels are the default", layer("LRN"), CHANNELS, across()),
    Row("alpha is divided by the number of channels", lrn("local_size: 3 alpha: 0.9"), CHANNELS, across(3, 0.9)),
    Row("beta", lrn("beta: 0.5 alpha: 2"), CHANNELS, across(alpha=2, beta=0.5)),
    Row("k", lrn("k: 2"), CHANNELS, across(k=2)),
    Row("AlexNet's", lrn("local_size: 5 alpha: 0.0001 beta: 0.75"), CHANNELS, across(alpha=0.0001)),
    Row("all options, said by name", lrn("norm_region: ACROSS_CHANNELS local_size: 7 alpha: 3 beta: 1.5 k: 0.5"), CHANNELS, across(7, 3, 1.5, 0.5)),
    Row("more neighbours than channels", lrn("local_size: 7"), X, across(7)),
    Row("one channel alone", lrn("local_size: 1 alpha: 2"), CHANNELS, across(1, 2)),
    Row("within a channel", lrn_within(""), X, within()),
    Row("within a channel, all options", lrn_within("local_size: 3 alpha: 4 beta: 0.5"), X, within(3, 4, 0.5)),
    Row("within a channel k has no effect", lrn_within("local_size: 3 k: 5"), X, within(3)),
    Row("within a channel smaller than the window", lrn_within("local_size: 9"), X, within(9)),
    Row("within a channel, one value alone", lrn_within("local_size: 1 alpha: 2"), X, within(1, 2)),
]

MEAN_VARIANCES = [
    Row("mean and variance of each channel", layer("MVN"), X, centred()),
    Row("mean only", mvn("normalize_variance: false"), X, centred(normalize=False)),
    Row("mean only, where eps has no effect", mvn("normalize_variance: false eps: 0.5"), X, centred(normalize=False)),
    Row("across channels", mvn("across_channels: true"), X, centred(across_channels=True)),
    Row("across channels, mean only", mvn("across_channels: true normalize_variance: false"), X, centred(across_channels=True, normalize=False)),
    Row("eps is added to the deviation", mvn("eps: 0.5"), X, centred(eps=0.5)),
    Row("three axes give four", layer("MVN"), {"x": (2, 3, 5)}, centred()),
    Row("two axes give four, each value its own mean", layer("MVN"), {"x": (2, 3)}, centred()),
    Row("two axes across channels", mvn("across_channels: true"), {"x": (2, 9)}, centred(across_channels=True)),
    Row("one axis gives four", layer("MVN"), {"x": (4,)}, centred()),
]

REFUSALS = [
    Refusal("statistics of another number of channels", layer("BatchNorm"), CHANNELS, "blob 0 is 3 in the weights file, but the net needs 9", [*STATISTICS, ONE]),
    Refusal("batch norm without its factor", layer("BatchNorm"), X, r"3 blob\(s\) by its prototxt, 2 in the weights file", STATISTICS),
    Refusal("batch norm with scale and shift, as in NVCaffe", layer("BatchNorm"), X, r"3 blob\(s\) by its prototxt, 5 in the weights file", [*STATISTICS, ONE, (3,), (3,)]),
    Refusal("a factor for each channel", layer("BatchNorm"), X, "blob 2 is 3 in the weights file, but the net needs 1", [(3,), (3,), (3,)]),
    Refusal("batch norm without weights", layer("BatchNorm"), X, "the weights file has no layer of this name"),
    Refusal("batch norm of one axis", layer("BatchNorm"), {"x": (4,)}, "a bottom of one axis has no channels", [(1,), (1,), ONE]),
    Refusal("batch statistics of one axis", batch_norm("use_global_stats: false"), {"x": (4,)}, "a bottom of one axis has no channels", [(1,), (1,), ONE]),
    Refusal("an even number of channels", lrn("local_size: 4"), X, "local_size 4 is even; Caffe takes odd ones only"),
    Refusal("an even window within a channel", lrn_within("local_size: 2"), X, "local_size 2 is even"),
    Refusal("no channels at all", lrn("local_size: 0"), X, "local_size 0 is even"),
    Refusal("three axes across", layer("LRN"), {"x": (2, 3, 4)}, "needs a bottom of 4 axes, not 2x3x4"),
    Refusal("two axes within", lrn_within(""), {"x": (2, 3)}, "needs a bottom of 4 axes, not 2x3"),
    Refusal("weights for LRN", layer("LRN"), X, "takes no weights", [(3,)]),
    Refusal("five axes", layer("MVN"), {"x": (1, 2, 3, 4, 5)}, "takes 1 to 4 axes, not 5"),
    Refusal("weights for MVN", layer("MVN"), X, "takes no weights", [(3,)]),
]
# fmt: on

ROWS = [*BATCH_NORMS, *LOCAL_RESPONSES, *MEAN_VARIANCES]
AT_OTHER_OPSETS = named(
    ROWS,
    "a factor of 999.98 divides the statistics",
    "use_global_stats: false takes the batch's own statistics",
    "all options, said by name",
    "within a channel, all options",
    "across channels",
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.says)
def test_normalization(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("row", AT_OTHER_OPSETS, ids=lambda row: row.says)
def test_other_opsets(row: Row, opset: int, tmp_path: Path) -> None:
    check_row(row, tmp_path, opset)


@pytest.mark.parametrize("row", BATCH_NORMS[:2], ids=lambda row: row.says)
def test_old_files_give_four_axes(row: Row, tmp_path: Path) -> None:
    check_row(row, tmp_path, four_axes=True)


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal, tmp_path: Path) -> None:
    check_refused(row, tmp_path)
