"""Prototxt text against protobuf's own text_format, which reads the tidy spelling of the same message."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from google.protobuf import text_format

from converters.caffe.prototxt import parse
from converters.caffe.schema import LayerParameter, NetParameter, Problem, fill
from converters.errors import FormatError
from tests.corpus import CORPUS, needs_corpus


class Spelling(NamedTuple):
    """A text as it is found in the wild, and the same message as text_format takes it."""

    says: str
    wild: bytes
    tidy: str


class Misfit(NamedTuple):
    """A layer's field that does not fit the schema, what is said of it, and the layer that is left without it."""

    says: str
    text: str
    problem: Problem
    left: str


class Refusal(NamedTuple):
    """A text that is no prototxt, and the whole message about it."""

    says: str
    text: bytes
    message: str


def conv(options: str) -> str:
    return f"convolution_param {{ {options} }}"


def pool(options: str) -> str:
    return f"pooling_param {{ {options} }}"


def layer(fields: str) -> str:
    return f"layer {{ {fields} }}"


NAME = 'name: "net"'
DIMS = "input_dim: 1 input_dim: 3"
BIAS = layer(conv("bias_term: true"))
NO_BIAS = layer(conv("bias_term: false"))

SPELLINGS = [
    Spelling("a UTF-8 byte-order mark", b'\xef\xbb\xbfname: "net"', NAME),
    Spelling("UTF-16, little-endian", NAME.encode("utf-16"), NAME),
    Spelling("UTF-16, big-endian", b"\xfe\xff" + NAME.encode("utf-16-be"), NAME),
    Spelling("UTF-8 beyond ASCII", 'name: "卷积"'.encode(), 'name: "卷积"'),
    Spelling("a name in GBK", 'name: "卷积"'.encode("gbk"), 'name: "卷积"'),
    Spelling("a name in Latin-1", 'name: "café"'.encode("latin-1"), 'name: "café"'),
    Spelling("a comment in GBK", "# 卷积层\n".encode("gbk") + NAME.encode(), NAME),
    Spelling("a comment that is no text at all", b"# \xff\xfe\x80\n" + NAME.encode(), NAME),
    Spelling("a // comment", b'// a net\nname: "net" // its name', NAME),
    Spelling("a comment without a newline behind it", b'name: "net" # the end', NAME),
    Spelling("a quote in a comment", b'# don\'t\nname: "net" # a "', NAME),
    Spelling("comment marks in a string are text", b'name: "a // b # c"', 'name: "a // b # c"'),
    Spelling("no newline at the end", b'layer { name: "a" }\nlayer { name: "b" }', 'layer { name: "a" }\nlayer { name: "b" }\n'),
    Spelling("line ends of Windows", b'name: "net"\r\ninput_dim: 1\r\n', f"{NAME} input_dim: 1"),
    Spelling("everything on one line, without spaces", b'name:"net"layer{name:"a"top:"b"}', f'{NAME} layer {{ name: "a" top: "b" }}'),
    Spelling("commas and semicolons between fields", b"input_dim: 1, input_dim: 3;", DIMS),
    Spelling("several semicolons in a row", b'layer { name: "a";; top: "b"; };', 'layer { name: "a" top: "b" }'),
    Spelling("a list of numbers", b"input_dim: [1, 3]", DIMS),
    Spelling("a list with a comma at its end", b"input_dim: [1, 3,]", DIMS),
    Spelling("an empty list", b'input_dim: [] name: "net"', NAME),
    Spelling("a list of messages", b'layer: [{ name: "a" }, { name: "b" }]', 'layer { name: "a" } layer { name: "b" }'),
    Spelling("a list of messages without a colon", b'layer [{ name: "a" }, < name: "b" >]', 'layer { name: "a" } layer { name: "b" }'),
    Spelling("a colon before a brace", b'layer: { name: "a" }', 'layer { name: "a" }'),
    Spelling("angle brackets", b'layer < name: "a" bias_param: < axis: 2 > >', 'layer { name: "a" bias_param { axis: 2 } }'),
    Spelling("single quotes", b"name: 'a \"net\"'", 'name: "a \\"net\\""'),
    Spelling("escapes of C", rb'name: "\t\n\r\a\b\f\v\\\"\'\?"', r'name: "\t\n\r\a\b\f\v\\\"\'?"'),
    Spelling("octal and hexadecimal escapes", rb'name: "\101\x42\x4a\60"', 'name: "ABJ0"'),
    Spelling("escaped bytes of UTF-8", rb'name: "\345\215\267\xe7\xa7\xaf"', 'name: "卷积"'),
    Spelling("adjacent strings are one", b"name: \"n\" 'e'\n  # between\n  \"t\"", NAME),
    Spelling("a string with nothing in it", b'name: ""', 'name: ""'),
    Spelling("an empty message", b"layer {}", "layer {}"),
    Spelling("an empty file", b"", ""),
    Spelling("an unquoted string", b"name: net", NAME),
    Spelling("a whole number written as 3.0", layer(conv("num_output: 3.0")).encode(), layer(conv("num_output: 3"))),
    Spelling("a whole number written as 2e1", layer(conv("num_output: 2e1")).encode(), layer(conv("num_output: 20"))),
    Spelling("a hexadecimal number", layer(conv("num_output: 0x1F")).encode(), layer(conv("num_output: 31"))),
    Spelling("a negative number", b"layer { softmax_param { axis: -1 } }", "layer { softmax_param { axis: -1 } }"),
    Spelling("the largest and the smallest int32", b"input_dim: [2147483647, -2147483648]", "input_dim: 2147483647 input_dim: -2147483648"),
    Spelling("floats of every form", b"layer { loss_weight: [.5, 5., 1e-3, 2f, 1.5F, -inf] }", "layer { loss_weight: [0.5, 5.0, 0.001, 2.0, 1.5, -inf] }"),
    Spelling("an enum by its number", layer(pool("pool: 1")).encode(), layer(pool("pool: AVE"))),
    Spelling("an enum in quotes", layer(pool('pool: "AVE"')).encode(), layer(pool("pool: AVE"))),
    *(Spelling(f"true as {word}", BIAS.replace("true", word).encode(), BIAS) for word in ("True", "t", "1")),
    *(Spelling(f"false as {word}", NO_BIAS.replace("false", word).encode(), NO_BIAS) for word in ("False", "f", "0")),
    Spelling("a leading zero means octal, as in C", layer(conv("num_output: 010")).encode(), layer(conv("num_output: 8"))),
    Spelling("escaped code points", rb'name: "\u5377\U0000798f"', 'name: "卷福"'),
]  # fmt: skip

