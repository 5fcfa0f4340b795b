# SPDX-License-Identifier: Apache-2.0
"""One streaming reader for each format. All give the rows of a file in batches of about ``BATCH_BYTES``, with row
numbers as a person counts: from 1, without the header and blank lines.

**Form.** Valid UTF-8 is UTF-8. Other files are UTF-16 or UTF-32 if they begin with a byte order mark, else
Windows-1252, which is Latin-1 with curly quotes. Bytes do not distinguish the other single-byte encodings, so a file
with many letters beyond ASCII is refused. The expected delimiter is kept if it divides the first records of a CSV file
into as many fields each, at least two; else the first other delimiter that does is taken.

**CSV** is read by Arrow. Lines end at a newline, a carriage return, or both; within quotes, neither ends a line.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import one_line, shown
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses, parquet, sheets
from preprocessing.corpus.sources import File, FolderText, list_texts, strip_compression
from preprocessing.labels import AUTO, NUMBER
from preprocessing.text.cleaning import encode

BYTE_ORDER_MARK = codecs.BOM_UTF8
BATCH_BYTES = 2 << 20
MAX_RECORD_BYTES = 256 << 20
SAMPLE_BYTES = 2_000_000
"""How much of the beginning of a file tells its encoding."""
DIALECT_CHARACTERS = 1 << 18
"""How much of it tells the dialect."""
UTF8, LATIN = "utf-8", "windows-1252"
ENCODING_BY_MARK = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The longer marks first, since they begin with a shorter one."""
ADVICE_BY_SIGNATURE = {
    b"PK\x03\x04": "a zip archive or an office document; unpack it, or end its name in .zip or .xlsx",
    b"PAR1": "Parquet; end its name in .parquet",
    b"%PDF-": "a PDF; save its texts as CSV, one a row",
}
"""First bytes of files that are no text -> what they are, and what to do."""
MAX_HIGH_SHARE = 0.4
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""Symbols of Windows-1252 within a word: probably letters of a Polish or Czech encoding."""
TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
LABEL_NAME = re.compile(
    r"(.+_)?(label|class|target|sentiment|category|categories|stars?|rating|polarity|emotion|intent|topic|genre|stance|"
    r"toxic|spam|gold|y)s?(_(id|name|text|index|label))?|department|score|v1"
)
"""Usual names of columns, as ``normalize_name`` gives them."""
DELIMITERS = ",;\t|"
END_MARK = b"\xfeend\xfe"
"""Each field of a row that is added after the last one: it is missing if a quote is open."""
MISMATCH = re.compile(r"Row #(\d+): Expected \d+ columns, got (\d+)")
"""In Arrow's error for a row with too few or too many fields; the header is row 1."""
BLOCK_GROWTH = 8
"""How much larger the next block is for a row that is longer than one."""
QUOTE_SENTENCE = "a quote opens and never closes; set source.quote to '' if quotes are text"
EMPTY_SENTENCE = "the file is empty; it needs a header line and a row for each text"
FOLDER_SPLIT, PATH, LINE = "split of the folder", "path in the folder", "line of JSON"
"""Columns of a batch: of a folder, each text's split and file; of JSON, each row as written, without its line end."""
SEPARATOR = " xxsep "
"""The word between the columns of a text: a token for every tokenizer, which people can type too."""
ENCODING_HINT = "set source.encoding, or correct the row"
TEXT, BYTES = pa.large_string(), pa.large_binary()
SHEET_ROWS = 4096
"""Rows of a sheet in a batch."""
JSON = json.JSONDecoder(parse_constant=lambda _: None)
DECODER = msgspec.json.Decoder(dict[str, Any])
"""Several times as fast."""


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become rows."""

    encoding: str = UTF8
    delimiter: str = ","
    has_mark: bool = False
    """Whether it begins with the byte order mark of UTF-8."""
    recorded: dict[str, Any] = field(default_factory=dict)
    """For the manifest: what differs from the name and the configuration."""
    example: str = ""
    """A word with a letter beyond ASCII, by which the user can check the encoding."""

    def __str__(self) -> str:
        """How the file differs from UTF-8 with the expected delimiter."""
        differences = ", ".join(f"{name} {value!r}" for name, value in self.recorded.items())
        return f"{differences} (as in {self.example!r})" if self.example else differences


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a file, or some of these."""

    file: File
    numbers: np.ndarray
    """int64: the number of each row in its file, from 1."""
    table: pa.Table
    """Columns of bytes from CSV and texts a line, of the file's own types from the other formats; at least those of
    ``File.key_by_column``. Of JSON also ``LINE``, of a folder ``PATH``."""

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, mask: np.ndarray) -> Batch:
        """The rows where ``mask``, bool ``[rows]``, is true."""
        if mask.all():
            return self
        return Batch(self.file, self.numbers[mask], self.table.filter(pa.array(mask)))

    def error(self, row: int | np.integer, sentence: str) -> DataError:
        """An error in the row at this index."""
        if self.file.format == "folder":
            return DataError(f"{self.file.name.rstrip('/')}/{self.table[PATH][int(row)]}: {sentence}")
        return row_error(self.file, int(self.numbers[row]), sentence)

    def values(self, column: str | int) -> pa.Array:
        """A column, by its name or position, in its own type, without dictionaries and views. Raises ``DataError`` for
        a damaged dictionary.
        """
        values = parquet.select_column(self.table, column).combine_chunks()
        try:
            return values.cast(parquet.value_type(values.type))
        except pa.ArrowIndexError as error:
            problem = f"this row or one of the next is damaged ({one_line(error)}); restore the file"
            raise self.error(0, problem) from None

    def column(self, column: str | int) -> pa.Array:
        """A column, by its name or position, as large_string; numbers become digits. Raises ``DataError`` for the first
        value that is not UTF-8.
        """
        array = self.values(column)
        try:
            texts = array.cast(TEXT)
            texts.validate(full=True)
            return texts
        except pa.ArrowInvalid:
            for row, value in enumerate(array.cast(BYTES).to_pylist()):
                try:
                    (value or b"").decode()
                except UnicodeDecodeError as error:
                    name = self.table.field(column).name if isinstance(column, int) else column
                    raise self.error(row, f"{name!r} is not UTF-8 ({error}); {ENCODING_HINT}") from None
            raise

    def texts(self) -> pa.Array:
        """The texts, large_string: of several columns, their texts with ``SEPARATOR`` between.

        Null where all are null, empty where all are empty. Raises ``DataError`` for invalid UTF-8.
        """
        columns = [self.column(name) for name in self.file.source.text_columns]
        separator = pa.scalar(SEPARATOR, TEXT)
        texts = pc.binary_join_element_wise(*columns, separator, null_handling="replace", null_replacement="")
        return pc.if_else(pc.equal(texts, SEPARATOR * (len(columns) - 1)), pc.coalesce(*columns), texts)

    def original_columns(self) -> Iterator[tuple[str, Any]]:
        """The rows as they are in the source: of JSON ``line``, else ``column_0``, ``column_1`` and so on."""
        if self.file.format == "jsonl":
            yield "line", self.table[LINE]
            return
        for position in range(self.table.num_columns):
            is_typed = self.file.format == "parquet"
            yield f"column_{position}", self.table.column(position) if is_typed else self.column(position)


