"""Bodies of infer calls, as a client would write them."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.testclient import TestClient

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


def infer(client: TestClient, body: dict[str, Any], path: str = "fruit") -> Any:
    return client.post(f"/v2/models/{path}/infer", json=body)


def infer_binary(client: TestClient, body: dict[str, Any], data: bytes, path: str = "fruit", **headers: str) -> Any:
    """A call whose tensors follow in `data`; `headers` take the place of the right ones."""
    head = json.dumps(body).encode()
    sent = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/v2/models/{path}/infer", content=head + data, headers=sent)


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
