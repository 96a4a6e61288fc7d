"""CSV files without end, with too much of everything, and with rows that do not add up."""

from collections.abc import Mapping

from benchmarks.fuzz.attacks.cases import Attack, Make

_NAME = "data.csv"
_MANY = 200_001


def _whole(title: str, code: str, make: Make, *, form: Mapping[str, str] | None = None, **more: bool | str) -> Attack:
    """A file that is refused before its rows are looked at."""
    return Attack(f"CSV: {title}", make, code, _NAME, form=form or {}, **more)  # type: ignore[arg-type]


def _row(
    title: str, code: str, data: bytes, row: int, column: str | None = None, *, form: Mapping[str, str] | None = None
) -> Attack:
    return Attack(f"CSV: {title}", lambda: data, code, _NAME, row=row, column=column, form=form or {})


def _columns(n: int) -> bytes:
    return b",".join(b"c%d" % i for i in range(n)) + b"\n"


_TEXTS = b"text,label\none two three,a\nfour five six,b\n"

ENDLESS = (
    _whole("a line of 200 MB", "record_too_long", lambda: b"text,label\n" + b"x" * 200_000_000, is_heavy=True),
    _whole("a line of 20 MB", "record_too_long", lambda: b"text,label\n" + b"x" * 20_000_000, is_heavy=True),
    _whole("a quote that never ends", "record_too_long", lambda: b'text,label\n"' + b"x\n" * 10_000_000),
    _whole("a quote over 120,000 lines", "record_too_long", lambda: b'text,label\n"' + b"\n" * 120_000 + b'",a\n'),
    _whole("a header of 20 MB", "record_too_long", lambda: b"x," * 10_000_000, is_heavy=True),
    _whole("a header that is a quote of 20 MB", "record_too_long", lambda: b'"' + b"x" * 20_000_000, is_heavy=True),
    _whole("carriage returns alone, 20 MB", "too_many_blank_lines", lambda: b"a,label\n" + b"\r" * 20_000_000),
    _whole("line breaks alone, 250,000", "too_many_blank_lines", lambda: b"\n" * 250_000),
    _whole("line breaks alone, 400 MB", "too_many_blank_lines", lambda: b"\n" * 400_000_000, is_heavy=True),
    _whole("blanks alone, 250,000 lines", "too_many_blank_lines", lambda: b"a,label\n" + b" \n" * 250_000),
    _whole("100,000 columns", "too_many_columns", lambda: _columns(100_000)),
    _whole("2,001 columns", "too_many_columns", lambda: _columns(2_001)),
    _whole("a million columns of no name", "too_many_columns", lambda: b"," * 1_000_000 + b"\n1\n"),
    _whole("200,001 rows", "too_many_examples", lambda: b"a,label\n" + b"1,x\n2,y\n" * (_MANY // 2 + 1), is_heavy=True),
    _whole("200,001 bad rows", "too_many_examples", lambda: b"a,label\n" + b"x\n" * _MANY),
    _whole("100 million bad rows", "too_many_examples", lambda: b"a,label\n" + b"x\n" * 10**8, is_heavy=True),
    _whole("1,001 classes", "too_many_classes",
           lambda: b"a,label\n" + b"".join(b"%d,c%d\n" % (i, i) for i in range(1_001))),
    _whole("ten million bad cells", "bad_characters",
           lambda: _columns(500) + (b"\0," * 499 + b"x\n") * 20_000, is_heavy=True, form={"label_column": "c499"}),
)  # fmt: skip

HEADERS = (
    _whole("empty file", "empty_file", lambda: b""),
    _whole("blank file", "empty_file", lambda: b"\n\r\n  \n"),
    _whole("header alone", "no_rows", lambda: b"text,label\n"),
    _whole("numbers for a header", "no_header", lambda: b"1,2,3\n4,5,6\n"),
    _whole("one column", "no_input_column", lambda: b"label\na\nb\n"),
    _whole("an unclosed quote in the header", "bad_header", lambda: b'text,"label\n'),
    _whole("no name for a column", "unnamed_column", lambda: b"text,,label\na,b,c\n"),
    _whole("a column name of 501 letters", "column_name_too_long", lambda: b"c" * 501 + b",label\n1,a\n"),
    _whole("no column that is the label", "label_column_unclear", lambda: b"a,b,c\n1,2,3.5\n6,7,8.5\n"),
    Attack("CSV: a column twice", lambda: b"a,a,label\n1,2,x\n", "repeated_column", _NAME, column="a"),
    Attack("CSV: a column twice but for blanks", lambda: b"a, a ,label\n1,2,x\n", "repeated_column", _NAME, column="a"),
    Attack("CSV: the label for an input", lambda: _TEXTS, "label_is_input", _NAME, column="label",
           form={"label_column": "label", "input_columns": "label"}),
    Attack("CSV: a label column that is not there", lambda: _TEXTS, "unknown_column", _NAME, entry="/label_column",
           form={"label_column": "../etc/passwd"}),
    Attack("CSV: an input column that is not there", lambda: _TEXTS, "unknown_column", _NAME, entry="/input_columns",
           form={"input_columns": '["text", "\u202etxet"]'}),
    _whole("texts called pictures", "modality", lambda: _TEXTS, form={"modality": "image"}),
)  # fmt: skip

ROWS = (
    _row("too few fields", "wrong_number_of_fields", _TEXTS + b"alone\n", 3),
    _row("too many fields", "wrong_number_of_fields", _TEXTS + b"one,too,many\n", 3),
    _row("too many fields by a million", "wrong_number_of_fields", _TEXTS + b"," * 1_000_000 + b"\n", 3),
    _row("letters after a quote", "bad_quotes", _TEXTS + b'a,"b"c\n', 3),
    _row("a quote that ends with the file", "bad_quotes", _TEXTS + b'a,"b\n', 3),
    _row("no label", "empty_label", _TEXTS + b"seven eight,\n", 3, "label"),
    _row("a blank label", "empty_label", _TEXTS + b"seven eight,  \n", 3, "label"),
    _row("NaN for a label", "empty_label", _TEXTS + b"seven eight,NaN\n", 3, "label"),
    _row("a label of 501 letters", "label_too_long", _TEXTS + b"seven eight," + b"x" * 501 + b"\n", 3, "label"),
    _row("no text", "empty_text", _TEXTS + b" ,a\n", 3, "text", form={"modality": "text"}),
    _row("a text of 100,001 letters", "text_too_long", _TEXTS + b"x" * 100_001 + b",a\n", 3, "text"),
    _row("a number of 5,000 digits", "number_out_of_range", b"a,label\n" + b"9" * 5_000 + b",x\n1,y\n", 1, "a"),
    _row("an exponent of 999", "number_out_of_range", b"a,label\n1,x\n1e999,y\n", 2, "a"),
    _row("an exponent of 30 digits", "number_out_of_range", b"a,label\n1,x\n1e" + b"9" * 30 + b",y\n", 2, "a"),
    _row("infinity", "number_out_of_range", b"a,label\n1,x\n-Infinity,y\n", 2, "a"),
    _row("an infinite label", "number_out_of_range", b"a,y\n1,2.5\n2,inf\n", 2, "y", form={"task": "regression"}),
    _row("a label beyond 32 bits", "number_out_of_range", b"a,y\n1,2.5\n2,1e39\n", 2, "y", form={"task": "regression"}),
    _row("a name for a number", "not_a_number", b"a,y\n1,2.5\n2,high\n", 2, "y", form={"task": "regression"}),
    _row("a number in hexadecimal", "not_a_number", b"a,y\n1,2.5\n2,0x10\n", 2, "y", form={"task": "regression"}),
    _row("a number with underscores", "not_a_number", b"a,y\n1,2.5\n2,1_0\n", 2, "y", form={"task": "regression"}),
)

ATTACKS = (*ENDLESS, *HEADERS, *ROWS)
