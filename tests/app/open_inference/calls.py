"""Bodies of infer calls, as a client would write them."""

import json
from collections.abc import Sequence
from typing import Any

SIZES, COLOURS = [1.4, 9.1, 1.1], ["red", "blue", "red"]
HEADER_LENGTH = "Inference-Header-Content-Length"


def tensor(name: str, datatype: str, data: Sequence[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)} | more


def binary(name: str, datatype: str, shape: list[int], size: int, **more: Any) -> dict[str, Any]:
    """The head of a tensor whose `size` bytes follow the JSON object."""
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size} | more}


def fruit(**more: Any) -> dict[str, Any]:
    """Three rows for the model that `tests.app.adapted.publish` makes of its table: small, big, small."""
    return {"inputs": [tensor("size", "FP64", SIZES), tensor("colour", "BYTES", COLOURS)]} | more


def infer(client: Any, body: dict[str, Any], path: str = "fruit") -> Any:
    return client.post(f"/v2/models/{path}/infer", json=body)


def infer_binary(client: Any, body: dict[str, Any], data: bytes, path: str = "fruit", length: Any = None) -> Any:
    """A call whose tensors follow in `data`; `length` takes the place of the right length of the JSON object."""
    head = json.dumps(body).encode()
    told = str(len(head)) if length is None else length
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: told}
    return client.post(f"/v2/models/{path}/infer", content=head + data, headers=headers)


def outputs(answer: Any) -> dict[str, Any]:
    """The data of a JSON answer, by the name of the tensor."""
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["data"] for each in answer.json()["outputs"]}


def problem(answer: Any) -> tuple[str, str]:
    """Code and pointer of the first thing that is wrong; the body is what both kinds of clients read."""
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["error"] == told["detail"]
    first = told["errors"][0]
    return str(first["code"]), str(first["pointer"])
