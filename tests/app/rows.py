"""Rows in every table of a database, whatever its schema: tables and columns are read from the database itself."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, DateTime, Engine, Float, Integer, LargeBinary, MetaData, Table

ROWS = 2
#: Of Alembic's own.
VERSIONS = "alembic_version"

#: A value for each row by the type of its column, the more special type first; all others are texts.
_VALUES: tuple[tuple[type[Any], Callable[[int], Any]], ...] = (
    (DateTime, lambda row: datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC) + timedelta(days=row)),
    (JSON, lambda row: {"text": 'é " \\ 日本', "list": [1, 2.5, None, True, {"deep": []}], "row": row}),
    (Boolean, lambda row: row == 1),
    (BigInteger, lambda row: 2**40 + row),
    (Integer, lambda row: row + 1),
    (Float, lambda row: row + 0.1),
    (LargeBinary, lambda row: bytes([0, row, 255])),
)

#: Rows by table, in the order of their keys.
Rows = dict[str, list[dict[str, Any]]]


def fill(engine: Engine, special: Mapping[str, list[Any]] | None = None) -> None:
    """Two rows in every table, the second with NULL wherever it may stand. `special`: other values, by table.column."""
    metadata = _reflected(engine)
    made: Rows = {}
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            made[table.name] = [
                {column.name: _value(table, column, row, made, special or {}) for column in table.columns}
                for row in range(ROWS)
            ]
            for values in made[table.name]:
                connection.execute(table.insert().values(values))


def read(engine: Engine) -> Rows:
    """Every row of every table."""
    metadata = _reflected(engine)
    with engine.connect() as connection:
        return {
            table.name: [
                dict(row) for row in connection.execute(table.select().order_by(*table.primary_key.columns)).mappings()
            ]
            for table in metadata.sorted_tables
        }


def _reflected(engine: Engine) -> MetaData:
    metadata = MetaData()
    metadata.reflect(engine)
    metadata.remove(metadata.tables[VERSIONS])
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type.none_as_null = True
    return metadata


def _value(table: Table, column: Column[Any], row: int, made: Rows, special: Mapping[str, list[Any]]) -> Any:
    if found := special.get(f"{table.name}.{column.name}"):
        return found[row]
    for key in column.foreign_keys:
        return made[key.column.table.name][row][key.column.name]
    if row == 1 and column.nullable:
        return None
    for kind, make in _VALUES:
        if isinstance(column.type, kind):
            return make(row)
    return f"{row}{table.name}.{column.name}"[: getattr(column.type, "length", None) or 200]
