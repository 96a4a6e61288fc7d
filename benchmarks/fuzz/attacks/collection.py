"""All attacks."""

from benchmarks.fuzz.attacks import archives, images, objects, parquet, tables, texts
from benchmarks.fuzz.attacks.cases import Attack

ATTACKS: tuple[Attack, ...] = (
    *archives.ATTACKS,
    *images.ATTACKS,
    *tables.ATTACKS,
    *objects.ATTACKS,
    *texts.ATTACKS,
    *parquet.ATTACKS,
)