def row_error(file: File, number: int, sentence: str) -> DataError:
    """An error in the row with this number."""
    return DataError(f"{file.name}: row {number}: {sentence}")


class Reader:
    """A file whose form and columns are known, and whose rows are read once."""

    form = Form()
    class_names: Sequence[str] = ()
    """From the metadata of a Parquet file, for the numbers in its label column."""
    sha256: str | None = None
    """The hash of the stored bytes, if it was taken while all rows were read."""
    has_table = True
    """Whether all rows have the same columns."""

    def __init__(self, file: File, columns: Sequence[str]) -> None:
        self.file = file
        self.columns = list(columns)
        """All columns, in order; those of a CSV file may repeat a name. Of JSON, the keys in its first rows."""
        self.names = self.columns
        """The columns for messages, and the keys inside them."""
        self.values: dict[str, list[Any]] = {}
        """Column -> some of its values from the beginning, if these were read in place of all rows."""

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """All rows, in order, with the columns of ``File.key_by_column``, or all. Raises ``DataError``."""
        raise NotImplementedError

    def sample(self) -> dict[str, list[Any]]:
        """Column -> its values in the first batch; none for texts without columns. It is read instead of all rows."""
        if not self.has_table:
            return {}
        values = {name: list[Any]() for name in self.columns}
        for batch in itertools.islice(self.batches(keep_columns=True), 1):
            values = {name: decode_values(batch.values(at)) for at, name in enumerate(self.columns)}
        return values