MISFITS = [
    Misfit("an unknown field, with the nearest", f"{NAME}\n" + conv("\nnnum_output: 3 group: 2"), Problem(3, "unknown field 'convolution_param.nnum_output', did you mean 'num_output'?"), f"{NAME} {conv('group: 2')}"),
    Misfit("an unknown field that is like no other", f"\n\nxyz {{ a: 1 }} {NAME}", Problem(3, "unknown field 'xyz'"), NAME),
    Misfit("a field of another layer's options", conv("pool: MAX"), Problem(1, "unknown field 'convolution_param.pool'"), conv("")),
    Misfit("an unknown enum value, with those that there are", pool("\n\npool: AVG stride: 2"), Problem(3, "'pooling_param.pool' has no value AVG, only MAX, AVE, STOCHASTIC"), pool("stride: 2")),
    Misfit("an enum value in lower case", pool("pool: stochastic"), Problem(1, "'pooling_param.pool' has no value stochastic, did you mean 'STOCHASTIC'?"), pool("")),
    Misfit("an enum number that has no name", pool("pool: 7"), Problem(1, "'pooling_param.pool' has no value 7, only MAX, AVE, STOCHASTIC"), pool("")),
    Misfit("a broken whole number", conv("num_output: 3.5"), Problem(1, "'convolution_param.num_output' is a whole number, not 3.5"), conv("")),
    Misfit("a word for a whole number", conv("num_output: many"), Problem(1, "'convolution_param.num_output' is a number, not many"), conv("")),
    Misfit("infinity for a whole number", conv("num_output: inf"), Problem(1, "'convolution_param.num_output' is a whole number, not inf"), conv("")),
    Misfit("a negative number without a sign bit", conv("num_output: -1"), Problem(1, "'convolution_param.num_output' is out of range: -1"), conv("")),
    Misfit("33 bits for a uint32", conv("num_output: 4294967296"), Problem(1, "'convolution_param.num_output' is out of range: 4294967296"), conv("")),
    Misfit("32 bits for an int32", "argmax_param { axis: 2147483648 }", Problem(1, "'argmax_param.axis' is out of range: 2147483648"), "argmax_param {}"),
    Misfit("a word for a float", "loss_weight: [1, heavy, 2]", Problem(1, "'loss_weight' is a number, not heavy"), "loss_weight: [1, 2]"),
    Misfit("yes for a bool", conv("bias_term: yes"), Problem(1, "'convolution_param.bias_term' is true or false, not yes"), conv("")),
    Misfit("2 for a bool", conv("bias_term: 2"), Problem(1, "'convolution_param.bias_term' is true or false, not 2"), conv("")),
    Misfit("a value for a message", "convolution_param: 3", Problem(1, "'convolution_param' is a message, not a single value"), ""),
    Misfit("a message for a value", "name { text: 'net' }", Problem(1, "'name' is a single value, not a message"), ""),
    Misfit("a field given twice", conv("num_output: 3\nnum_output: 4"), Problem(2, "'convolution_param.num_output' is given twice"), conv("num_output: 3")),
    Misfit("a message given twice", "bias_param { axis: 2 }\nbias_param { axis: 3 }", Problem(2, "'bias_param' is given twice"), "bias_param { axis: 2 }"),
    Misfit("a digit of no decimal number", pool('pool: "²"'), Problem(1, "'pooling_param.pool' has no value ², only MAX, AVE, STOCHASTIC"), pool("")),
    Misfit("a digit that C does not know as octal", conv("num_output: 08"), Problem(1, "'convolution_param.num_output' is a whole number, not 08"), conv("")),
]  # fmt: skip

