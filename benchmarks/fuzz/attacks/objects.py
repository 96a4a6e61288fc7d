"""JSON lines that are deep, wide, broken, or something else than objects of plain values."""

from benchmarks.fuzz.attacks.cases import Attack, Make

_NAME = "data.jsonl"
_GOOD = b'{"text": "one two three", "label": "a"}\n{"text": "four five six", "label": "b"}\n'


def _whole(title: str, code: str, make: Make, *, is_heavy: bool = False, column: str | None = None) -> Attack:
    return Attack(f"JSONL: {title}", make, code, _NAME, is_heavy=is_heavy, column=column)


def _third(title: str, line: bytes, code: str = "bad_json", column: str | None = None) -> Attack:
    """Two good lines and a bad one."""
    return Attack(f"JSONL: {title}", lambda: _GOOD + line + b"\n", code, _NAME, row=3, column=column)


def _keys(first: int, last: int) -> bytes:
    return b"{" + b",".join(b'"%d":1' % i for i in range(first, last)) + b"}\n"


ENDLESS = (
    _whole("an object of 20 MB", "record_too_long", lambda: b'{"text": "' + b"x" * 20_000_000),
    _whole("an object of 200 MB", "record_too_long", lambda: b'{"text": "' + b"x" * 200_000_000, is_heavy=True),
    _whole("100,000 keys", "too_many_columns", lambda: _keys(0, 100_000)),
    _whole("a new key in each of 3,000 lines", "too_many_columns",
           lambda: b"".join(_keys(i, i + 1) for i in range(3_000))),
    _whole("200,001 lines", "too_many_examples", lambda: b'{"a":1,"label":2}\n' * 200_001, is_heavy=True),
    _whole("200,001 bad lines", "too_many_examples", lambda: b"x\n" * 200_001, is_heavy=True),
    _whole("100 million bad lines", "too_many_examples", lambda: b"x\n" * 10**8, is_heavy=True),
    _whole("blank lines alone", "too_many_blank_lines", lambda: b"\n" * 250_000),
    _third("objects 50,000 deep", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    _third("lists 100,000 deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    _third("a million open brackets", b'{"a":' + b"[" * 1_000_000),
    _third("a text of 100,001 letters", b'{"text":"' + b"x" * 100_001 + b'","label":"a"}', "text_too_long", "text"),
)  # fmt: skip

BROKEN = (
    _third("cut off", b'{"text": "broken'),
    _third("a comma at the end", b'{"text": "x", "label": "a",}'),
    _third("single quotes", b"{'text': 'x', 'label': 'a'}"),
    _third("names without quotes", b'{text: "x", label: "a"}'),
    _third("a comment", b'{"text": "x", "label": "a"} // so it is'),
    _third("two objects", b'{"text": "x", "label": "a"} {"text": "y", "label": "b"}'),
    _third("a key twice", b'{"text": "x", "text": "y", "label": "a"}'),
    _third("a key twice, once in codes", b'{"text": "x", "t\\u0065xt": "y", "label": "a"}'),
    _third("NaN", b'{"text": "x", "label": NaN}'),
    _third("Infinity", b'{"text": "x", "label": -Infinity}'),
    _third("a number with a leading zero", b'{"text": "x", "label": 01}'),
    _third("an escape that is none", b'{"text": "\\x41", "label": "a"}'),
    _third("a code of three digits", b'{"text": "\\u004", "label": "a"}'),
    _third("a mark inside", b'\xef\xbb\xbf{"text": "x", "label": "a"}'),
    _third("a list", b'["x", "a"]'),
    _third("a text", b'"x"'),
    _third("a number", b"1e5"),
    _third("null", b"null"),
    _third("an empty list in a million blanks", b" " * 1_000_000 + b"[]"),
    Attack(
        "JSONL: printed over several lines", lambda: b'{\n"text": "x",\n"label": "a"\n}\n', "bad_json", _NAME, row=1
    ),
    _whole("one array", "json_array", lambda: b'[{"text": "a"}]'),
    _whole("one array after blanks", "json_array", lambda: b" \n\t[1, 2]"),
    _whole("an array 100,000 deep", "json_array", lambda: b"[" * 100_000),
)

VALUES = (
    _third("a list for a text", b'{"text": ["x"], "label": "a"}', "nested_value", "text"),
    _third("an object for a text", b'{"text": {"en": "x"}, "label": "a"}', "nested_value", "text"),
    _third("an object for a label", b'{"text": "x", "label": {"a": 1}}', "nested_value", "label"),
    _third("a list in a column of its own", b'{"text": "x", "label": "a", "more": []}', "nested_value", "more"),
    _third("no label", b'{"text": "x y z"}', "empty_label", "label"),
    _third("null for a label", b'{"text": "x y z", "label": null}', "empty_label", "label"),
    _third("no text", b'{"label": "a"}', "empty_text", "text"),
    _third("an object of nothing", b"{}", "empty_label", "label"),
    _third("a label of 501 letters", b'{"text":"x","label":"' + b"y" * 501 + b'"}', "label_too_long", "label"),
    Attack("JSONL: a number of 5,000 digits", lambda: b'{"a":1,"label":"x"}\n{"a":' + b"9" * 5_000 + b',"label":"y"}\n',
           "number_out_of_range", _NAME, row=2, column="a"),
    Attack("JSONL: an exponent of 999", lambda: b'{"a":1,"label":"x"}\n{"a":-1e999,"label":"y"}\n',
           "number_out_of_range", _NAME, row=2, column="a"),
    _whole("objects of nothing alone", "no_input_column", lambda: b"{}\n{}\n"),
    _whole("a key without a name", "unnamed_column", lambda: b'{"": 1, "label": "a"}\n'),
    _whole("a key of blanks", "unnamed_column", lambda: b'{" \\t": 1, "label": "a"}\n'),
    _whole("a key of 501 letters", "column_name_too_long", lambda: b'{"' + b"k" * 501 + b'": 1, "label": "a"}\n'),
    _whole("keys that differ in blanks", "repeated_column", lambda: b'{"a": 1, " a": 2, "label": "x"}\n', column="a"),
)  # fmt: skip

ATTACKS = (*ENDLESS, *BROKEN, *VALUES)