def decode_values(column: pa.Array) -> list[Any]:
    """The values of a column of any type; bytes as texts."""
    if pa.types.is_large_binary(column.type):
        return [(value or b"").decode("utf-8", "replace") for value in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


class StreamReader(Reader):
    """A reader of a stream of bytes, which become UTF-8."""

    def __init__(self, file: File) -> None:
        super().__init__(file, file.source.text_columns)
        self.pieces = self.open()
        self.head = next(self.pieces)
        """The first piece."""
        self.pieces = itertools.chain([self.head], self.pieces)
        if self.form.encoding != UTF8:
            word = re.search(r"\w*[^\W\x00-\x7f]\w*", self.head[:SAMPLE_BYTES].decode("utf-8", "ignore"))
            self.form = replace(self.form, example=word[0][:30] if word else "")

    def open(self) -> Iterator[bytes]:
        """The content from its beginning, in UTF-8 without a byte order mark."""
        pieces = self.hash(self.file.stream())
        first, encoding = next(pieces, b""), self.file.source.encoding
        if encoding == AUTO:
            encoding = encoding_of(first[:SAMPLE_BYTES], self.file.name)
        recorded = {"encoding": encoding} if encoding != UTF8 else {}
        self.form = Form(encoding, has_mark=first.startswith(BYTE_ORDER_MARK), recorded=recorded)
        return convert_to_utf8(itertools.chain([first], pieces), encoding, self.file.name)

    def hash(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces; at their end ``sha256`` is set, unless they are compressed."""
        digest = hashlib.sha256()
        for chunk in pieces:
            digest.update(chunk)
            yield chunk
        if self.file.member is None and addresses.codec_of(self.file.address) is None:
            self.sha256 = digest.hexdigest()


def encoding_of(sample: bytes, name: str) -> str:
    """The encoding of a file from its first bytes. Raises ``DataError`` for bytes of an unknown encoding."""
    for signature, advice in ADVICE_BY_SIGNATURE.items():
        if sample.startswith(signature):
            raise DataError(f"{name}: holds {advice}")
    for mark, encoding in ENCODING_BY_MARK.items():
        if sample.startswith(mark):
            return encoding
    if len(sample) < 4 * sample.count(0) < 3 * len(sample):
        raise DataError(f"{name}: is binary, or UTF-16 without its mark; then set source.encoding to utf-16-le or -be")
    decoder = codecs.getincrementaldecoder(UTF8)("ignore")
    valid = decoder.decode(sample)
    num_invalid = len(sample) - len(decoder.getstate()[0]) - len(valid.encode())
    if num_invalid == 0 or 20 * sum(character > "\x7f" for character in valid) > num_invalid:
        return UTF8  # if some bytes are damaged, the reader names the first
    letters, symbols = len(re.findall(rb"[A-Za-z]", sample)), len(SYMBOL_IN_WORD.findall(sample))
    if num_invalid > MAX_HIGH_SHARE * (letters + num_invalid) or 20 * symbols > num_invalid:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def convert_to_utf8(pieces: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """A stream as UTF-8, without a byte order mark. Raises ``DataError`` for bytes that are not in the encoding."""
    decoder, num_bytes, is_first = codecs.getincrementaldecoder(encoding)(), 0, True
    for chunk in itertools.chain(pieces, [b""]):
        data = chunk
        if encoding != UTF8:
            try:
                data = decoder.decode(chunk, not chunk).encode()
            except UnicodeError as error:
                position = num_bytes + max(getattr(error, "start", 0), 0)
                problem = f"near byte {position:,} it is not {encoding} ({one_line(error)})"
                raise DataError(f"{name}: {problem}; set source.encoding to its encoding") from None
        num_bytes += len(chunk)
        yield data.removeprefix(BYTE_ORDER_MARK) if is_first else data
        is_first = False


class LineReader(StreamReader):
    """One text a line, blank lines too."""

    has_table = False

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """A column of bytes."""
        if b"\r" in self.head and b"\n" not in self.head:
            problem = "its lines end at carriage returns alone; convert them: tr '\\r' '\\n' < OLD > NEW"
            raise DataError(f"{self.file.name}: {problem}")
        for first, lines in number_lines(self.pieces, self.file):
            table = pa.table([pa.array(lines, BYTES)], self.columns)
            yield Batch(self.file, np.arange(first, first + len(lines)), table)


def number_lines(pieces: Iterable[bytes], file: File, *, skip_blank: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Lines without their ends in lists of about ``BATCH_BYTES``, each with the row number of its first line.

    Raises ``DataError`` for a line of more than ``MAX_RECORD_BYTES``.
    """
    number, lines, size, start = 1, list[bytes](), 0, b""
    for chunk in itertools.chain(pieces, [None]):
        *complete, start = [start] * bool(start) + [b""] if chunk is None else (start + chunk).split(b"\n")
        for line in complete:
            if skip_blank and not line.strip():
                continue
            lines.append(line.rstrip(b"\r"))
            size += len(line) + 1
            if size >= BATCH_BYTES:
                yield number, lines
                number, lines, size = number + len(lines), [], 0
        if len(start) > MAX_RECORD_BYTES:
            raise length_error(file, number + len(lines))
    if lines:
        yield number, lines


def length_error(file: File, number: int) -> DataError:
    """The error for a row of more than ``MAX_RECORD_BYTES``."""
    return row_error(file, number, f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text")


class CsvReader(StreamReader):
    """CSV, read by Arrow."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        source = file.source
        expected = source.delimiter or ("\t" if strip_compression(file.path).endswith(".tsv") else ",")
        lines = (self.head[:SAMPLE_BYTES] + b"\n").replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode("latin-1")
        sample = lines[: lines.rfind("\n", 0, DIALECT_CHARACTERS) + 1]
        delimiters = [expected, *(sign for sign in DELIMITERS if sign not in (source.quote, source.escape))]
        delimiter = next((sign for sign in delimiters if is_table(sample, sign, source)), expected)
        recorded = {"delimiter": delimiter} if delimiter != expected else {}
        self.form = replace(self.form, delimiter=delimiter, recorded=recorded | self.form.recorded)
        _, first_row = next(parse_records(lines, delimiter, source), (0, None))
        if first_row is None:
            raise DataError(f"{file.name}: {QUOTE_SENTENCE if lines.strip() else EMPTY_SENTENCE}")
        parquet.check_width(file.name, len(first_row))
        columns = list(source.columns)
        if file.is_unlabelled and len(columns) != len(first_row):
            columns = []  # they are those of other files
        self.has_header = not columns or is_header(first_row, source)
        try:
            header = [name.encode("latin-1").decode() for name in first_row]
        except UnicodeDecodeError as error:
            problem = f"the header cannot be read ({error}); is it text? Set source.encoding"
            raise row_error(file, 0, problem) from None
        self.columns = self.names = columns or header
        self.num_rows = 0
        """Rows that were read."""

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """Columns of bytes. A row longer than a block is read again in a larger block."""
        block_bytes = BATCH_BYTES
        while True:
            try:
                for table in self.read_blocks(block_bytes, keep_columns):
                    start = self.num_rows + 1
                    self.num_rows += len(table)
                    yield Batch(self.file, np.arange(start, start + len(table)), table)
                return
            except pa.ArrowInvalid as error:
                if mismatch := MISMATCH.search(str(error)):
                    raise self.mismatch_error(int(mismatch[1]) - self.has_header, int(mismatch[2])) from None
                if "block" not in str(error):
                    raise DataError(f"{self.file.name}: not CSV ({one_line(error)})") from None
                if block_bytes >= MAX_RECORD_BYTES:
                    raise length_error(self.file, self.num_rows + 1) from None
                block_bytes = min(BLOCK_GROWTH * block_bytes, MAX_RECORD_BYTES)
                self.pieces = self.open()

    def read_blocks(self, block_bytes: int, keep_columns: bool) -> Iterator[pa.Table]:
        """The rows after those that were read."""
        source, delimiter = self.file.source, self.form.delimiter
        positions = {str(at): name for at, name in enumerate(self.columns)}
        included = [at for at, name in positions.items() if keep_columns or name in self.file.key_by_column]
        end = b"\n" + delimiter.encode().join([END_MARK] * len(positions))
        reader = pa.csv.open_csv(
            pa.PythonFile(CsvStream(itertools.chain(self.pieces, [end])), mode="r"),
            pa.csv.ReadOptions(column_names=list(positions), use_threads=False, block_size=block_bytes),
            pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char=source.quote or False,
                escape_char=source.escape or False,
                newlines_in_values=bool(source.quote or source.escape),
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(included, BYTES), include_columns=included, strings_can_be_null=False
            ),
        )
        num_skipped, last = self.num_rows + self.has_header, None
        for record_batch in reader:
            table = pa.Table.from_batches([record_batch]).rename_columns([positions[at] for at in included])
            last = table.column(-1)[-1].as_py() if len(table) else last
            table = table.slice(0, len(table) - (last == END_MARK))
            num_skipped, table = max(0, num_skipped - len(table)), table.slice(num_skipped)
            if len(table):
                yield table
        if last != END_MARK:
            raise row_error(self.file, self.num_rows, QUOTE_SENTENCE)

    def mismatch_error(self, number: int, num_fields: int) -> DataError:
        """The error for a row with too few or too many fields."""
        problem = f"{num_fields} fields, the header has {len(self.columns)}; correct the row"
        hint = f"(a text with {self.form.delimiter!r} stands in quotes), or set source.delimiter, quote or escape"
        if num_fields < len(self.columns):
            hint += f"; perhaps {QUOTE_SENTENCE}"
        return row_error(self.file, number, f"{problem} {hint}")


def parse_records(text: str, delimiter: str, source: SourceConfig) -> Iterator[tuple[int, list[str]]]:
    """The fields of each whole record in some lines, and the number of lines up to its end; without blank lines."""
    reader = csv.reader(
        io.StringIO(f"{text}end", newline="\n"),  # an open record includes this extra line
        quoting=csv.QUOTE_MINIMAL if source.quote else csv.QUOTE_NONE,
        quotechar=source.quote or None,
        escapechar=source.escape or None,
        delimiter=delimiter,
    )
    num_lines = text.count("\n")
    with suppress(csv.Error):  # a longer field than the csv module reads
        for fields in reader:
            if reader.line_num > num_lines:
                return
            if fields:
                yield reader.line_num, fields


def is_table(text: str, delimiter: str, source: SourceConfig) -> bool:
    """Whether every record has as many fields, at least 2, and no quote stays open for most of the lines."""
    records = [(num_lines, len(fields)) for num_lines, fields in parse_records(text, delimiter, source)]
    widths = {width for _, width in records}
    is_divided = len(records) > 1 and len(widths) == 1 and widths != {1}
    return is_divided and 2 * records[-1][0] >= text.count("\n")


def normalize_name(name: str) -> str:
    """The name of a column: ``reviewText`` and ``Review Text`` are ``review_text``."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()).strip("_")


def is_header(row: Sequence[str], source: SourceConfig) -> bool:
    """Whether the first row of a file, whose columns are known, is a header: it has their names, or usual ones in the
    columns of the text and the label, and no number.
    """
    if set(row) == set(source.columns):
        return True
    cell_by_column = dict(zip(source.columns, map(normalize_name, row), strict=False))
    texts = [cell_by_column.get(column, "") for column in source.text_columns]
    label = cell_by_column.get(source.label_column, "label")
    is_usual = all(map(TEXT_NAME.fullmatch, texts)) and bool(LABEL_NAME.fullmatch(label))
    return is_usual and not any(map(NUMBER.fullmatch, row))


class CsvStream:
    """A stream that Arrow reads."""

    closed = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.buffer = pieces, bytearray()

    def read(self, size: int) -> bytes:
        """About ``size`` bytes, fewer at the end. Carriage return and newline stay together."""
        while len(self.buffer) <= size and (chunk := next(self.pieces, None)) is not None:
            self.buffer += chunk
        stop = size - (self.buffer[size - 1 : size + 1] == b"\r\n")
        data = bytes(self.buffer[:stop])
        del self.buffer[:stop]
        return data


class JsonReader(StreamReader):
    """JSON: an object a line; or one list of objects, perhaps the only one in an object."""

    has_table = False

    def __init__(self, file: File) -> None:
        super().__init__(file)
        pieces = [list_as_lines(self.pieces, file.name)] if is_one_value(self.head[:SAMPLE_BYTES]) else self.pieces
        self.lines = number_lines(pieces, file, skip_blank=True)
        first = next(self.lines, (1, list[bytes]()))
        self.lines = itertools.chain([first], self.lines)
        self.records = parse_objects(first[1], file, 1)
        """Those of the first batch."""
        self.columns = list(dict.fromkeys(key for record in self.records for key in record))
        parquet.check_width(file.name, len(self.columns))
        objects = [(key, value) for record in self.records[:1] for key, value in record.items()]
        inner = [f"{key}.{name}" for key, value in objects if isinstance(value, dict) for name in value]
        self.names = [*(key for key, _ in objects), *inner]

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """The values of the wanted columns, which are texts in the text columns, and no lists or objects."""
        for first, lines in self.lines:
            records = parse_objects(lines, self.file, first)
            for name in self.file.key_by_column:
                values = values_at(records, name)
                allowed = (
                    {str, NoneType} if name in self.file.source.text_columns else {str, NoneType, int, float, bool}
                )
                if wrong := {*map(type, values)} - allowed:
                    row, value = next((row, value) for row, value in enumerate(values) if type(value) in wrong)
                    raise row_error(self.file, first + row, f"{name!r} is {shown(value)}, expected a text")
            table = table_of_json(records, self.file.key_by_column)
            table = table.append_column(LINE, pa.array(lines, BYTES))
            yield Batch(self.file, np.arange(first, first + len(lines)), table)

    def sample(self) -> dict[str, list[Any]]:
        """The values of the first batch, lists and objects too."""
        names = dict.fromkeys([*self.columns, *self.file.key_by_column])
        return {name: values_at(self.records, name) for name in names}


def is_one_value(sample: bytes) -> bool:
    """Whether JSON may be one value, such as a list, and not an object a line: its first line is not the first of many
    values.
    """
    line, _, other_lines = sample.strip().partition(b"\n")
    try:
        JSON.decode(line.decode())
    except (ValueError, RecursionError):
        return bool(line)
    return not other_lines


def list_as_lines(pieces: Iterable[bytes], name: str) -> bytes:
    """JSON that is one value as JSON lines: a line for each element of a list, or of the only list of objects in an
    object. Other JSON is unchanged. Raises ``DataError`` for more than ``MAX_RECORD_BYTES``, and for a damaged list.
    """
    data = bytearray()
    for chunk in pieces:
        data += chunk
        if len(data) > MAX_RECORD_BYTES:
            problem = f"one value of JSON has more than {MAX_RECORD_BYTES >> 20} MiB"
            raise DataError(f"{name}: {problem}; write JSON lines, an object a line")
    try:
        value = JSON.decode(data.decode())
    except (ValueError, RecursionError) as error:
        if data.lstrip().startswith(b"["):
            raise DataError(f"{name}: not a list of JSON ({one_line(error)}); correct it") from None
        return bytes(data)
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list):
        return bytes(data)
    return b"".join(encode(json.dumps(item, ensure_ascii=False)) + b"\n" for item in value)


def parse_objects(lines: Sequence[bytes], file: File, first: int) -> list[dict[str, Any]]:
    """The objects in some lines, the first of which has the number ``first``. Raises ``DataError`` for another one."""
    try:
        return list(map(DECODER.decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # it reads neither NaN nor half a surrogate pair
        return [parse_object(line, file, number) for number, line in enumerate(lines, first)]


def parse_object(line: bytes, file: File, number: int) -> dict[str, Any]:
    """The object in a line of JSON; NaN and infinities are null. Raises ``DataError``."""
    try:
        record = JSON.decode(line.decode())
    except (ValueError, RecursionError) as error:
        hint = ENCODING_HINT if isinstance(error, UnicodeDecodeError) else "one object per line"
        raise row_error(file, number, f"not a JSON value ({one_line(error)}); {hint}") from None
    if not isinstance(record, dict):
        problem = f'a {type(record).__name__}, expected an object such as {{"text": "…"}}'
        raise row_error(file, number, problem)
    return record


def value_at(record: Mapping[str, Any], name: str) -> Any:
    """The value at a key, or at a dotted path of keys and positions in lists; None if there is none."""
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    try:
        for step in name.split("."):
            value = value[int(step) if isinstance(value, list) else step]
    except (LookupError, TypeError, ValueError):
        return None
    return value


def values_at(records: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """``value_at`` of some objects."""
    if "." not in name:
        return [record.get(name) for record in records]
    return [value_at(record, name) for record in records]


def table_of_json(records: Sequence[Mapping[str, Any]], names: Iterable[str]) -> pa.Table:
    """The values at some keys as columns of numbers or booleans, if all are; else of texts."""
    return pa.table({name: column_of_json(values_at(records, name)) for name in names})


def column_of_json(values: list[Any]) -> pa.Array:
    """One column of ``table_of_json``; lists and objects become JSON."""
    try:
        column = pa.array(values)
        if column.type in (pa.int64(), pa.float64(), pa.bool_(), pa.null(), pa.string()):
            return column.cast(TEXT) if column.type == pa.string() else column
    except (ValueError, TypeError, OverflowError):
        pass
    return pa.array(map(text_of_json, values), TEXT)


def text_of_json(value: Any) -> str | None:
    """A value of JSON as a text; lone surrogates are replaced."""
    if value is None:
        return None
    return encode(value if isinstance(value, str) else json.dumps(value)).decode()


class ParquetReader(Reader):
    """Parquet."""

    def __init__(self, file: File) -> None:
        self.footer, schema = parquet.read_footer(file.address, file.name)
        super().__init__(file, schema.names)
        self.types = parquet.column_types(schema)
        self.names = list(self.types)
        if file.source.labels == AUTO:
            self.class_names = parquet.class_names(schema, file.source.label_column)

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """Columns of the file's own types. Raises ``DataError`` for a wanted column of lists or objects, and for a text
        column of other values.
        """
        for name, key in self.file.key_by_column.items():
            kind = parquet.value_type(self.types[name])
            is_text = "string" in str(kind) or "binary" in str(kind) or pa.types.is_null(kind)
            if pa.types.is_nested(kind) or not (is_text or name not in self.file.source.text_columns):
                problem = f"column {name!r} holds {kind}, where texts are expected; set {key}"
                raise DataError(f"{self.file.name}: {problem}")
        yield from self.read_rows(self.columns if keep_columns else [*self.file.key_by_column])

    def read_rows(self, columns: Sequence[str]) -> Iterator[Batch]:
        """All rows; of structs only the fields that are named."""
        number, address = 1, self.file.address
        with addresses.naming(address, self.file.name), addresses.open_file(address) as opened:
            for table in parquet.iter_tables(opened, columns):
                yield Batch(self.file, np.arange(number, number + len(table)), table)
                number += len(table)
        if number <= self.footer.num_rows:
            problem = f"rows {number:,} to {self.footer.num_rows:,} are missing, although its footer counts them"
            raise DataError(f"{self.file.name}: {problem}: damaged; restore it")

    def sample(self) -> dict[str, list[Any]]:
        """The columns that are neither binary nor nested, which may be large."""
        names = [name for name in [*self.columns, *self.file.key_by_column] if name in self.types]
        values = {name: list[Any]() for name in names if not parquet.is_heavy(self.types[name])}
        for batch in itertools.islice(self.read_rows(list(values)), 1):
            for name in values:
                with suppress(UnicodeDecodeError):  # the rows are named when they are read
                    values[name] = parquet.values_of(batch.values(name))
        return values


class SheetReader(Reader):
    """A sheet of Excel."""

    def __init__(self, file: File) -> None:
        self.rows = sheets.iter_rows(file.address, file.name, file.source.sheet)
        (title,), *headers = self.read_rows(2)
        if not headers:
            raise DataError(f"{file.name}: {EMPTY_SENTENCE}")
        (header,) = headers
        if file.source.columns and not is_header(header, file.source):
            self.rows = itertools.chain([header], self.rows)
        super().__init__(file, file.source.columns or header)
        parquet.check_width(file.name, len(self.columns))
        self.form = Form(recorded={"sheet": title} if title else {})

    def read_rows(self, num_rows: int) -> list[list[str]]:
        """The next rows, without openpyxl's warnings on what it does not read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return list(itertools.islice(self.rows, num_rows))

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """Columns of texts."""
        number, width = 1, len(self.columns)
        while rows := self.read_rows(SHEET_ROWS):
            for row, cells in enumerate(rows):
                if len(cells) != width:
                    problem = f"{len(cells)} fields, the header has {width}; name all in source.columns"
                    raise row_error(self.file, number + row, problem)
            table = pa.table([pa.array(cells, TEXT) for cells in zip(*rows, strict=True)], self.columns)
            yield Batch(self.file, np.arange(number, number + len(rows)), table)
            number += len(rows)


class FolderReader(Reader):
    """A folder of texts, a file each."""

    has_table = False

    def __init__(self, file: File) -> None:
        names = dict.fromkeys(("text", "label", *file.source.text_columns, file.source.label_column))
        super().__init__(file, [name for name in names if name != AUTO])

    def batches(self, keep_columns: bool = False) -> Iterator[Batch]:
        """The text, its label, empty if it has none, its split and path."""
        source, texts = self.file.source, list_texts(self.file)
        schema = pa.schema([(name, TEXT) for name in (source.text_columns[0], source.label_column, FOLDER_SPLIT, PATH)])
        blocks = np.cumsum([text.bytes for text in texts]) // BATCH_BYTES
        for start, stop in itertools.pairwise([0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(texts)]):
            rows = []
            for text in texts[start:stop]:
                content = read_text(text, source.encoding)
                rows.append((content, text.label, self.file.split or text.split, text.path))
            table = pa.table(list(map(pa.array, zip(*rows, strict=True))), schema=schema)
            yield Batch(self.file, np.arange(start + 1, stop + 1), table)


def read_text(text: FolderText, encoding: str) -> str:
    """The content of a text file, without a byte order mark. Raises ``DataError`` for invalid bytes."""
    content = addresses.read_range(text.address, 0, text.bytes)
    if encoding == AUTO:
        encoding = encoding_of(content, text.address)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        problem = f"it is not {encoding} ({one_line(error)})"
        raise DataError(f"{text.address}: {problem}; set source.encoding to its encoding") from None


def open_reader(file: File) -> Reader:
    """The reader for a file, which has looked at its beginning.

    Raises ``DataError`` for an unknown encoding, a file without columns, and a damaged one.
    """
    if file.format in ("folder", "txt") and len(file.source.text_columns) > 1:
        raise DataError(f"{file.name}: holds texts without columns; leave out source.text_column")
    readers: dict[str, Callable[[File], Reader]] = {
        "csv": CsvReader,
        "jsonl": JsonReader,
        "txt": LineReader,
        "parquet": ParquetReader,
        "xlsx": SheetReader,
        "folder": FolderReader,
    }
    return readers[file.format](file)
