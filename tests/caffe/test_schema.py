"""caffe.desc against caffe.proto, its neighbours in one process, and the tree <-> message round trip."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format
from grpc_tools import protoc

from converters.caffe import schema
from converters.caffe.schema import NetParameter
from converters.caffe.schema.messages import message_class
from converters.caffe.upgrade import V1_TYPES
from converters.errors import FormatError

FOLDER = Path(schema.__file__).parent

FIRST_OWN_NUMBER = 50000

# The largest field numbers in BVLC's caffe.proto, of the messages that forks extend.
LAST_OF_BVLC = {
    "BatchNormParameter": 3,
    "BlobProto": 9,
    "ConvolutionParameter": 18,
    "InputParameter": 1,
    "LayerParameter": 148,
    "NetParameter": 100,
    "ParamSpec": 4,
    "PoolingParameter": 13,
    "ReLUParameter": 2,
    "RecurrentParameter": 5,
    "TransformationParameter": 7,
    "V1LayerParameter": 1002,
}

FOREIGN = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

def foreign(package):
    # What `import caffe_pb2` does: a file of the same name, with the same messages, into the pool of all.
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package=package)
    for name in ("NetParameter", "LayerParameter"):
        message = file.message_type.add(name=name)
        message.field.add(name="another", number=1, type=5, label=1)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(package + ".NetParameter"))

def ours():
    from converters.caffe.schema import NetParameter
    return NetParameter
"""


def test_the_descriptor_is_the_compiled_proto(tmp_path: Path) -> None:
    compiled = tmp_path / "caffe.desc"
    assert protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={compiled}", "caffe.proto"]) == 0
    want = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    assert descriptor_pb2.FileDescriptorSet.FromString(FOLDER.joinpath("caffe.desc").read_bytes()) == want


@pytest.mark.parametrize("package", ["caffe", "decant.caffe"])
@pytest.mark.parametrize(
    "order", ["theirs, mine = foreign(package), ours()", "mine, theirs = ours(), foreign(package)"]
)
def test_a_foreign_caffe_pb2_lives_beside_ours(order: str, package: str) -> None:
    """In a process of its own: the default pool of this one stays clean."""
    script = f"""{FOREIGN}
package = {package!r}
{order}
assert theirs(another=3).another == 3 and not hasattr(theirs(), 'layer')
assert mine(name='net').name == 'net' and not hasattr(mine(), 'another')
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_messages_are_not_in_the_pool_of_all() -> None:
    script = "import converters.caffe.schema as s; from google.protobuf import descriptor_pool as p\n"
    script += "try: p.Default().FindMessageTypeByName('decant.caffe.NetParameter')\nexcept KeyError: print('absent')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "absent\n"


def test_layer_types_of_v1_are_all_translated() -> None:
    layer_type = message_class("V1LayerParameter").DESCRIPTOR.enum_types_by_name["LayerType"]
    assert sorted(V1_TYPES) == sorted(value.name for value in layer_type.values)


def test_fields_of_forks_stand_under_numbers_that_no_caffe_uses() -> None:
    """Forks give the numbers behind BVLC's last one to different things: ours begin at 50000."""
    file = descriptor_pb2.FileDescriptorSet.FromString(FOLDER.joinpath("caffe.desc").read_bytes()).file[0]
    numbers = {message.name: [field.number for field in message.field] for message in file.message_type}
    assert FIRST_OWN_NUMBER in numbers["PoolingParameter"]  # ceil_mode
    for message, last in LAST_OF_BVLC.items():
        assert [n for n in numbers[message] if last < n < FIRST_OWN_NUMBER] == [], message


@pytest.mark.parametrize(
    "text",
    [
        'name: "net" input: "x" input_dim: [1, 3, 4, 4]',
        'layer { name: "l" type: "Pooling" bottom: "x" top: "y" pooling_param { pool: AVE kernel_size: 3 global_pooling: false } }',
        'layer { param { name: "w" share_mode: PERMISSIVE lr_mult: 0 } param { } loss_weight: 0.1 loss_weight: -1e-30 }',
        "layer { include { phase: TEST min_level: -3 stage: 'a' not_stage: 'b' } } state { phase: TRAIN level: 2 }",
        'layers { type: CONVOLUTION param: "w" blob_share_mode: STRICT convolution_param { bias_term: true } }',
        'layers { layer { name: "c" type: "conv" kernelsize: 3 } }',
        r'name: "quote \" backslash \\ and \n newline"',
    ],
)
def test_a_message_becomes_the_tree_that_its_text_parses_to(text: str) -> None:
    """What a .caffemodel defines is read like a prototxt: by way of ``tree``."""
    net = text_format.Parse(text, NetParameter())
    again = NetParameter()
    assert schema.fill(again, schema.tree(net)) == []
    assert again == net


@pytest.mark.parametrize("raw", [b"\x0a\x05net", b"\x0b", b"\xa2\x06\x7f", b"<html>"])
def test_bytes_that_are_no_net_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="not a Caffe NetParameter"):
        schema.parse_net(raw)
