"""Croissant 1.0 metadata (http://mlcommons.org/croissant/1.0): shards with their sha256, columns with their types.

Columns whose values are lists of structures (messages, code blocks) are in the shards, but not described: no field of
Croissant 1.0 has such a value of Parquet, and `mlcroissant` would refuse to read the rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ibidem.artifacts import File
from ibidem.data import shards

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def described(
    *,
    name: str,
    description: str,
    licenses: Sequence[str],
    version: str,
    identifier: str,
    files: Mapping[str, File],
    schema: pa.Schema,
) -> dict[str, Any]:
    """Return the metadata of Parquet shards as JSON-LD; file names are relative to the folder of the metadata.

    Args:
        name: of the dataset.
        description: of the dataset.
        licenses: SPDX expressions.
        version: of the program that made it.
        identifier: its digest.
        files: its shards.
        schema: their columns.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "license": licenses,
        "version": version,
        "identifier": identifier,
        "distribution": _distribution(files),
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "documents",
                "name": "documents",
                "field": [_field(column) for column in schema if not pa.types.is_nested(column.type)],
            }
        ],
    }


def _distribution(files: Mapping[str, File]) -> list[dict[str, Any]]:
    distribution: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": shard,
            "name": shard,
            "contentUrl": shard,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": file.sha256,
        }
        for shard, file in files.items()
    ]
    distribution.append(
        {
            "@type": "cr:FileSet",
            "@id": "shards",
            "name": "shards",
            "encodingFormat": "application/x-parquet",
            "includes": f"**/{shards.SHARDS}",
        }
    )
    return distribution


def _field(column: pa.Field) -> dict[str, Any]:
    is_number = {"sc:Integer": pa.types.is_integer, "sc:Float": pa.types.is_floating}
    kind = next((name for name, matches in is_number.items() if matches(column.type)), "sc:Text")
    return {
        "@type": "cr:Field",
        "@id": f"documents/{column.name}",
        "name": column.name,
        "dataType": kind,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
    }