DEEPEST = 64
REFUSALS = [
    Refusal("a brace too few", b"layer {\n  name: 'a'\n", "line 3: expected '}', found the end of the file"),
    Refusal("a brace too many", b"layer {\n}\n}", "line 3: expected the end of the file, found '}'"),
    Refusal("a brace closed by an angle bracket", b"layer {\n name: 'a' >", "line 2: expected '}', found '>'"),
    Refusal("an angle bracket closed by a brace", b"layer < name: 'a' }", "line 1: expected '>', found '}'"),
    Refusal("a value without a colon", b"name\n'net'", "line 2: expected ':' or '{' behind the field's name, found ''net''"),
    Refusal("a field without a value", b"name:", "line 1: expected a value, found the end of the file"),
    Refusal("a field without a value, in a message", b"layer {\nname: }", "line 2: expected a value, found '}'"),
    Refusal("a value without a name", b"\n: 3", "line 2: expected the name of a field, found ':'"),
    Refusal("a list that does not end", b"input_dim: [1,\n2", "line 2: expected a value, found the end of the file"),
    Refusal("a list in a list", b"input_dim: [[1]]", "line 1: expected a value, found '['"),
    Refusal("a string that does not end", b'layer {\n  name: "a\n  top: "b"\n}', "line 2: a string does not end on its line"),
    Refusal("a string at the end of the file that does not end", b"\n\nname: 'net", "line 3: a string does not end on its line"),
    Refusal("a backslash before the last quote", rb'name: "net\"', "line 1: a string does not end on its line"),
    Refusal("a template's variable", b"layer {\n num_output: $WIDTH }", "line 2: a template with variables in it, not a prototxt: fill the variables in first"),
    Refusal("a variable in braces", b"num_output: ${WIDTH}", "line 1: a template with variables in it, not a prototxt: fill the variables in first"),
    Refusal("a variable as a field", b"\n\n$LAYERS", "line 3: a template with variables in it, not a prototxt: fill the variables in first"),
    Refusal("a variable of Python's %", b"num_output: %(width)d", "line 1: a template with variables in it, not a prototxt: fill the variables in first"),
    Refusal("a variable of Autotools", b"num_output: @WIDTH@", "line 1: a template with variables in it, not a prototxt: fill the variables in first"),
    Refusal("a NUL byte", b"name: 'net'\n\0", "line 2: expected the name of a field, found '\0'"),
    Refusal("a name with brackets around it", b"[name]: 'net'", "line 1: expected the name of a field, found '['"),
    Refusal("messages too deep in each other", b"\n" + b"a {" * (DEEPEST + 1) + b"}" * (DEEPEST + 1), "line 2: messages are nested more than 64 deep"),
    Refusal("messages so deep that recursion would end", b"a {" * 100_000, "line 1: messages are nested more than 64 deep"),
    Refusal("lists of messages too deep in each other", b"a [{" * 100_000, "line 1: messages are nested more than 64 deep"),
]  # fmt: skip


