"""Honest files for uploads."""

from benchmarks.fuzz.attacks.building import parquet_of, png, two_classes, zip_of

__all__ = ["CSV", "parquet_of", "png", "two_classes", "zip_of"]

CSV = b"text,label\nI like this film a lot,positive\nwhat a waste of time,negative\nreally quite good fun,positive\n"