@pytest.mark.parametrize("row", SPELLINGS, ids=lambda row: row.says)
def test_wild_text_means_what_the_tidy_text_means(row: Spelling) -> None:
    net = NetParameter()
    assert fill(net, parse(row.wild)) == []
    assert net == text_format.Parse(row.tidy, NetParameter())


@pytest.mark.parametrize("row", MISFITS, ids=lambda row: row.says)
def test_what_does_not_fit_is_told_with_its_line_and_left_out(row: Misfit) -> None:
    with pytest.raises(text_format.ParseError):  # else the row would be no misfit
        text_format.Parse(row.text, LayerParameter())
    message = LayerParameter()
    assert fill(message, parse(row.text.encode())) == [row.problem]
    assert message == text_format.Parse(row.left, LayerParameter())


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.says)
def test_refused(row: Refusal) -> None:
    with pytest.raises(FormatError) as caught:
        parse(row.text)
    assert str(caught.value) == row.message


def test_messages_may_be_as_deep_as_the_limit() -> None:
    fields = parse(b"a {" * DEEPEST + b"}" * DEEPEST)
    for _ in range(DEEPEST):
        assert [field.name for field in fields] == ["a"]
        (fields,) = (field.value for field in fields)
    assert fields == []


def test_every_misfit_is_told_in_the_order_of_the_lines() -> None:
    text = b"layer {\nnmae: 'a'\nbias_param { axes: 1\naxis: x }\n}\ninput_dimm: 3"
    lines = [(problem.line, problem.text.split("'")[1]) for problem in fill(NetParameter(), parse(text))]
    assert lines == [(2, "layer.nmae"), (3, "layer.bias_param.axes"), (4, "layer.bias_param.axis"), (6, "input_dimm")]


def test_lines_are_counted_through_comments_strings_and_windows_line_ends() -> None:
    text = b'# one\r\n\r\nname: "a" # three\r\n  "b"\r\nlayer {\r\n}\r\n// seven\r\nlayer { }'
    assert [(field.name, field.line) for field in parse(text)] == [("name", 3), ("layer", 5), ("layer", 8)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (conv(f"num_output: {'9' * 5000}"), "'convolution_param.num_output' is"),
        (pool(f"pool: {'9' * 5000}"), "'pooling_param.pool' has no value"),
    ],
    ids=["integer", "enum"],
)
def test_a_number_of_thousands_of_digits_does_not_fit(text: str, words: str) -> None:
    """Python itself refuses to turn more than 4300 digits into an int."""
    (problem,) = fill(LayerParameter(), parse(text.encode()))
    assert problem.text.startswith(words)


@needs_corpus
def test_real_prototxts_are_read_as_text_format_reads_them() -> None:
    """All are read but those that are no prototxt; text_format itself refuses about a third (unknown fields, // comments)."""
    compared, different, refused = 0, [], []
    for path in sorted(CORPUS.glob("caffe*/**/*.prototxt")):
        got, name = NetParameter(), str(path.relative_to(CORPUS))
        try:
            problems = fill(got, parse(path.read_bytes()))
        except FormatError as error:
            refused.append((name, error.message))
            continue
        try:
            want = text_format.Parse(path.read_bytes().decode(), NetParameter())
        except (text_format.ParseError, UnicodeDecodeError):
            continue
        compared += 1
        if problems or got != want:
            different.append((name, problems))
    assert different == []
    assert compared > 200
    assert [(name, what) for name, what in refused if "template with variables" not in what] == []
